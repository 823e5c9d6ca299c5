//! Accepted connections, up to the protocol that is spoken on them.

mod detect;
