//! Everything that the mesh gives to who sets nothing. In the proxy an absent field means what it means in Envoy, so
//! each default is written into the resources, here and nowhere else.

use std::time::Duration;

use outrigger_proto::xds::cluster::circuit_breakers::Thresholds;
use outrigger_proto::xds::cluster::circuit_breakers::thresholds::RetryBudget;
use outrigger_proto::xds::cluster::{
    CircuitBreakers, LoadBalancingPolicy, OutlierDetection, load_balancing_policy,
};
use outrigger_proto::xds::core::TypedExtensionConfig;
use outrigger_proto::xds::route::RetryPolicy;
use outrigger_proto::xds::route::retry_policy::RetryBackOff;
use outrigger_proto::xds::type_url;
use outrigger_proto::xds::types::Percent;

use super::scope::Dialect;
use super::wire::{boolean, duration, empty, uint};
use crate::model::route::Retry;

/// To connect to an endpoint.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// To tell HTTP from other bytes where nothing says which it is. A server that speaks first costs a new client this
/// once, until the verdict is remembered.
pub(super) const DETECTION_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a request, an upgraded connection or opaque bytes may be quiet: for as long as they like. Watches, long polls
/// and database sessions are quiet on purpose, and an application that wants a limit has its own. Envoy would cut them
/// after 5 minutes (`stream_idle_timeout`) and an hour (`TcpProxy.idle_timeout`), and so "none" is written. Whether a
/// quiet peer is still there is for HTTP/2 PINGs and TCP keepalive to find out, not for a clock.
pub(super) const NO_IDLE_TIMEOUT: Duration = Duration::ZERO;
/// Upgrades that pass, on every listener: all that an application agrees to. Named first what a proxy that does not know
/// the star lets pass too.
pub(super) const UPGRADES: [&str; 2] = ["websocket", "*"];
/// Tries after the first.
const RETRIES: u32 = 2;
/// The least time before the next try, and how many times that the most.
const BACKOFF: Duration = Duration::from_millis(25);
const BACKOFF_SPREAD: u32 = 10;
/// What is tried again.
const RETRY_ON: &str = "connect-failure,refused-stream,reset-before-request";
/// And by our own proxy: of an idempotent method, a reset or disconnect before the response's head, or a 503 (RFC 9110,
/// section 9.2.2).
const IDEMPOTENT: &str = ",idempotent-failure";

/// The retries of a route: its own words (GEP-1731) over the mesh's.
pub(super) fn retry_policy(dialect: Dialect, own: Option<&Retry>, per_try: Option<Duration>) -> RetryPolicy {
    let codes = own.map_or(&[][..], |retry| &retry.codes);
    // An interval must be longer than nothing (`RetryBackOff.base_interval`); Envoy's timers have milliseconds.
    let backoff = own.and_then(|retry| retry.backoff).unwrap_or(BACKOFF).max(Duration::from_millis(1));
    let attempts = own.and_then(|retry| retry.attempts).unwrap_or(RETRIES);
    let idempotent = if dialect == Dialect::Outrigger { IDEMPOTENT } else { "" };
    let statuses = if codes.is_empty() { "" } else { ",retriable-status-codes" };
    RetryPolicy {
        retry_on: format!("{RETRY_ON}{idempotent}{statuses}"),
        num_retries: uint(attempts),
        per_try_timeout: per_try.and_then(duration),
        retriable_status_codes: codes.iter().map(|code| u32::from(*code)).collect(),
        retry_back_off: Some(RetryBackOff {
            base_interval: duration(backoff),
            max_interval: duration(backoff.saturating_mul(BACKOFF_SPREAD)),
        }),
        ..Default::default()
    }
}

/// Bulkheads, and the budget that keeps retries from making an outage worse: 20 % of the requests in flight, and
/// three that a quiet service may always have.
pub(super) fn circuit_breakers() -> CircuitBreakers {
    let budget = RetryBudget {
        budget_percent: Some(Percent { value: 20.0 }),
        min_retry_concurrency: uint(3),
        ..Default::default()
    };
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: uint(1024),
            max_pending_requests: uint(1024),
            max_requests: uint(10_000),
            retry_budget: Some(budget),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Ejection of an endpoint of whose last 20 requests or more, within ten seconds, half failed, while the others of its
/// cluster do better; two are enough to compare. Answers that are failures do not eject because they come in a row: one path
/// that always fails would eject the endpoints in turn. What cannot be reached, or breaks off, some times in a row is dead,
/// and found sooner. Success rates stay off: three endpoints are too few for a deviation of theirs to mean anything.
pub(super) fn outlier_detection() -> OutlierDetection {
    OutlierDetection {
        interval: duration(Duration::from_secs(10)),
        failure_percentage_threshold: uint(50),
        failure_percentage_minimum_hosts: uint(2),
        failure_percentage_request_volume: uint(20),
        enforcing_failure_percentage: uint(100),
        enforcing_failure_percentage_local_origin: uint(100),
        enforcing_consecutive_5xx: uint(0),
        enforcing_consecutive_gateway_failure: uint(0),
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: uint(5),
        enforcing_consecutive_local_origin_failure: uint(100),
        enforcing_success_rate: uint(0),
        enforcing_local_origin_success_rate: uint(0),
        base_ejection_time: duration(Duration::from_secs(2)),
        max_ejection_time: duration(Duration::from_secs(60)),
        max_ejection_percent: uint(50),
        always_eject_one_host: boolean(false),
        ..Default::default()
    }
}

/// Two choices: by peak EWMA where that is known, else by requests in flight. A client takes the first that it knows, so
/// that an older proxy of ours is given both.
pub(super) fn load_balancing_policy(dialect: Dialect) -> LoadBalancingPolicy {
    let policy = |name: &str, type_url| load_balancing_policy::Policy {
        typed_extension_config: Some(TypedExtensionConfig {
            name: name.into(),
            typed_config: Some(empty(type_url)),
        }),
    };
    let least_request = policy("envoy.load_balancing_policies.least_request", type_url::LEAST_REQUEST);
    let policies = match dialect {
        Dialect::Envoy => vec![least_request],
        Dialect::Outrigger => vec![policy("outrigger.lb.peak_ewma", type_url::PEAK_EWMA), least_request],
    };
    LoadBalancingPolicy { policies }
}
