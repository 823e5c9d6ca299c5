//! Faults that are injected to test what a service does when another one is slow or fails
//! (`envoy.extensions.filters.http.fault.v3.HTTPFault`).
//!
//! A delayed request waits before it is forwarded, an aborted one is answered here, and the body of a response is paced by the data
//! path. Health checks of the proxy pass no filter, so that faults never make an endpoint unhealthy.

mod active;
#[cfg(test)]
mod tests;

use std::num::NonZeroU64;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use outrigger_core::grpc;
use outrigger_core::percentage::Percentage;
use outrigger_core::reason::Reason;
use outrigger_proto::xds::{common_fault, fault, types};

use crate::field::{self, Unusable, each, unsupported_any};
use crate::header_match::{Head, HeaderMatcher};
use crate::verdict::{FilterRequest, Refusal, ResponseChanges, Verdict};
use active::{Limit, LimitReached};

/// The faults that some requests get.
#[derive(Debug, Clone)]
pub struct Fault {
    delay: Option<(Delay, Share)>,
    abort: Option<(Abort, Share)>,
    bandwidth: Option<(Bandwidth, Share)>,
    active: Limit,
    cluster: Option<Box<str>>,
    headers: Box<[HeaderMatcher]>,
}

#[derive(Debug, Clone, Copy)]
enum Delay {
    Fixed(Duration),
    /// As many milliseconds as the client requests (`header_delay`).
    Requested,
}

#[derive(Debug, Clone, Copy)]
enum Abort {
    With(Refusal),
    /// The status that the client requests (`header_abort`).
    Requested,
}

/// How fast the body of a response passes.
#[derive(Debug, Clone, Copy)]
enum Bandwidth {
    /// In bytes per second.
    Fixed(NonZeroU64),
    /// As many KiB per second as the client requests (`header_limit`).
    Requested,
}

const DELAY: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
const DELAY_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request-percentage");
const ABORT: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
const ABORT_GRPC: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
const ABORT_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request-percentage");
const BANDWIDTH: HeaderName = HeaderName::from_static("x-envoy-fault-throughput-response");
const BANDWIDTH_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-throughput-response-percentage");

impl Fault {
    /// Decodes the faults.
    pub fn decode(wire: fault::HttpFault) -> Result<Self, Unusable> {
        let fault::HttpFault {
            delay,
            abort,
            upstream_cluster,
            headers,
            downstream_nodes,
            max_active_faults,
            response_rate_limit,
            // Keys of the runtime layer, which does not exist here.
            delay_percent_runtime: _,
            abort_percent_runtime: _,
            delay_duration_runtime: _,
            abort_http_status_runtime: _,
            max_active_faults_runtime: _,
            response_rate_limit_percent_runtime: _,
            abort_grpc_status_runtime: _,
            disable_downstream_cluster_stats: _, // there are no such statistics
            filter_metadata: _,                  // for other filters; ours read none
        } = wire;
        unsupported_any(&[("downstream_nodes", !downstream_nodes.is_empty())])?;
        let bandwidth = response_rate_limit.map(decode_bandwidth).transpose();
        Ok(Self {
            delay: delay.map(|wire| decode_delay(wire).map_err(|bad| bad.within("delay"))).transpose()?,
            abort: abort.map(|wire| decode_abort(wire).map_err(|bad| bad.within("abort"))).transpose()?,
            bandwidth: bandwidth.map_err(|bad| bad.within("response_rate_limit"))?,
            active: Limit::new(field::number(max_active_faults)),
            cluster: Some(upstream_cluster).filter(|name| !name.is_empty()).map(Into::into),
            headers: each("headers", headers, HeaderMatcher::decode)?.into(),
        })
    }

    /// Decides about a request. The shares of delayed, of aborted and of paced requests are independent. Adds to `changes` what
    /// happens to the response, and that the fault is active until the response is complete.
    pub fn decide(&self, request: &FilterRequest<'_>, changes: &mut ResponseChanges) -> Verdict {
        let of_cluster = self.cluster.as_deref().is_none_or(|name| request.cluster == Some(name));
        if !of_cluster || !self.headers.iter().all(|matcher| matcher.matches(&request.head)) {
            return Verdict::Admit;
        }
        let abort = self.abort.and_then(|(abort, share)| {
            let refusal = abort.of(&request.head)?;
            share.holds(number(&request.head, &ABORT_SHARE), request).then_some(refusal)
        });
        let delay = self.delay.and_then(|(delay, share)| {
            let time = delay.of(&request.head)?;
            share.holds(number(&request.head, &DELAY_SHARE), request).then_some(time)
        });
        let bandwidth = self.bandwidth.and_then(|(bandwidth, share)| {
            let bytes = bandwidth.of(&request.head)?;
            share.holds(number(&request.head, &BANDWIDTH_SHARE), request).then_some(bytes)
        });
        if abort.is_none() && delay.is_none() && bandwidth.is_none() {
            return Verdict::Admit;
        }
        // As in Envoy, the faults of one request count once.
        match self.active.begin() {
            Err(LimitReached) => return Verdict::Admit,
            Ok(active) => active.into_iter().for_each(|active| changes.hold(Box::new(active))),
        }
        bandwidth.into_iter().for_each(|bytes| changes.pace(bytes));
        let then = abort.map_or(Verdict::Admit, Verdict::Refuse);
        match delay {
            Some(time) => Verdict::Wait(time, Box::new(then)),
            None => then,
        }
    }

