//! The policies about the callers of a service port, in its cluster, which has the mesh's defaults.

use outrigger_proto::xds::cluster::circuit_breakers::Thresholds;
use outrigger_proto::xds::cluster::circuit_breakers::thresholds::RetryBudget as WireBudget;
use outrigger_proto::xds::cluster::{Cluster, OutlierDetection as WireDetection};
use outrigger_proto::xds::protobuf::UInt32Value;
use outrigger_proto::xds::types::Percent;

use super::balancing::load_balancing_policy;
use super::defaults;
use super::destination::{Target, host};
use super::health_check;
use super::hedging;
use super::scope::{Dialect, Scope};
use super::wire::{duration, uint};
use crate::model::backend_traffic::{
    BackendTraffic, Ejection, FailurePercentage, Limits, OutlierDetection, RetryBudget, RetryLimit,
    SuccessRate,
};
use crate::model::caller_policies::CallerPolicies;
use crate::model::service::ServicePort;

/// Changes the cluster of `target` as the policies of `port` say. What they do not set stays.
pub(super) fn apply(scope: Scope<'_>, cluster: &mut Cluster, target: &Target, port: &ServicePort) {
    let policies = scope.mesh.caller_policies(&target.service, port.number);
    // Sessions are those of routes.
    let CallerPolicies { traffic, retry_budget, session_persistence: _ } = policies;
    if let Some(traffic) = traffic {
        apply_traffic(scope, cluster, traffic);
    }
    let check = traffic.and_then(|traffic| traffic.health_check.as_ref());
    // The one endpoint of a target was chosen by the client.
    if let Some(check) = check.filter(|_| target.only.is_none()) {
        health_check::apply(
            cluster,
            check,
            port.protocol,
            &host(&target.service, scope.domain()),
            scope.dialect(),
        );
    }
    let limit = traffic.and_then(|traffic| traffic.retries.as_ref());
    for thresholds in thresholds(cluster) {
        match (limit, retry_budget) {
            (Some(RetryLimit::InFlight(max)), _) => {
                thresholds.retry_budget = None;
                thresholds.max_retries = uint(*max);
            }
            (Some(RetryLimit::Budget(budget)), _) | (None, Some(budget)) => set_budget(thresholds, budget),
            (None, None) => {}
        }
    }
}

fn apply_traffic(scope: Scope<'_>, cluster: &mut Cluster, traffic: &BackendTraffic) {
    let BackendTraffic {
        load_balancer,
        slow_start,
        locality: _, // of the endpoints
        limits: Limits { connections, pending_requests, requests },
        retries: _, // set by the caller
        hedging: hedges,
        outlier_detection,
        health_check: _, // depends on the port
        connect_timeout,
        overload: _,            // concerns the sidecars of the service itself
        session_persistence: _, // of the routes to the service
    } = traffic;
    if load_balancer.is_some() || slow_start.is_some() {
        let policy = load_balancing_policy(
            load_balancer.as_ref().unwrap_or(&defaults::LOAD_BALANCER),
            *slow_start,
            scope.dialect(),
        );
        cluster.load_balancing_policy = Some(policy);
    }
    if let (Some(hedges), Dialect::Outrigger) = (hedges, scope.dialect()) {
        hedging::apply(cluster, *hedges);
    }
    if let Some(timeout) = connect_timeout {
        cluster.connect_timeout = duration(*timeout);
    }
    for thresholds in thresholds(cluster) {
        set(&mut thresholds.max_connections, *connections);
        set(&mut thresholds.max_pending_requests, *pending_requests);
        set(&mut thresholds.max_requests, *requests);
    }
    match (outlier_detection, &mut cluster.outlier_detection) {
        (OutlierDetection::Off, detection) => *detection = None,
        (OutlierDetection::On(ejection), Some(detection)) => set_ejection(detection, ejection),
        (OutlierDetection::On(_), None) => {} // the cluster of one endpoint
    }
}

fn thresholds(cluster: &mut Cluster) -> impl Iterator<Item = &mut Thresholds> {
    cluster.circuit_breakers.iter_mut().flat_map(|breakers| &mut breakers.thresholds)
}

fn set_budget(thresholds: &mut Thresholds, budget: &RetryBudget) {
    let RetryBudget { percent, interval, min_retry_rate } = budget;
    let wire = thresholds.retry_budget.get_or_insert_with(WireBudget::default);
    if let Some(percent) = percent {
        wire.budget_percent = Some(Percent { value: f64::from(*percent) });
    }
    if let Some(interval) = interval {
        wire.budget_interval = duration(*interval);
    }
    set(&mut wire.min_retry_concurrency, min_retry_rate.map(|rate| rate.per_second()));
}

fn set_ejection(wire: &mut WireDetection, ejection: &Ejection) {
    let Ejection {
        interval,
        base_ejection_time,
        max_ejection_time,
        max_ejection_percent,
        consecutive_5xx,
        consecutive_gateway_errors,
        consecutive_local_origin_failures,
        failure_percentage,
        success_rate,
    } = ejection;
    for (field, value) in [
        (&mut wire.interval, interval),
        (&mut wire.base_ejection_time, base_ejection_time),
        (&mut wire.max_ejection_time, max_ejection_time),
    ] {
        if let Some(value) = value {
            *field = duration(*value);
        }
    }
    set(&mut wire.max_ejection_percent, *max_ejection_percent);
    for (limit, enforced, value) in [
        (&mut wire.consecutive_5xx, &mut wire.enforcing_consecutive_5xx, consecutive_5xx),
        (
            &mut wire.consecutive_gateway_failure,
            &mut wire.enforcing_consecutive_gateway_failure,
            consecutive_gateway_errors,
        ),
        (
            &mut wire.consecutive_local_origin_failure,
            &mut wire.enforcing_consecutive_local_origin_failure,
            consecutive_local_origin_failures,
        ),
    ] {
        match value {
            None => {}
            Some(0) => *enforced = uint(0),
            Some(failures) => (*limit, *enforced) = (uint(*failures), uint(100)),
        }
    }
    if let Some(FailurePercentage { threshold, minimum_hosts, request_volume }) = failure_percentage {
        wire.failure_percentage_threshold = uint(*threshold);
        set(&mut wire.failure_percentage_minimum_hosts, *minimum_hosts);
        set(&mut wire.failure_percentage_request_volume, *request_volume);
    }
    if let Some(SuccessRate { minimum_hosts, request_volume, stdev_factor }) = success_rate {
        wire.enforcing_success_rate = uint(100);
        wire.enforcing_local_origin_success_rate = uint(100);
        set(&mut wire.success_rate_minimum_hosts, *minimum_hosts);
        set(&mut wire.success_rate_request_volume, *request_volume);
        set(&mut wire.success_rate_stdev_factor, *stdev_factor);
    }
}

fn set(field: &mut Option<UInt32Value>, value: Option<u32>) {
    if let Some(value) = value {
        *field = uint(value);
    }
}
