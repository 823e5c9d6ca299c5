//! Limits that a service counts for all proxies (`envoy.extensions.filters.http.ratelimit.v3.RateLimit`): the service is asked
//! about the descriptors of each request (`envoy.service.ratelimit.v3`).
//!
//! If the service cannot be asked, the request is forwarded and counted, unless `failure_mode_deny` is set.

mod answer;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode, header};
use outrigger_core::Name;
use outrigger_core::percentage::Percentage;
use outrigger_core::reason::Reason;
use outrigger_proto::xds::common_ratelimit::{RateLimitDescriptor, rate_limit_descriptor::Entry};
use outrigger_proto::xds::ratelimit_service::RateLimitRequest;
use outrigger_proto::xds::{core, ratelimit as wire, ratelimit_config};

use crate::descriptor::{Descriptor, DescriptorRule, Inherited, checked_stage};
use crate::field::{
    Unusable, duration, each, final_status, limit_status, non_empty, required, runtime_fraction,
    unsupported_any,
};
use crate::header_mutation::HeaderMutation;
use crate::question::GrpcService;
use crate::verdict::{FilterRequest, Heard, Refusal, Response, ResponseChanges, Verdict};
use answer::Answer;

const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// How long the service may take unless the configuration says otherwise, as in Envoy.
const TIMEOUT: Duration = Duration::from_millis(20);

/// Tells an Envoy in front of this proxy that another attempt is useless.
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

/// The configuration of the filter, in a listener or a route.
#[derive(Debug, Clone)]
pub enum GlobalRateLimit {
    /// In a listener.
    Filter(Arc<Filter>),
    /// In a route.
    Route(Arc<OfRoute>),
}

/// The filter.
#[derive(Debug, Clone)]
pub struct Filter {
    service: GrpcService,
    timeout: Duration,
    domain: String,
    stage: u32,
    rules: Box<[DescriptorRule]>,
    /// The share of requests that the service is asked about.
    enabled: Percentage,
    /// The share of these that are refused if the service says so.
    enforced: Percentage,
    /// The share of requests that are refused if the service fails.
    denied_on_failure: Percentage,
    status: StatusCode,
    grpc_status: u8,
    status_on_error: StatusCode,
    refused: HeaderMutation,
    tells_limit: bool,
    tells_when: bool,
}

/// What a route changes.
#[derive(Debug, Clone)]
pub struct OfRoute {
    inherited: Inherited,
    rules: Box<[DescriptorRule]>,
    domain: String,
}

impl GlobalRateLimit {
    /// Decodes the filter of a listener.
    pub fn decode(wire: wire::RateLimit) -> Result<Self, Unusable> {
        Filter::decode(wire).map(Arc::new).map(Self::Filter)
    }

    /// Decodes the filter's configuration for a route.
    pub fn decode_for_route(wire: wire::RateLimitPerRoute) -> Result<Self, Unusable> {
        use wire::rate_limit_per_route::VhRateLimitsOptions as Wire;
        let wire::RateLimitPerRoute { vh_rate_limits, override_option, rate_limits, domain } = wire;
        unsupported_any(&[("override_option", override_option != 0)])?;
        let inherited = match Wire::try_from(vh_rate_limits) {
            Ok(Wire::Override) => Inherited::Override,
            Ok(Wire::Include) => Inherited::Include,
            Ok(Wire::Ignore) => Inherited::Ignore,
            Err(_) => return Err(Unusable::new("vh_rate_limits", "is unknown")),
        };
        let rules = each("rate_limits", rate_limits, DescriptorRule::decode)?.into();
        Ok(Self::Route(Arc::new(OfRoute { inherited, rules, domain })))
    }

    /// Returns the cluster of the service.
    pub fn cluster(&self) -> Option<&Name> {
        match self {
            Self::Filter(filter) => Some(&filter.service.cluster),
            Self::Route(_) => None,
        }
    }

    /// Decides about a request. `listener` is the configuration in the listener.
    pub fn decide(&self, listener: &Self, request: &FilterRequest<'_>) -> Verdict {
        let Self::Filter(filter) = listener else { return Verdict::Admit };
        let of_route = match self {
            Self::Filter(_) => None,
            Self::Route(route) => Some(&**route),
        };
        if !filter.enabled.holds((request.random)()) {
            return Verdict::Admit;
        }
        let descriptors = filter.descriptors(of_route, request);
        if descriptors.is_empty() {
            return Verdict::Admit;
        }
        let own = of_route.map(|route| &route.domain).filter(|domain| !domain.is_empty());
        let message = RateLimitRequest {
            domain: own.unwrap_or(&filter.domain).clone(),
            descriptors: descriptors.into_iter().map(to_wire).collect(),
            hits_addend: 0, // means 1
        };
        Verdict::Ask(Box::new(filter.service.call(METHOD, filter.timeout, &message)))
    }

    /// Decides again, with the service's reply.
    pub fn decide_again(
        &self,
        listener: &Self,
        request: &FilterRequest<'_>,
        heard: Heard,
        changes: &mut ResponseChanges,
    ) -> Verdict {
        let Self::Filter(filter) = listener else { return Verdict::Admit };
        match heard {
            Heard::Body(_) => Verdict::Admit,
            Heard::Reply(reply) => match reply.ok().and_then(|reply| reply.message().ok()) {
                Some(message) => filter.heard(Answer::of(message), request, changes),
                None => filter.failed(request),
            },
        }
    }
}

