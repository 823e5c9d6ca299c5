//! Fields of one hop only: taken out where a message comes in, written anew where it goes out (RFC 9110 section 7.6.1).
