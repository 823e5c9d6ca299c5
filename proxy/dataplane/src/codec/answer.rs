//! What an upstream says to a request, head by head.

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
