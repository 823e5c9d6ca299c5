//! What an upstream says to a request, head by head.

use http::HeaderMap;

use super::body::Body;
use super::head::ResponseHead;
use super::upgrade::Upgraded;

/// What the upstream said.
#[derive(Debug)]
pub enum Answer {
    /// A 1xx head, to be relayed. More follows.
    Interim(ResponseHead),
    /// The response.
    Final(ResponseHead, Body),
    /// The tunnel that was asked for: a 101, or a 2xx to CONNECT.
    Switched(ResponseHead, Upgraded),
}

impl Answer {
    /// The fields of its head.
    pub(crate) fn headers(&mut self) -> &mut HeaderMap {
        let (Self::Interim(head) | Self::Final(head, _) | Self::Switched(head, _)) = self;
        &mut head.headers
    }
}
