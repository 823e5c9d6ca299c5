//! Limits on requests of one proxy (`envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`): token buckets for all
//! requests, and for those with certain descriptors.
//!
//! A limit counts for the whole process, and its buckets outlive the configuration ([`limit`]).

mod limit;
mod bucket;
#[cfg(test)]
mod tests;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use outrigger_core::percentage::Percentage;
use outrigger_core::reason::Reason;
use outrigger_proto::xds::{common_ratelimit, local_ratelimit as wire};

use crate::descriptor::{Descriptor, DescriptorRule, Inherited, checked_stage};
use crate::field::{
    Unusable, each, limit_status, non_empty, number, required, runtime_fraction, unsupported_any,
};
use crate::header_mutation::HeaderMutation;
use crate::verdict::{FilterRequest, Refusal, ResponseChanges, Verdict};
use bucket::{Rate, Taken};
use limit::Limit;

/// How many values of an open entry have buckets at a time unless the configuration says otherwise, as in Envoy.
const VALUES: u32 = 20;
/// The most that a configuration may say. Each costs some hundred bytes.
const MOST_VALUES: u32 = 10_000;

/// The `grpc-status` of a refused gRPC request: UNAVAILABLE, or RESOURCE_EXHAUSTED if the configuration says so.
const UNAVAILABLE: u8 = 14;
const RESOURCE_EXHAUSTED: u8 = 8;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The filter.
#[derive(Debug, Clone)]
pub struct LocalRateLimit {
    /// The share of requests that are counted.
    enabled: Percentage,
    /// The share of these that are refused if they exceed a limit.
    enforced: Percentage,
    /// Of all requests.
    all: Option<Limit>,
    /// Of those with a descriptor.
    described: Box<[Limit]>,
    /// Whether requests that another limit applies to count for that of all, too.
    always_all: bool,
    descriptors: Descriptors,
    status: StatusCode,
    grpc_status: u8,
    not_enforced: HeaderMutation,
    refused: HeaderMutation,
    tells_limit: bool,
    tells_when: bool,
}

/// Where the descriptors of requests come from.
#[derive(Debug, Clone)]
enum Descriptors {
    Own(Box<[DescriptorRule]>),
    OfRoute(u32, Inherited),
}

impl LocalRateLimit {
    /// Decodes the filter. A bucket for all requests is required in a route.
    pub fn decode(wire: wire::LocalRateLimit, in_route: bool) -> Result<Self, Unusable> {
        let wire::LocalRateLimit {
            stat_prefix,
            status,
            token_bucket,
            filter_enabled,
            filter_enforced,
            request_headers_to_add_when_not_enforced,
            response_headers_to_add,
            descriptors,
            stage,
            local_rate_limit_per_downstream_connection,
            local_cluster_rate_limit,
            enable_x_ratelimit_headers,
            vh_rate_limits,
            always_consume_default_token_bucket,
            rate_limited_as_resource_exhausted,
            rate_limits,
            max_dynamic_descriptors,
            enable_retry_after_header,
        } = wire;
        unsupported_any(&[
            ("local_rate_limit_per_downstream_connection", local_rate_limit_per_downstream_connection),
            ("local_cluster_rate_limit", local_cluster_rate_limit.is_some()),
        ])?;
        non_empty("stat_prefix", stat_prefix)?; // required as in Envoy, but refusals are counted by their reason
        let bucket = token_bucket.map(|wire| Rate::decode(wire).map_err(|bad| bad.within("token_bucket")));
        let bucket = bucket.transpose()?;
        if in_route {
            required("token_bucket", bucket)?;
        }
        let values = number(max_dynamic_descriptors).unwrap_or(VALUES);
        if !(1..=MOST_VALUES).contains(&values) {
            let what = format_args!("is not between 1 and {MOST_VALUES}");
            return Err(Unusable::new("max_dynamic_descriptors", what));
        }
        let stage = checked_stage(stage)?;
        let inherited = inherited(vh_rate_limits)?;
        let descriptors_of = match rate_limits.is_empty() {
            true => Descriptors::OfRoute(stage, inherited),
            false => Descriptors::Own(each("rate_limits", rate_limits, DescriptorRule::decode)?.into()),
        };
        Ok(Self {
            // As in Envoy, a filter that does not say its shares does nothing.
            enabled: runtime_fraction("filter_enabled", filter_enabled)?.unwrap_or(Percentage::ZERO),
            enforced: runtime_fraction("filter_enforced", filter_enforced)?.unwrap_or(Percentage::ZERO),
            all: bucket.map(Limit::of_all),
            described: each("descriptors", descriptors, |wire| Limit::decode(wire, values as usize))?.into(),
            always_all: always_consume_default_token_bucket.is_none_or(|always| always.value),
            descriptors: descriptors_of,
            status: limit_status(status),
            grpc_status: match rate_limited_as_resource_exhausted {
                true => RESOURCE_EXHAUSTED,
                false => UNAVAILABLE,
            },
            not_enforced: HeaderMutation::decode_list(
                "request_headers_to_add_when_not_enforced",
                request_headers_to_add_when_not_enforced,
            )?,
            refused: HeaderMutation::decode_list("response_headers_to_add", response_headers_to_add)?,
            tells_limit: tells_limit(enable_x_ratelimit_headers)?,
            tells_when: enable_retry_after_header,
        })
    }

