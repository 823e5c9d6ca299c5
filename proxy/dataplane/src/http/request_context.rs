//! What the stages of one request share: each reads and changes it in turn.

use super::downstream::Downstream;
use super::journal::Journal;
use super::trace_context::Trace;
use crate::codec::body::Body;
use crate::codec::head::RequestHead;
use crate::codec::server::Responder;

/// One request, while it is handled.
#[derive(Debug)]
pub(super) struct RequestContext<'a> {
    /// The connection that it came on.
    pub(super) on: &'a Downstream,
    /// Its head: as it came, and then as upstreams get it.
    pub(super) head: RequestHead,
    /// Its body. Empty once it is being forwarded.
    pub(super) body: Body,
    /// Its place in a trace.
    pub(super) trace: Trace,
    /// Whether its client reads `grpc-status` and no HTTP status.
    pub(super) grpc: bool,
    /// Its record.
    pub(super) journal: Journal,
    /// Takes the answer.
    pub(super) responder: Responder,
}
