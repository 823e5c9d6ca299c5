//! What an upstream says to a request, head by head.

use super::body::Body;
use super::head::ResponseHead;
use super::upgrade::Upgraded;

/// The next head from an upstream.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A 1xx head, to be relayed. More follows.
    Interim(ResponseHead),
    /// The last head, and what follows it.
    Final(ResponseHead, Payload),
}

/// What follows a final head.
#[derive(Debug)]
pub(crate) enum Payload {
    /// The body of a response.
    Body(Body),
    /// The tunnel that was asked for: the head is a 101, or a 2xx to CONNECT.
    Tunnel(Upgraded),
}
