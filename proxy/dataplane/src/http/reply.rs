//! The reply to a request, and the guard that is held until the response is complete.

use std::rc::Rc;
use std::task::Waker;

use http::HeaderMap;
use outrigger_core::error::Failure;
use outrigger_policy::blame::{self, Freshness};
use outrigger_policy::outlier::Outcome;
use outrigger_policy::retry_budget::RetryPermit;

use super::time_limit::TimeLimit;
use crate::capacity::Debt;
use crate::codec::body::Body;
use crate::codec::head::ResponseHead;
use crate::codec::upgrade::Upgraded;
use crate::upstream::bounds::RequestPermit;
use crate::upstream::cluster::Cluster;
use crate::upstream::host::{Host, HostAttempt};
use crate::upstream::pool::Exchange;

/// The reply to a request.
#[derive(Debug)]
pub(super) enum Reply {
    /// A response to be relayed, or one that this proxy makes itself.
    Response(ResponseHead, Body, Option<ResponseGuard>),
    /// A tunnel to be relayed.
    Tunnel(ResponseHead, Upgraded, ResponseGuard),
}

/// What a forwarded request holds until its response is complete.
#[derive(Debug)]
pub(super) struct ResponseGuard {
    /// How long it may go on.
    pub(super) limit: TimeLimit,
    pub(super) cluster: Rc<Cluster>,
    pub(super) host: Rc<Host>,
    pub(super) permit: RequestPermit,
    pub(super) asking: HostAttempt,
    pub(super) _retrying: Option<RetryPermit>,
    pub(super) _exchange: Exchange,
}

impl Reply {
    /// The fields that the client will see.
    pub(super) fn headers(&mut self) -> &mut HeaderMap {
        let (Self::Response(head, ..) | Self::Tunnel(head, ..)) = self;
        &mut head.headers
    }
}

impl ResponseGuard {
    /// Lists the request as one whose client reads nothing of its response, until the returned value is dropped.
    pub(super) fn owes(&self, waker: &Waker) -> Debt {
        self.permit.peer.owes(waker)
    }

    /// Records that the response broke off after its head was relayed.
    pub(super) fn broke_off(&self, failure: &Failure) {
        self.failed_late(blame::failed(failure, Freshness::Fresh).outcome);
    }

    /// Records the gRPC status in the trailers of a complete response.
    pub(super) fn ended(&self, grpc_status: u8) {
        self.failed_late(blame::answered(200, Some(grpc_status), None));
    }

    fn failed_late(&self, outcome: Option<Outcome>) {
        if let Some(outcome) = outcome.filter(|outcome| outcome.is_failure()) {
            self.asking.failed();
            self.cluster.observe_late(&self.host, outcome);
        }
    }
}
