//! Faults that are injected to test what a service does when another one is slow or fails
//! (`envoy.extensions.filters.http.fault.v3.HTTPFault`).
//!
//! A delayed request waits before it is forwarded, and an aborted one is answered here. Health checks pass no filter, so
//! that faults never make an endpoint unhealthy.

use std::time::Duration;

use http::{HeaderName, StatusCode};
use outrigger_core::grpc;
use outrigger_core::percentage::Percentage;
use outrigger_core::reason::Reason;
use outrigger_proto::xds::{common_fault, fault, types};

use crate::field::{self, Unusable, each, unsupported_any};
use crate::header_match::{Head, HeaderMatcher};
use crate::verdict::{FilterRequest, Refusal, Verdict};

/// The faults that some requests get.
#[derive(Debug, Clone)]
pub struct Fault {
    delay: Option<(Delay, Share)>,
    abort: Option<(Abort, Share)>,
    cluster: Option<Box<str>>,
    headers: Box<[HeaderMatcher]>,
}

#[derive(Debug, Clone, Copy)]
enum Delay {
    Fixed(Duration),
    /// As many milliseconds as the client asks for (`header_delay`).
    Requested,
}

#[derive(Debug, Clone, Copy)]
enum Abort {
    With(Refusal),
    /// The status that the client asks for (`header_abort`).
    Requested,
}

