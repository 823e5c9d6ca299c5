//! What a rate limit service answered (`envoy.service.ratelimit.v3.RateLimitResponse`).
//!
//! A field with an illegal name or value, or that no policy may change, is passed over: it does not say whether a limit is reached.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_proto::xds::core;
use outrigger_proto::xds::ratelimit_service::{
    RateLimitResponse,
    rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit::Unit},
};

use crate::header_mutation::{HeaderMutation, mutable_name};

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// Whether a limit is reached.
    pub(super) over_limit: bool,
    /// Changes to the request.
    pub(super) request: HeaderMutation,
    /// Changes to the response.
    pub(super) response: HeaderMutation,
    /// The body of a refusal.
    pub(super) body: Bytes,
    /// In how many seconds the limits that are reached are not reached any more.
    pub(super) reset: Option<u64>,
    statuses: Vec<DescriptorStatus>,
}

impl Answer {
    /// Reads an answer. As in Envoy, a request passes unless the answer is that a limit is reached.
    pub(super) fn of(message: RateLimitResponse) -> Self {
        let RateLimitResponse {
            overall_code,
            statuses,
            response_headers_to_add,
            request_headers_to_add,
            raw_body,
            dynamic_metadata: _,
            quota: _,
        } = message;
        let reached = statuses.iter().filter(|status| status.code == i32::from(Code::OverLimit));
        Self {
            over_limit: overall_code == i32::from(Code::OverLimit),
            request: appended(request_headers_to_add),
            response: appended(response_headers_to_add),
            body: raw_body.into(),
            reset: reached.map(|status| seconds(status).max(1)).max(),
            statuses,
        }
    }

    /// Returns the fields of draft-polli-ratelimit-headers-03 for the limit with the fewest requests left, or `None` if the service names no
    /// limit.
    pub(super) fn limit_fields(&self) -> Option<HeaderMap> {
        let limited =
            || self.statuses.iter().filter_map(|status| Some((status, status.current_limit.as_ref()?)));
        let (tightest, limit) = limited().min_by_key(|(status, _)| status.limit_remaining)?;
        let policies: String = limited().map(|(_, limit)| policy(limit)).collect();
        let value = HeaderValue::try_from(format!("{}{policies}", limit.requests_per_unit)).ok()?;
        Some(HeaderMap::from_iter([
            (HeaderName::from_static("x-ratelimit-limit"), value),
            (HeaderName::from_static("x-ratelimit-remaining"), HeaderValue::from(tightest.limit_remaining)),
            (HeaderName::from_static("x-ratelimit-reset"), HeaderValue::from(seconds(tightest))),
        ]))
    }
}

fn policy(limit: &RateLimit) -> String {
    let RateLimit { name, requests_per_unit, unit } = limit;
    let window = match Unit::try_from(*unit) {
        Ok(Unit::Second) => 1,
        Ok(Unit::Minute) => 60,
        Ok(Unit::Hour) => 3600,
        Ok(Unit::Day) => 86_400,
        Ok(Unit::Week) => 7 * 86_400,
        Ok(Unit::Month) => 30 * 86_400,
        Ok(Unit::Year) => 365 * 86_400,
        Ok(Unit::Unknown) | Err(_) => return String::new(),
    };
    let name = if name.is_empty() { String::new() } else { format!(";name=\"{name}\"") };
    format!(", {requests_per_unit};w={window}{name}")
}

fn seconds(status: &DescriptorStatus) -> u64 {
    status.duration_until_reset.map_or(0, |time| u64::try_from(time.seconds).unwrap_or(0))
}

fn appended(fields: Vec<core::HeaderValue>) -> HeaderMutation {
    let mut all = HeaderMutation::default();
    for core::HeaderValue { key, value, raw_value } in fields {
        let value = if raw_value.is_empty() { value.as_bytes() } else { &raw_value };
        if let (Ok(name), Ok(value)) = (mutable_name("", &key), HeaderValue::from_bytes(value)) {
            all.append(name, value);
        }
    }
    all
}
