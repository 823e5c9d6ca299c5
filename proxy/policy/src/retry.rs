//! Whether a failed attempt is retried, and after how long (`envoy.config.route.v3.RetryPolicy`).
//!
//! Decides for one request from its outcomes. [`crate::retry_budget`] limits the retries of a whole cluster; the balancer
//! picks the endpoint of the next attempt.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use outrigger_proto::xds::route;

use crate::field::{Unusable, duration, each, number, positive_duration, unsupported_any};
use crate::header_match::{Head, HeaderMatcher};
use crate::response::ResponseFacts;

/// A route's retry policy.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    on: Conditions,
    /// The maximum number of attempts after the first.
    pub num_retries: u32,
    /// Per attempt, from the end of the request to the end of the response. `None`: only the request's timeout applies.
    pub per_try_timeout: Option<Duration>,
    /// Per attempt, without a byte.
    pub per_try_idle_timeout: Option<Duration>,
    base_interval: Duration,
    max_interval: Duration,
    statuses: Box<[StatusCode]>,
    response_headers: Box<[HeaderMatcher]>,
    request_headers: Box<[HeaderMatcher]>,
}

/// What is retried (`retry_on`, with the values of Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Conditions {
    any_5xx: bool,
    gateway_error: bool,
    reset: bool,
    reset_before_request: bool,
    connect_failure: bool,
    refused_stream: bool,
    retriable_4xx: bool,
    retriable_statuses: bool,
    retriable_headers: bool,
    idempotent_failure: bool,
    /// gRPC status codes, one bit each.
    grpc: u32,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// Without a response.
    Failed(&'a Failure),
    /// With a response, nothing of which was relayed yet.
    Answered {
        /// The facts from its head. A gRPC failure without a body carries its `grpc-status` there.
        facts: ResponseFacts,
        /// Its fields, for `retriable_headers`.
        headers: &'a HeaderMap,
    },
}

/// Counts the retries of one request, whatever their cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retries(u32);

impl Retries {
    /// Returns the number of retries made.
    pub fn made(self) -> u32 {
        self.0
    }

    /// Counts a retry that no policy decided.
    pub fn count(&mut self) {
        self.0 += 1;
    }
}

/// What is done about the outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Retry.
    Retry {
        /// The back-off before the next attempt.
        after: Duration,
        /// Whether the retry is charged to the cluster's retry budget: the attempt may have reached an application, or was
        /// refused for overload.
        charged: bool,
    },
    /// No retry: no condition of the policy matches the outcome.
    Stands,
    /// No retry: a condition matches, but `num_retries` is exhausted.
    LimitReached,
}

