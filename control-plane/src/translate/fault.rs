//! Envoy's fault injection filter (`envoy.extensions.filters.http.fault.v3.HTTPFault`) of FaultInjectionPolicies.
//!
//! Requests that are known to be health checks get no fault: a service under test must not be taken out of service, or restarted, by its test.

use outrigger_proto::xds::common_fault::fault_delay::FaultDelaySecifier;
use outrigger_proto::xds::common_fault::fault_rate_limit::{FixedLimit, LimitType};
use outrigger_proto::xds::common_fault::{FaultDelay, FaultRateLimit};
use outrigger_proto::xds::fault::fault_abort::ErrorType;
use outrigger_proto::xds::fault::{FaultAbort, HttpFault};
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::route::HeaderMatcher;
use outrigger_proto::xds::type_url;
use outrigger_proto::xds::types::FractionalPercent;

use super::applied::{Applied, Configs};
use super::matching;
use super::wire::{any, duration, uint};
use crate::model::fault_injection::{Abort, FaultInjection, Percent};
use crate::model::route::{Route, ValuePattern};

/// The name of the filter. Routes configure it by this.
const FAULT: &str = "outrigger.fault";
/// The names of programs that check health, in `user-agent`: proxies, and the kubelet, which does not always ask the sidecar.
const CHECKERS: &str = "outrigger-health-check|Envoy/HC|kube-probe/.*";
/// The methods of gRPC's health checking protocol.
const GRPC_HEALTH: &str = "/grpc\\.health\\.v1\\.Health/.*";

/// Returns the filter of a port: none without a policy. Without a policy for the whole port it injects nothing, except where a route of
/// `routes` configures it.
pub(super) fn filters(policies: &Applied<'_, FaultInjection>, routes: &[&Route]) -> Configs {
    let whole = policies.narrowest().map(|policy| &*policy.spec);
    if whole.is_none() && !routes.iter().any(|route| policies.has(route)) {
        return Vec::new();
    }
    vec![(FAULT, config(whole))]
}

/// Returns the configuration of the filter for a route: none if the route is not a target.
pub(super) fn of_route(policies: &Applied<'_, FaultInjection>, route: &Route) -> Configs {
    policies.narrowest_at_route(route).map(|policy| (FAULT, config(Some(&policy.spec)))).into_iter().collect()
}

fn config(of: Option<&FaultInjection>) -> Any {
    any(type_url::HTTP_FAULT, &of.map(filter).unwrap_or_default())
}

fn filter(of: &FaultInjection) -> HttpFault {
    let FaultInjection { delay, abort, bandwidth, headers, max_active_faults } = of;
    let wanted = headers.iter().map(|of| matching::header(&of.name, &of.value));
    HttpFault {
        delay: delay.map(|(time, share)| FaultDelay {
            percentage: percentage(share),
            fault_delay_secifier: duration(time).map(FaultDelaySecifier::FixedDelay),
        }),
        abort: abort.map(|(abort, share)| FaultAbort {
            percentage: percentage(share),
            error_type: Some(match abort {
                Abort::Http(status) => ErrorType::HttpStatus(status),
                Abort::Grpc(status) => ErrorType::GrpcStatus(status),
            }),
            ..Default::default()
        }),
        response_rate_limit: bandwidth.map(|(kib, share)| FaultRateLimit {
            percentage: percentage(share),
            limit_type: Some(LimitType::FixedLimit(FixedLimit { limit_kbps: kib.into() })),
        }),
        headers: wanted.chain([no_match("user-agent", CHECKERS), no_match(":path", GRPC_HEALTH)]).collect(),
        max_active_faults: max_active_faults.and_then(uint),
        ..Default::default()
    }
}

/// Returns the match of requests whose header does not match this expression, or that do not have it.
fn no_match(name: &str, expression: &str) -> HeaderMatcher {
    HeaderMatcher {
        invert_match: true,
        treat_missing_header_as_empty: true,
        ..matching::header(name, &ValuePattern::Regex(expression.into()))
    }
}

/// Of a hundred, which is the default denominator.
fn percentage(Percent(numerator): Percent) -> Option<FractionalPercent> {
    Some(FractionalPercent { numerator, ..Default::default() })
}