fn to_wire(descriptor: Descriptor) -> RateLimitDescriptor {
    let entries = descriptor.into_iter().map(|(key, value)| Entry { key, value }).collect();
    RateLimitDescriptor { entries, ..Default::default() }
}

impl Filter {
    fn descriptors(&self, of_route: Option<&OfRoute>, request: &FilterRequest<'_>) -> Vec<Descriptor> {
        let own = of_route.map(|route| &route.rules).filter(|rules| !rules.is_empty());
        let rules = own.unwrap_or(&self.rules);
        let subject = request.subject();
        if !rules.is_empty() {
            return rules.iter().filter_map(|rule| rule.descriptor(&subject)).collect();
        }
        let inherited = of_route.map_or(Inherited::Override, |route| route.inherited);
        request.descriptors.map(|rules| rules.of(&subject, self.stage, inherited)).unwrap_or_default()
    }

    fn heard(&self, answer: Answer, request: &FilterRequest<'_>, changes: &mut ResponseChanges) -> Verdict {
        if self.tells_limit
            && let Some(fields) = answer.limit_fields()
        {
            changes.set(fields);
        }
        if !answer.over_limit || !self.enforced.holds((request.random)()) {
            changes.mutate(answer.response);
            return Verdict::AdmitWith(answer.request);
        }
        let mut fields = self.refused.clone().then(&answer.response);
        if self.tells_when
            && self.status == StatusCode::TOO_MANY_REQUESTS
            && let Some(seconds) = answer.reset
        {
            fields.set_if(false, header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        changes.mutate(fields);
        let (reason, status) = (Reason::RateLimited, self.status);
        if answer.body.is_empty() {
            return Verdict::Refuse(Refusal { reason, status, grpc_status: Some(self.grpc_status) });
        }
        let fields = http::HeaderMap::new();
        Verdict::Respond(Box::new(Response { reason, status, fields, body: answer.body }))
    }

    fn failed(&self, request: &FilterRequest<'_>) -> Verdict {
        if !self.denied_on_failure.holds((request.random)()) {
            return Verdict::AdmitUnchecked(HeaderMutation::default());
        }
        Verdict::refuse(Reason::RateLimitServiceFailed, self.status_on_error)
    }

    fn decode(wire: wire::RateLimit) -> Result<Self, Unusable> {
        use wire::rate_limit::XRateLimitHeadersRfcVersion as Version;
        let wire::RateLimit {
            domain,
            stage,
            request_type,
            timeout,
            failure_mode_deny,
            rate_limited_as_resource_exhausted,
            rate_limit_service,
            enable_x_ratelimit_headers,
            disable_x_envoy_ratelimited_header,
            rate_limited_status,
            response_headers_to_add,
            status_on_error,
            stat_prefix: _, // refusals are counted by their reason
            filter_enabled,
            filter_enforced,
            failure_mode_deny_percent,
            rate_limits,
            metadata_namespace: _, // no filter reads metadata
            enable_retry_after_header,
        } = wire;
        if !matches!(request_type.as_str(), "" | "both") {
            return Err(Unusable::new("request_type", "other than both is not supported"));
        }
        let within = |bad: Unusable| bad.within("rate_limit_service");
        let service = service(required("rate_limit_service", rate_limit_service)?).map_err(within)?;
        let share = |field, wire, default| Ok(runtime_fraction(field, wire)?.unwrap_or(default));
        let on_failure = if failure_mode_deny { Percentage::ALL } else { Percentage::ZERO };
        let mut refused = HeaderMutation::decode_list("response_headers_to_add", response_headers_to_add)?;
        if !disable_x_envoy_ratelimited_header {
            refused.set(RATE_LIMITED, HeaderValue::from_static("true"));
        }
        Ok(Self {
            service,
            timeout: match duration("timeout", timeout)? {
                None => TIMEOUT,
                // As in Envoy, 0 is no limit: the one of the request remains.
                Some(Duration::ZERO) => Duration::MAX,
                Some(timeout) => timeout,
            },
            domain: non_empty("domain", domain)?,
            stage: checked_stage(stage)?,
            rules: each("rate_limits", rate_limits, DescriptorRule::decode)?.into(),
            enabled: share("filter_enabled", filter_enabled, Percentage::ALL)?,
            enforced: share("filter_enforced", filter_enforced, Percentage::ALL)?,
            denied_on_failure: share("failure_mode_deny_percent", failure_mode_deny_percent, on_failure)?,
            status: limit_status(rate_limited_status),
            grpc_status: if rate_limited_as_resource_exhausted { 8 } else { 14 },
            status_on_error: match status_on_error {
                None => StatusCode::INTERNAL_SERVER_ERROR,
                Some(wire) => final_status("status_on_error", wire)?,
            },
            refused,
            tells_limit: match Version::try_from(enable_x_ratelimit_headers) {
                Ok(Version::Off) => false,
                Ok(Version::DraftVersion03) => true,
                Err(_) => return Err(Unusable::new("enable_x_ratelimit_headers", "is unknown")),
            },
            tells_when: enable_retry_after_header,
        })
    }
}

fn service(wire: ratelimit_config::RateLimitServiceConfig) -> Result<GrpcService, Unusable> {
    let ratelimit_config::RateLimitServiceConfig { grpc_service, transport_api_version } = wire;
    match core::ApiVersion::try_from(transport_api_version) {
        Ok(core::ApiVersion::Auto | core::ApiVersion::V3) => {}
        _ => return Err(Unusable::new("transport_api_version", "other than V3 is not supported")),
    }
    GrpcService::decode(required("grpc_service", grpc_service)?).map_err(|bad| bad.within("grpc_service"))
}
