//! What the stages of one request share: each reads and changes it in turn.

use std::borrow::Cow;

use outrigger_core::explanation::FailedRequest;
use outrigger_policy::verdict::{NamedClaims, ResponseChanges};

use super::downstream::{Downstream, requested_name};
use super::forwarded::REQUEST_ID;
use super::journal::Journal;
use super::trace_context::Trace;
use crate::codec::body::Body;
use crate::codec::head::RequestHead;
use crate::codec::server::Responder;
use crate::context::PASSTHROUGH_CLUSTER;

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
    /// The claims of its verified tokens.
    pub(super) claims: Box<[NamedClaims]>,
    /// What the filters that it passed do to its response.
    pub(super) response_changes: ResponseChanges,
    /// Its record.
    pub(super) journal: Journal,
    /// Takes the answer.
    pub(super) responder: Responder,
}

/// What a client may read about a request that failed: the destination as far as it was found, else as it was requested.
pub(super) fn failed_request<'a>(head: &'a RequestHead, journal: &'a Journal) -> FailedRequest<'a> {
    let found = journal.destination().filter(|name| *name != PASSTHROUGH_CLUSTER).map(Cow::Borrowed);
    FailedRequest {
        method: head.method.as_str(),
        path: head.path.path(),
        destination: found.or_else(|| requested_name(head).ok()),
        request_id: head.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default(),
    }
}