impl RetryPolicy {
    /// Decodes a policy. Unknown conditions in `retry_on` are ignored, as in Envoy.
    pub fn decode(wire: route::RetryPolicy) -> Result<Self, Unusable> {
        let route::RetryPolicy {
            retry_on,
            num_retries,
            per_try_timeout,
            per_try_idle_timeout,
            retry_priority,
            // Which host a retry goes to. The balancer already avoids hosts that failed while there are others.
            retry_host_predicate: _,
            host_selection_retry_max_attempts: _,
            retry_options_predicates,
            retriable_status_codes,
            retry_back_off,
            rate_limited_retry_back_off,
            retriable_headers,
            retriable_request_headers,
            refresh_cluster_on_retry,
        } = wire;
        unsupported_any(&[
            ("retry_priority", retry_priority.is_some()),
            ("retry_options_predicates", !retry_options_predicates.is_empty()),
            ("rate_limited_retry_back_off", rate_limited_retry_back_off.is_some()),
            ("refresh_cluster_on_retry", refresh_cluster_on_retry),
        ])?;
        let (base_interval, max_interval) =
            back_off(retry_back_off).map_err(|bad| bad.within("retry_back_off"))?;
        let limit = |value: Option<Duration>| value.filter(|value| !value.is_zero());
        let statuses = each("retriable_status_codes", retriable_status_codes, |code| {
            u16::try_from(code)
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok())
                .ok_or_else(|| Unusable::new("", format_args!("{code} is no status")))
        })?;
        Ok(Self {
            on: Conditions::read(&retry_on),
            num_retries: number(num_retries).unwrap_or(1),
            per_try_timeout: limit(duration("per_try_timeout", per_try_timeout)?),
            per_try_idle_timeout: limit(duration("per_try_idle_timeout", per_try_idle_timeout)?),
            base_interval,
            max_interval,
            statuses: statuses.into(),
            response_headers: each("retriable_headers", retriable_headers, HeaderMatcher::decode)?.into(),
            request_headers: each(
                "retriable_request_headers",
                retriable_request_headers,
                HeaderMatcher::decode,
            )?
            .into(),
        })
    }

    /// Returns whether requests with this head are retried at all: `retriable_request_headers` is empty, or one of them
    /// matches.
    pub fn applies_to(&self, head: &Head<'_>) -> bool {
        self.request_headers.is_empty() || self.request_headers.iter().any(|matcher| matcher.matches(head))
    }

    /// Returns whether another attempt of a request with `method` may begin while one is in flight, so that both may be executed:
    /// the method is idempotent (RFC 9110 section 9.2.2), or the policy repeats requests that may have been executed anyway.
    pub fn repeats(&self, method: &Method) -> bool {
        self.on != Conditions::default() && (method.is_idempotent() || self.on.any_5xx || self.on.reset)
    }

    /// Counts an attempt that begins while one is in flight, and returns the back-off before it. Returns `None` if `num_retries` is
    /// exhausted. As in Envoy, no condition has to match. `jitter` is random, uniform over `u32`.
    pub fn hedge(&self, retries: &mut Retries, jitter: u32) -> Option<Duration> {
        if retries.0 >= self.num_retries {
            return None;
        }
        let after = self.back_off(retries.0, jitter);
        retries.0 += 1;
        Some(after)
    }

    /// Returns whether a condition of the policy matches a response, however many retries are left.
    pub fn would_retry(&self, facts: ResponseFacts, headers: &HeaderMap, method: &Method) -> bool {
        self.answered(facts, headers, method)
    }

    /// Decides whether a request with `method` is retried after an attempt. Counts the retry, if any.
    ///
    /// `jitter` is random, uniform over `u32`.
    pub fn decide(
        &self,
        retries: &mut Retries,
        method: &Method,
        outcome: Outcome<'_>,
        jitter: u32,
    ) -> Decision {
        let holds = match outcome {
            Outcome::Failed(failure) => self.on.failed(failure, method),
            Outcome::Answered { facts, headers } => self.answered(facts, headers, method),
        };
        if !holds {
            return Decision::Stands;
        }
        if retries.0 >= self.num_retries {
            return Decision::LimitReached;
        }
        let after = self.back_off(retries.0, jitter);
        retries.0 += 1;
        let free = |failure: &Failure| failure.never_processed() && !failure.reason.is_of_overload();
        let charged = !matches!(outcome, Outcome::Failed(failure) if free(failure));
        Decision::Retry { after, charged }
    }

    fn answered(&self, facts: ResponseFacts, headers: &HeaderMap, method: &Method) -> bool {
        let (on, status) = (&self.on, facts.status);
        if facts.reason.is_some_and(Reason::is_deterministic) {
            return false;
        }
        let grpc = facts.grpc_status.is_some_and(|code| code < 32 && on.grpc >> code & 1 == 1);
        on.any_5xx && status.is_server_error()
            || on.gateway_error && matches!(status.as_u16(), 502..=504)
            || on.retriable_4xx && status == StatusCode::CONFLICT
            || on.retriable_statuses && self.statuses.contains(&status)
            || on.retriable_headers && self.response_headers.iter().any(|m| m.matches_response(headers))
            || on.idempotent_failure && status == StatusCode::SERVICE_UNAVAILABLE && method.is_idempotent()
            || grpc
    }

    /// Exponential back-off with full jitter, as in Envoy.
    fn back_off(&self, retries: u32, jitter: u32) -> Duration {
        let doubled = self.base_interval.saturating_mul(1u32.checked_shl(retries).unwrap_or(u32::MAX));
        doubled.min(self.max_interval).mul_f64(f64::from(jitter) / (f64::from(u32::MAX) + 1.0))
    }
}

