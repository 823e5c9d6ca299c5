//! The server side of HTTP/2.

#[derive(Debug)]
pub(crate) struct Responder {}
