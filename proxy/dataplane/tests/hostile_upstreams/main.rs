//! The cases of h2spec, for the client side: an HTTP/2 application that breaks each rule of RFC 9113 and RFC 7541, as raw frames
//! over a loopback socket behind a real worker. Each row of a table names the section of the rule, what our side must write because of
//! it, and what the client of the request must get. A second request on the same connection shows that an error of a stream ends no
//! other one.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod accepted;
mod goaway;
mod no_http2;
mod flood;
mod violations;
mod messages;
mod row;
#[path = "../support/mod.rs"]
mod support;
