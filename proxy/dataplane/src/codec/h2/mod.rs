//! HTTP/2 (RFC 9113), by the h2 crate.

pub(crate) mod client;
pub(crate) mod server;

pub(crate) use server::Responder;