fn back_off(wire: Option<route::retry_policy::RetryBackOff>) -> Result<(Duration, Duration), Unusable> {
    const BASE: Duration = Duration::from_millis(25);
    let Some(route::retry_policy::RetryBackOff { base_interval, max_interval }) = wire else {
        return Ok((BASE, 10 * BASE));
    };
    let base = positive_duration("base_interval", base_interval)?
        .ok_or_else(|| Unusable::new("base_interval", "is required"))?;
    // One millisecond is the minimum, as in Envoy.
    let base = base.max(Duration::from_millis(1));
    let max = positive_duration("max_interval", max_interval)?.unwrap_or(base.saturating_mul(10));
    if max < base {
        return Err(Unusable::new("max_interval", "is shorter than base_interval"));
    }
    Ok((base, max))
}

impl Conditions {
    fn read(retry_on: &str) -> Self {
        let mut on = Self::default();
        for word in retry_on.split(',').map(str::trim) {
            match word {
                "5xx" => on.any_5xx = true,
                "gateway-error" => on.gateway_error = true,
                "reset" => on.reset = true,
                "reset-before-request" => on.reset_before_request = true,
                "connect-failure" => on.connect_failure = true,
                "refused-stream" => on.refused_stream = true,
                "retriable-4xx" => on.retriable_4xx = true,
                "retriable-status-codes" => on.retriable_statuses = true,
                "retriable-headers" => on.retriable_headers = true,
                "idempotent-failure" => on.idempotent_failure = true,
                "cancelled" => on.grpc |= 1 << 1,
                "deadline-exceeded" => on.grpc |= 1 << 4,
                "resource-exhausted" => on.grpc |= 1 << 8,
                "internal" => on.grpc |= 1 << 13,
                "unavailable" => on.grpc |= 1 << 14,
                _ => {}
            }
        }
        on
    }

    fn failed(&self, failure: &Failure, method: &Method) -> bool {
        if !another_attempt_could_help(failure) {
            return false;
        }
        let connecting =
            matches!(failure.reason, Reason::UpstreamConnectionFailure | Reason::UpstreamTlsFailure);
        match failure.reached {
            Reached::ResponseStarted => false,
            Reached::NotWritten => {
                self.any_5xx || self.reset || self.reset_before_request || connecting && self.connect_failure
            }
            Reached::NotProcessed => self.any_5xx || self.reset || self.refused_stream,
            Reached::Maybe => self.any_5xx || self.reset || self.idempotent_failure && method.is_idempotent(),
        }
    }
}

/// Returns whether the failure is specific to one endpoint or connection, so that another attempt may succeed.
fn another_attempt_could_help(failure: &Failure) -> bool {
    match failure.reason {
        Reason::UpstreamConnectionFailure
        | Reason::UpstreamTlsFailure
        | Reason::UpstreamConnectionTermination
        | Reason::UpstreamRemoteReset
        // The per-attempt timeout. The caller does not ask after the request's timeout has expired.
        | Reason::UpstreamRequestTimeout
        | Reason::ApplicationUnreachable => true,
        // The endpoint's own limit: others may have capacity. Our limits apply to the whole cluster.
        Reason::UpstreamOverflow | Reason::Overloaded => failure.reached == Reached::NotProcessed,
        Reason::DownstreamProtocolError
        // The next response would be malformed too.
        | Reason::UpstreamProtocolError
        | Reason::DownstreamTlsFailure
        | Reason::DownstreamConnectionTermination
        | Reason::DownstreamTimeout
        | Reason::HeadersTooLarge
        | Reason::UriTooLong
        | Reason::Http10Refused
        | Reason::NoRouteFound
        | Reason::UpgradeRefused
        | Reason::NoDestination
        | Reason::DestinationNotHttp
        | Reason::DestinationTimeout
        | Reason::NoClusterFound
        | Reason::NoHealthyUpstream
        // The next response would be as large.
        | Reason::UpstreamHeadersTooLarge
        | Reason::UpstreamRetryLimitExceeded
        | Reason::RetryBudgetExceeded
        | Reason::DirectResponse
        | Reason::Unauthenticated
        | Reason::KeysUnavailable
        | Reason::AccessDenied
        | Reason::ExternalAuthorizationDenied
        | Reason::ExternalAuthorizationFailed
        | Reason::RateLimited
        | Reason::RateLimitServiceFailed
        | Reason::BodyTooLarge
        | Reason::FaultInjected
        | Reason::LocalError => false,
    }
}

#[cfg(test)]
mod tests;
