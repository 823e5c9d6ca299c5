//! HTTP/1.1 and HTTP/1.0 (RFC 9112).

pub(crate) mod client;
pub(crate) mod server;

pub(crate) use server::Responder;