    /// Takes over the number of active faults of `before`, another version of the same filter.
    pub fn adopt(&self, before: &Self) {
        self.active.adopt(&before.active);
    }
}

impl Delay {
    fn of(self, head: &Head<'_>) -> Option<Duration> {
        match self {
            Self::Fixed(time) => Some(time),
            Self::Requested => number(head, &DELAY).map(|ms| Duration::from_millis(ms.into())),
        }
    }
}

impl Abort {
    fn of(self, head: &Head<'_>) -> Option<Refusal> {
        match self {
            Self::With(refusal) => Some(refusal),
            Self::Requested => number(head, &ABORT)
                .and_then(http_abort)
                .or_else(|| number(head, &ABORT_GRPC).and_then(grpc_abort)),
        }
    }
}

impl Bandwidth {
    fn of(self, head: &Head<'_>) -> Option<NonZeroU64> {
        match self {
            Self::Fixed(bytes) => Some(bytes),
            Self::Requested => number(head, &BANDWIDTH).and_then(|kib| bytes(kib.into())),
        }
    }
}

/// The share of the requests that get a fault. A request can lower it, not raise it.
#[derive(Debug, Clone, Copy)]
struct Share {
    /// In units of `denominator`.
    numerator: u32,
    denominator: i32,
}

impl Share {
    fn decode(wire: Option<types::FractionalPercent>) -> Result<Self, Unusable> {
        let types::FractionalPercent { numerator, denominator } = wire.unwrap_or_default();
        let share = Self { numerator, denominator };
        share.percentage(numerator).map(|_| share)
    }

    fn percentage(self, numerator: u32) -> Result<Percentage, Unusable> {
        let fraction = types::FractionalPercent { numerator, denominator: self.denominator };
        field::fraction("percentage", fraction)
    }

    fn holds(self, requested: Option<u32>, request: &FilterRequest<'_>) -> bool {
        let numerator = requested.map_or(self.numerator, |of| of.min(self.numerator));
        self.percentage(numerator).is_ok_and(|share| share.holds((request.random)()))
    }
}

fn decode_delay(wire: common_fault::FaultDelay) -> Result<(Delay, Share), Unusable> {
    use common_fault::fault_delay::FaultDelaySecifier as Wire;
    let common_fault::FaultDelay { percentage, fault_delay_secifier } = wire;
    let delay = match field::required("fault_delay_secifier", fault_delay_secifier)? {
        Wire::FixedDelay(time) => {
            let time = field::positive_duration("fixed_delay", Some(time))?;
            Delay::Fixed(field::required("fixed_delay", time)?)
        }
        Wire::HeaderDelay(common_fault::fault_delay::HeaderDelay {}) => Delay::Requested,
    };
    Ok((delay, Share::decode(percentage)?))
}

fn decode_abort(wire: fault::FaultAbort) -> Result<(Abort, Share), Unusable> {
    use fault::fault_abort::ErrorType as Wire;
    let fault::FaultAbort { percentage, response_body, error_type } = wire;
    unsupported_any(&[("response_body", !response_body.is_empty())])?;
    let abort = match field::required("error_type", error_type)? {
        Wire::HttpStatus(status) => http_abort(status).map(Abort::With).ok_or_else(|| {
            Unusable::new("http_status", format_args!("is {status}, which is not between 200 and 599"))
        })?,
        Wire::GrpcStatus(status) => grpc_abort(status)
            .map(Abort::With)
            .ok_or_else(|| Unusable::new("grpc_status", format_args!("is {status}, which is unknown")))?,
        Wire::HeaderAbort(fault::fault_abort::HeaderAbort {}) => Abort::Requested,
    };
    Ok((abort, Share::decode(percentage)?))
}

fn decode_bandwidth(wire: common_fault::FaultRateLimit) -> Result<(Bandwidth, Share), Unusable> {
    use common_fault::fault_rate_limit::{FixedLimit, HeaderLimit, LimitType as Wire};
    let common_fault::FaultRateLimit { percentage, limit_type } = wire;
    let bandwidth = match field::required("limit_type", limit_type)? {
        Wire::FixedLimit(FixedLimit { limit_kbps }) => bytes(limit_kbps)
            .map(Bandwidth::Fixed)
            .ok_or_else(|| Unusable::new("fixed_limit.limit_kbps", "must be at least 1"))?,
        Wire::HeaderLimit(HeaderLimit {}) => Bandwidth::Requested,
    };
    Ok((bandwidth, Share::decode(percentage)?))
}

fn bytes(kib: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(kib.saturating_mul(1024))
}

fn http_abort(status: u32) -> Option<Refusal> {
    let status = u16::try_from(status).ok().filter(|code| (200..600).contains(code))?;
    let status = StatusCode::from_u16(status).ok()?;
    Some(Refusal { reason: Reason::FaultInjected, status, grpc_status: None })
}

fn grpc_abort(code: u32) -> Option<Refusal> {
    let code = u8::try_from(code).ok()?;
    let status = StatusCode::from_u16(grpc::http_status(code)?).ok()?;
    Some(Refusal { reason: Reason::FaultInjected, status, grpc_status: Some(code) })
}

/// The number that a field of a request has, if it is one.
fn number(head: &Head<'_>, name: &HeaderName) -> Option<u32> {
    head.headers.get(name)?.to_str().ok()?.parse().ok()
}