const DELAY: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
const DELAY_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request-percentage");
const ABORT: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
const ABORT_GRPC: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
const ABORT_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request-percentage");

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
        unsupported_any(&[
            ("downstream_nodes", !downstream_nodes.is_empty()),
            ("max_active_faults", max_active_faults.is_some()),
            ("response_rate_limit", response_rate_limit.is_some()),
        ])?;
        Ok(Self {
            delay: delay.map(|wire| decode_delay(wire).map_err(|bad| bad.within("delay"))).transpose()?,
            abort: abort.map(|wire| decode_abort(wire).map_err(|bad| bad.within("abort"))).transpose()?,
            cluster: Some(upstream_cluster).filter(|name| !name.is_empty()).map(Into::into),
            headers: each("headers", headers, HeaderMatcher::decode)?.into(),
        })
    }

    /// Decides about a request. The shares of delayed and of aborted requests are independent.
    pub fn decide(&self, request: &FilterRequest<'_>) -> Verdict {
        let of_cluster = self.cluster.as_deref().is_none_or(|name| request.cluster == Some(name));
        if !of_cluster || !self.headers.iter().all(|matcher| matcher.matches(&request.head)) {
            return Verdict::Admit;
        }
        let abort = self.abort.and_then(|(abort, share)| {
            let refusal = abort.of(&request.head)?;
            share.holds(number(&request.head, &ABORT_SHARE), request).then_some(refusal)
        });
        let then = abort.map_or(Verdict::Admit, Verdict::Refuse);
        let delay = self.delay.and_then(|(delay, share)| {
            let time = delay.of(&request.head)?;
            share.holds(number(&request.head, &DELAY_SHARE), request).then_some(time)
        });
        match delay {
            Some(time) => Verdict::Wait(time, Box::new(then)),
            None => then,
        }
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

#[cfg(test)]
mod tests {
    use common_fault::fault_delay::{FaultDelaySecifier, HeaderDelay};
    use fault::fault_abort::{ErrorType, HeaderAbort};
    use http::{HeaderMap, Method};
    use outrigger_proto::xds::{protobuf, route};

    use super::*;

    fn all() -> Option<types::FractionalPercent> {
        Some(types::FractionalPercent { numerator: 100, denominator: 0 })
    }

    fn delay(of: FaultDelaySecifier) -> Option<common_fault::FaultDelay> {
        Some(common_fault::FaultDelay { percentage: all(), fault_delay_secifier: Some(of) })
    }

    fn abort(of: ErrorType) -> Option<fault::FaultAbort> {
        Some(fault::FaultAbort { percentage: all(), error_type: Some(of), ..Default::default() })
    }

    fn second() -> FaultDelaySecifier {
        FaultDelaySecifier::FixedDelay(protobuf::Duration { seconds: 1, nanos: 0 })
    }

    fn decide_with(
        wire: fault::HttpFault,
        fields: &[(HeaderName, &'static str)],
        random: fn() -> u32,
    ) -> Verdict {
        let headers: HeaderMap =
            fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        let head =
            Head { method: &Method::GET, scheme: "http", authority: "cart", path: "/", headers: &headers };
        let request = FilterRequest { cluster: Some("cart"), random, ..FilterRequest::of(head) };
        Fault::decode(wire).unwrap().decide(&request)
    }

    fn decide(wire: fault::HttpFault, fields: &[(HeaderName, &'static str)]) -> Verdict {
        decide_with(wire, fields, || 0)
    }

    fn refused(status: u16, grpc_status: Option<u8>) -> Verdict {
        let status = StatusCode::from_u16(status).unwrap();
        Verdict::Refuse(Refusal { reason: Reason::FaultInjected, status, grpc_status })
    }

    #[test]
    fn a_delayed_request_may_be_aborted_afterwards() {
        let base = fault::HttpFault::default;
        assert_eq!(decide(base(), &[]), Verdict::Admit);
        let waits = |then| Verdict::Wait(Duration::from_secs(1), Box::new(then));
        let delayed = fault::HttpFault { delay: delay(second()), ..base() };
        assert_eq!(decide(delayed.clone(), &[]), waits(Verdict::Admit));
        let both = fault::HttpFault { abort: abort(ErrorType::HttpStatus(418)), ..delayed };
        assert_eq!(decide(both, &[]), waits(refused(418, None)));
        let grpc = fault::HttpFault { abort: abort(ErrorType::GrpcStatus(14)), ..base() };
        assert_eq!(decide(grpc, &[]), refused(503, Some(14)));
    }

    #[test]
    fn only_requests_that_match_get_faults() {
        let aborted = |change: fn(&mut fault::HttpFault), fields: &[_]| {
            let mut wire =
                fault::HttpFault { abort: abort(ErrorType::HttpStatus(503)), ..Default::default() };
            change(&mut wire);
            decide(wire, fields) != Verdict::Admit
        };
        let of_header: fn(&mut fault::HttpFault) = |wire| {
            wire.headers = vec![route::HeaderMatcher { name: "x-test".into(), ..Default::default() }];
        };
        assert!(aborted(of_header, &[(HeaderName::from_static("x-test"), "1")]));
        assert!(!aborted(of_header, &[]));
        assert!(aborted(|wire| wire.upstream_cluster = "cart".into(), &[]));
        assert!(!aborted(|wire| wire.upstream_cluster = "stock".into(), &[]));
    }

    #[test]
    fn a_share_of_the_requests_gets_faults() {
        let mut wire = fault::HttpFault { abort: abort(ErrorType::HttpStatus(503)), ..Default::default() };
        wire.abort.as_mut().unwrap().percentage =
            Some(types::FractionalPercent { numerator: 10, denominator: 0 });
        let aborted = |random, fields: &[_]| decide_with(wire.clone(), fields, random) != Verdict::Admit;
        assert!(aborted(|| u32::MAX / 11, &[]) && !aborted(|| u32::MAX / 9, &[]));
        // A request lowers its share.
        assert!(!aborted(|| u32::MAX / 11, &[(ABORT_SHARE, "5")]));
        assert!(!aborted(|| u32::MAX / 9, &[(ABORT_SHARE, "50")]));
        wire.abort.as_mut().unwrap().percentage = None;
        assert_eq!(decide(wire, &[]), Verdict::Admit);
    }

    #[test]
    fn a_client_requests_faults_where_it_may() {
        let wire = fault::HttpFault {
            delay: delay(FaultDelaySecifier::HeaderDelay(HeaderDelay {})),
            abort: abort(ErrorType::HeaderAbort(HeaderAbort {})),
            ..Default::default()
        };
        let decide = |fields: &[_]| decide(wire.clone(), fields);
        assert_eq!(decide(&[]), Verdict::Admit);
        assert_eq!(
            decide(&[(DELAY, "20")]),
            Verdict::Wait(Duration::from_millis(20), Box::new(Verdict::Admit))
        );
        assert_eq!(decide(&[(ABORT, "429")]), refused(429, None));
        assert_eq!(decide(&[(ABORT_GRPC, "5")]), refused(404, Some(5)));
        for bad in ["99", "600", "soon", "-1", ""] {
            assert_eq!(decide(&[(ABORT, bad)]), Verdict::Admit, "{bad}");
        }
    }

    #[test]
    fn bad_faults_are_refused_by_field() {
        let zero = FaultDelaySecifier::FixedDelay(protobuf::Duration::default());
        let base = fault::HttpFault::default;
        for (wire, field) in [
            (fault::HttpFault { delay: delay(zero), ..base() }, "delay.fixed_delay"),
            (fault::HttpFault { delay: Some(Default::default()), ..base() }, "delay.fault_delay_secifier"),
            (fault::HttpFault { abort: abort(ErrorType::HttpStatus(199)), ..base() }, "abort.http_status"),
            (fault::HttpFault { abort: abort(ErrorType::GrpcStatus(17)), ..base() }, "abort.grpc_status"),
            (fault::HttpFault { abort: Some(Default::default()), ..base() }, "abort.error_type"),
            (fault::HttpFault { downstream_nodes: vec!["a".into()], ..base() }, "downstream_nodes"),
            (fault::HttpFault { headers: vec![Default::default()], ..base() }, "headers[0].name"),
        ] {
            assert_eq!(Fault::decode(wire).unwrap_err().field, field);
        }
    }
}
