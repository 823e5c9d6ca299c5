//! The defaults of the mesh. In the proxy an absent field has the meaning that it has in Envoy, so each default is written into
//! the resources, by this module only.

use std::time::Duration;

use outrigger_proto::xds::cluster::circuit_breakers::Thresholds;
use outrigger_proto::xds::cluster::circuit_breakers::thresholds::RetryBudget;
use outrigger_proto::xds::cluster::{CircuitBreakers, OutlierDetection};
use outrigger_proto::xds::route::RetryPolicy;
use outrigger_proto::xds::route::retry_policy::RetryBackOff;
use outrigger_proto::xds::types::Percent;

use super::scope::Dialect;
use super::wire::{boolean, duration, uint};
use crate::model::backend_traffic::LoadBalancer;
use crate::model::route::Retry;

/// The name of a route that no resource asked for. It is in metrics and access logs beside the destination.
pub(super) const ROUTE: &str = "default";
/// How an endpoint is picked.
pub(super) const LOAD_BALANCER: LoadBalancer = LoadBalancer::PeakEwma;
/// The timeout of connecting to an endpoint.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The time between two checks of an endpoint, if a policy says that it is checked, and how much of it is added at random.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(5);
pub(super) const CHECK_JITTER_PERCENT: u32 = 10;
/// How long a check may take.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// How many checks in a row make an endpoint unhealthy, and healthy again.
pub(super) const UNHEALTHY_THRESHOLD: u32 = 3;
pub(super) const HEALTHY_THRESHOLD: u32 = 2;
/// The percentage of endpoints that must pass their checks; below it, all are used. Envoy's default.
pub(super) const PANIC_THRESHOLD: u32 = 50;
/// The timeout of detecting HTTP on a port without a declared protocol. For a server that speaks first, a new client waits for
/// it once; then the outcome is remembered.
pub(super) const DETECTION_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a permissive port waits for a client's first bytes, which distinguish mTLS from plain text, before it lets the
/// server speak first. Only plaintext clients of servers that speak first wait for it, and sidecars send a ClientHello at once.
pub(super) const FIRST_BYTES_TIMEOUT: Duration = Duration::from_millis(200);
/// No idle timeout for requests, upgraded connections and opaque bytes. Watches, long polls and database sessions are idle by
/// design, and an application that wants a limit has its own. Envoy's defaults are 5 minutes (`stream_idle_timeout`) and an
/// hour (`TcpProxy.idle_timeout`), so "none" is written. Dead peers are found by HTTP/2 PINGs and TCP keepalive.
pub(super) const NO_IDLE_TIMEOUT: Duration = Duration::ZERO;
/// The upgrades that are allowed on every listener: all that the application accepts. `websocket` is named too, for proxies that
/// do not support `*`.
pub(super) const UPGRADES: [&str; 2] = ["websocket", "*"];
/// How long an authorization service may take. Gateway API has no field for it. Envoy's 200 ms would be short for the first connection.
pub(super) const EXTERNAL_AUTHORIZATION_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a client may keep the addresses of a host: the minimum of Envoy's API (`DnsVirtualDomain.answer_ttl`).
pub(super) const DNS_TTL: Duration = Duration::from_secs(30);
/// The maximum number of retries.
const RETRIES: u32 = 2;
/// The minimum time before a retry, and the maximum as a multiple of it.
const BACKOFF: Duration = Duration::from_millis(25);
const BACKOFF_SPREAD: u32 = 10;
/// How long a request waits for its first attempt at least before it is hedged: sooner there is little to win.
pub(super) const HEDGING_MIN_DELAY: Duration = Duration::from_millis(5);
/// What is retried.
const RETRY_ON: &str = "connect-failure,refused-stream,reset-before-request";
/// What our own proxy retries in addition: for an idempotent method, a reset or disconnect before the response's head, or a 503
/// (RFC 9110 section 9.2.2).
const IDEMPOTENT: &str = ",idempotent-failure";

/// Returns the retry policy of a route: its own settings (GEP-1731) over the mesh's.
pub(super) fn retry_policy(dialect: Dialect, own: Option<&Retry>, per_try: Option<Duration>) -> RetryPolicy {
    let codes = own.map_or(&[][..], |retry| &retry.codes);
    // The interval must be positive (`RetryBackOff.base_interval`); Envoy's timers have milliseconds.
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

/// Circuit breakers, and the retry budget that keeps retries from making an outage worse: 20 % of the requests in flight, and
/// at least three.
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

/// Ejects an endpoint if half of at least 20 requests within ten seconds failed, while the others of its cluster do better; two
/// endpoints are enough to compare. Consecutive error responses do not eject: one path that always fails would eject all
/// endpoints in turn. Consecutive connection failures do, since they show a dead endpoint sooner. Success rate ejection is
/// off: with three endpoints a deviation has no meaning.
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
