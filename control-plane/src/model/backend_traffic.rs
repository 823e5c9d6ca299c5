//! How callers treat the endpoints of a Service: the meaning of a BackendTrafficPolicy.

use std::time::Duration;

use outrigger_core::Name;

use super::health_check::HealthCheck;
use super::hedging::Hedging;
use super::locality::Locality;
use super::service::Overload;
use super::session_persistence::SessionPersistence;
use super::slow_start::SlowStart;

/// The meaning of a BackendTrafficPolicy. What it does not set keeps the mesh's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackendTraffic {
    /// How an endpoint is picked.
    pub load_balancer: Option<LoadBalancer>,
    /// How an endpoint that is new begins. Not with [`LoadBalancer::Random`] and those that hash.
    pub slow_start: Option<SlowStart>,
    /// Which endpoints are preferred by where they are.
    pub locality: Option<Locality>,
    /// The limits of each caller's sidecar.
    pub limits: Limits,
    /// How many requests may be retries.
    pub retries: Option<RetryLimit>,
    /// When a request is sent to a second endpoint while the first one has not answered; `None` is never.
    pub hedging: Option<Hedging>,
    /// When endpoints are ejected.
    pub outlier_detection: OutlierDetection,
    /// How endpoints are checked.
    pub health_check: Option<HealthCheck>,
    /// The timeout of connecting to an endpoint.
    pub connect_timeout: Option<Duration>,
    /// What the sidecars of the Service do about overload of the application.
    pub overload: Option<Overload>,
    /// How the sessions of its callers are kept.
    pub session_persistence: Option<SessionPersistence>,
}

impl BackendTraffic {
    /// Returns the settings that it has, with the names that they have in YAML, and the values of those that have one word.
    pub fn settings(&self) -> Vec<String> {
        let Self {
            load_balancer,
            slow_start,
            locality,
            limits,
            retries,
            hedging,
            outlier_detection,
            health_check,
            connect_timeout,
            overload,
            session_persistence,
        } = self;
        let Limits { connections, pending_requests, requests } = limits;
        let number = |name: &str, value: &Option<u32>| value.map(|value| format!("{name} {value}"));
        let retries = retries.as_ref().map(|limit| match limit {
            RetryLimit::InFlight(max) => format!("maxRetries {max}"),
            RetryLimit::Budget(_) => "retryBudget".into(),
        });
        let detection = match outlier_detection {
            OutlierDetection::Off => Some("outlierDetection Disabled"),
            OutlierDetection::On(ejection) if *ejection == Ejection::default() => None,
            OutlierDetection::On(_) => Some("outlierDetection"),
        };
        let overload = overload.map(|mode| match mode {
            Overload::Enforce => "overload Enforce",
            Overload::Observe => "overload Observe",
            Overload::Off => "overload Disabled",
        });
        let all = [
            load_balancer.as_ref().map(|balancer| format!("loadBalancer {}", balancer.name())),
            slow_start.map(|slow| format!("slowStart {:?}", slow.window)),
            locality.as_ref().map(|of| format!("locality {}", of.preference.name())),
            number("maxConnections", connections),
            number("maxPendingRequests", pending_requests),
            number("maxRequests", requests),
            retries,
            hedging.map(|_| "hedging".into()),
            detection.map(String::from),
            health_check.as_ref().map(|check| format!("healthCheck {}", check.checker.name())),
            connect_timeout.map(|timeout| format!("connectTimeout {timeout:?}")),
            overload.map(String::from),
            session_persistence.as_ref().map(|of| format!("sessionPersistence {}", of.name())),
        ];
        all.into_iter().flatten().collect()
    }
}

/// How an endpoint is picked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadBalancer {
    /// The better of two by latency and requests in flight.
    PeakEwma,
    /// The better of two by requests in flight.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
    /// By a hash of the request, on a ring of hashes of the endpoints.
    RingHash(HashKey),
    /// By a hash of the request, in Maglev's table.
    Maglev(HashKey),
}

