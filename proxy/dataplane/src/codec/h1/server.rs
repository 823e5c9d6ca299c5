//! The server side of HTTP/1.

use http::Version;

#[derive(Debug)]
pub(crate) struct Responder {}

impl Responder {
    pub(crate) fn version(&self) -> Version {
        Version::HTTP_11
    }
}
