//! The heads that an upstream sends for a request.

use super::body::Body;
use super::head::ResponseHead;
use super::upgrade::Upgraded;

/// A head from an upstream.
#[derive(Debug)]
pub(crate) enum Answer {
    /// An interim (1xx) head, to be relayed. More heads follow.
    Interim(ResponseHead),
    /// The final head and what follows it.
    Final(ResponseHead, Payload),
}

/// What follows a final head.
#[derive(Debug)]
pub(crate) enum Payload {
    /// The body of a response.
    Body(Body),
    /// The tunnel that was requested: the head is a 101, or a 2xx for CONNECT.
    Tunnel(Upgraded),
}