    /// Decides about a request.
    pub fn decide(&self, request: &FilterRequest<'_>, changes: &mut ResponseChanges) -> Verdict {
        if !self.enabled.holds((request.random)()) {
            return Verdict::Admit;
        }
        let Some((limit, taken)) = self.take(request) else { return Verdict::Admit };
        if self.tells_limit {
            changes.set(fields_of(limit, taken));
        }
        if taken.taken {
            return Verdict::Admit;
        }
        if !self.enforced.holds((request.random)()) {
            return Verdict::AdmitWith(self.not_enforced.clone());
        }
        let mut refused = self.refused.clone();
        if self.tells_when && self.status == StatusCode::TOO_MANY_REQUESTS {
            refused.set_if(false, header::RETRY_AFTER, seconds(taken.next));
        }
        changes.mutate(refused);
        let (reason, grpc_status) = (Reason::RateLimited, Some(self.grpc_status));
        Verdict::Refuse(Refusal { reason, status: self.status, grpc_status })
    }

    /// Takes over the buckets of the limits that `before`, the previous version, has too.
    pub fn adopt(&self, before: &Self) {
        for limit in self.limits() {
            if let Some(before) = before.limits().find(|before| limit.is_same(before)) {
                limit.adopt(before);
            }
        }
    }

    fn limits(&self) -> impl Iterator<Item = &Limit> {
        self.described.iter().chain(&self.all)
    }

    /// Takes a token of each limit that applies to a request. Returns the one that has none, or else the one with the smallest
    /// share left.
    fn take(&self, request: &FilterRequest<'_>) -> Option<(&Limit, Taken)> {
        let now = (request.now)();
        let mut tightest: Option<(&Limit, Taken)> = None;
        let share = |(limit, taken): &(&Limit, Taken)| taken.left / limit.rate.most;
        let take = |limit: &Limit, descriptor: &[(String, String)]| {
            let taken = limit.take(descriptor, now);
            (!limit.shadow).then_some(taken)
        };
        let mut applied = false;
        for descriptor in self.of(request) {
            let Some(limit) = self.described.iter().find(|limit| limit.applies_to(&descriptor)) else {
                continue;
            };
            applied = true;
            let Some(taken) = take(limit, &descriptor) else { continue };
            if !taken.taken {
                return Some((limit, taken));
            }
            let this = (limit, taken);
            tightest = Some(tightest.filter(|other| share(other) <= share(&this)).unwrap_or(this));
        }
        let Some(limit) = self.all.as_ref().filter(|_| self.always_all || !applied) else { return tightest };
        let Some(taken) = take(limit, &[]) else { return tightest };
        let this = (limit, taken);
        Some(tightest.filter(|other| taken.taken && share(other) <= share(&this)).unwrap_or(this))
    }

    fn of(&self, request: &FilterRequest<'_>) -> Vec<Descriptor> {
        if self.described.is_empty() {
            return Vec::new();
        }
        match (&self.descriptors, request.descriptors) {
            (Descriptors::Own(rules), _) => {
                rules.iter().filter_map(|rule| rule.descriptor(&request.subject())).collect()
            }
            (Descriptors::OfRoute(stage, inherited), Some(route)) => {
                route.of(&request.subject(), *stage, *inherited)
            }
            (Descriptors::OfRoute(..), None) => Vec::new(),
        }
    }
}

fn inherited(wire: i32) -> Result<Inherited, Unusable> {
    use common_ratelimit::VhRateLimitsOptions as Wire;
    match Wire::try_from(wire) {
        Ok(Wire::Override) => Ok(Inherited::Override),
        Ok(Wire::Include) => Ok(Inherited::Include),
        Ok(Wire::Ignore) => Ok(Inherited::Ignore),
        Err(_) => Err(Unusable::new("vh_rate_limits", "is unknown")),
    }
}

fn tells_limit(wire: i32) -> Result<bool, Unusable> {
    use common_ratelimit::XRateLimitHeadersRfcVersion as Wire;
    match Wire::try_from(wire) {
        Ok(Wire::Off) => Ok(false),
        Ok(Wire::DraftVersion03) => Ok(true),
        Err(_) => Err(Unusable::new("enable_x_ratelimit_headers", "is unknown")),
    }
}

/// The fields of draft-polli-ratelimit-headers-03.
fn fields_of(limit: &Limit, taken: Taken) -> HeaderMap {
    let whole = |number: f64| HeaderValue::from(number as u64);
    HeaderMap::from_iter([
        (LIMIT, whole(limit.rate.most)),
        (REMAINING, whole(taken.left)),
        (RESET, seconds(taken.next)),
    ])
}

/// Returns whole seconds, at least one.
fn seconds(time: f64) -> HeaderValue {
    HeaderValue::from(time.ceil().max(1.0) as u64)
}