/// What of a request is hashed. A request without it goes to any endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// A header, by its name in lower case.
    Header(Name),
    /// A cookie.
    Cookie {
        /// Its name.
        name: Name,
        /// The lifetime of the cookie that a client without one gets; zero is a session of the client. None: it gets none.
        ttl: Option<Duration>,
        /// The path of that cookie.
        path: Name,
    },
    /// A parameter of the query.
    QueryParam(Name),
    /// The address of the client.
    Source,
}

impl LoadBalancer {
    /// Returns the name, as in YAML.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PeakEwma => "PeakEWMA",
            Self::LeastRequest => "LeastRequest",
            Self::RoundRobin => "RoundRobin",
            Self::Random => "Random",
            Self::RingHash(_) => "RingHash",
            Self::Maglev(_) => "Maglev",
        }
    }
}

/// Limits on what one caller's sidecar has open at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections to all endpoints together.
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    pub pending_requests: Option<u32>,
    /// Requests in flight, retries included.
    pub requests: Option<u32>,
}

/// How many requests of one caller's sidecar may be retries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryLimit {
    /// This many at a time.
    InFlight(u32),
    /// A share of the requests.
    Budget(RetryBudget),
}

/// A retry budget (GEP-3388). What is None keeps the mesh's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryBudget {
    /// The share of requests that may be retries, from 0 to 100.
    pub percent: Option<u32>,
    /// The interval over which requests and retries are counted.
    pub interval: Option<Duration>,
    /// Retries that are allowed beyond the share.
    pub min_retry_rate: Option<RetryRate>,
}

/// A rate of retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryRate {
    /// The number of retries.
    pub count: u32,
    /// The time in which they are allowed; not zero.
    pub interval: Duration,
}

impl RetryRate {
    /// Returns the number of retries in a second, rounded up.
    pub fn per_second(self) -> u32 {
        let rate = (u128::from(self.count) * 1000).div_ceil(self.interval.as_millis().max(1));
        u32::try_from(rate).unwrap_or(u32::MAX)
    }
}

/// When endpoints are ejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutlierDetection {
    /// Never.
    Off,
    /// As the mesh's defaults say, changed by these.
    On(Ejection),
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self::On(Ejection::default())
    }
}

/// Changes of the mesh's defaults of outlier detection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ejection {
    /// The interval over which rates are computed.
    pub interval: Option<Duration>,
    /// How long the first ejection of an endpoint lasts.
    pub base_ejection_time: Option<Duration>,
    /// How long an ejection lasts at most.
    pub max_ejection_time: Option<Duration>,
    /// The share of the endpoints that may be ejected at a time, from 0 to 100.
    pub max_ejection_percent: Option<u32>,
    /// Ejects after this many failed responses in a row; 0 is never.
    pub consecutive_5xx: Option<u32>,
    /// Ejects after this many responses with 502, 503 or 504 in a row; 0 is never.
    pub consecutive_gateway_errors: Option<u32>,
    /// Ejects after this many attempts in a row without a response; 0 is never.
    pub consecutive_local_origin_failures: Option<u32>,
    /// Ejects by the share of failed requests.
    pub failure_percentage: Option<FailurePercentage>,
    /// Ejects what succeeds less often than the other endpoints; None is never.
    pub success_rate: Option<SuccessRate>,
}

/// Ejection by the share of failed requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailurePercentage {
    /// The share, from 1 to 100.
    pub threshold: u32,
    /// The number of endpoints with enough requests, at least.
    pub minimum_hosts: Option<u32>,
    /// The number of requests that are enough.
    pub request_volume: Option<u32>,
}

/// Ejection by the success rates of all endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SuccessRate {
    /// The number of endpoints with enough requests, at least.
    pub minimum_hosts: Option<u32>,
    /// The number of requests that are enough.
    pub request_volume: Option<u32>,
    /// How many standard deviations below the mean, in thousandths.
    pub stdev_factor: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_rounded_up_to_whole_retries_a_second() {
        for (count, millis, expected) in [(10, 1000, 10), (3, 2000, 2), (1, 3_600_000, 1), (1, 100, 10)] {
            let rate = RetryRate { count, interval: Duration::from_millis(millis) };
            assert_eq!(rate.per_second(), expected, "{rate:?}");
        }
    }
}
