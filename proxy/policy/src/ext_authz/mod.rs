//! External authorization (`envoy.extensions.filters.http.ext_authz.v3.ExtAuthz`): a service is asked whether a request is
//! allowed, by a gRPC call ([`check`]) or an HTTP request ([`http_service`]).
//!
//! If the service cannot be asked, the request is refused unless `failure_mode_allow` is set.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod properties;
mod check;
mod http_service;
mod answer;
mod fields;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use outrigger_core::Name;
use outrigger_core::percentage::Percentage;
use outrigger_core::reason::Reason;
use outrigger_proto::xds::{core, ext_authz as wire};

use crate::field::{Unusable, final_status, runtime_fraction, unsupported_any};
use crate::header_mutation::HeaderMutation;
use crate::question::{GrpcService, ServiceReply};
use crate::verdict::{Beginning, FilterRequest, Heard, ResponseChanges, Verdict};
use answer::Answer;
use fields::Selection;
use http_service::HttpService;

/// How long a service may take unless the configuration says otherwise, as in Envoy.
const TIMEOUT: Duration = Duration::from_millis(200);

/// The field of a request that was let through because the service failed.
const FAILURE_ALLOWED: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

/// The configuration of the filter, in a listener or a route.
#[derive(Debug, Clone)]
pub enum ExtAuthz {
    /// In a listener.
    Filter(Arc<Filter>),
    /// In a route.
    Route(Arc<Settings>),
    /// In a route that needs no authorization.
    Off,
}

/// The filter.
#[derive(Debug, Clone)]
pub struct Filter {
    service: Service,
    body: Option<Body>,
    fields: Selection,
    /// The share of requests that the service is asked about.
    enabled: Percentage,
    /// Whether the others are refused.
    deny_at_disable: bool,
    failure_allowed: bool,
    tells_failure: bool,
    status_on_error: StatusCode,
    /// The longest body of a response by which the service denies a request, in bytes. Longer ones are cut.
    longest_denial: usize,
}

/// What a route changes.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    context: HashMap<String, String>,
    body: Option<Option<Body>>,
    service: Option<Service>,
}

#[derive(Debug, Clone)]
enum Service {
    Grpc(GrpcService),
    Http(HttpService),
}

/// How a request's body is sent to the service (`BufferSettings`).
#[derive(Debug, Clone, Copy)]
struct Body {
    most: usize,
    may_be_cut: bool,
    as_bytes: bool,
}

impl ExtAuthz {
    /// Decodes the filter of a listener.
    pub fn decode(wire: wire::ExtAuthz) -> Result<Self, Unusable> {
        Filter::decode(wire).map(Arc::new).map(Self::Filter)
    }

    /// Decodes the filter's configuration for a route.
    pub fn decode_for_route(wire: wire::ExtAuthzPerRoute) -> Result<Self, Unusable> {
        use wire::ext_authz_per_route::Override;
        let wire::ExtAuthzPerRoute { r#override } = wire;
        match r#override {
            None => Err(Unusable::new("override", "is required")),
            Some(Override::Disabled(true)) => Ok(Self::Off),
            Some(Override::Disabled(false)) => Ok(Self::Route(Arc::default())),
            Some(Override::CheckSettings(wire)) => {
                let settings = Settings::decode(wire).map_err(|bad| bad.within("check_settings"))?;
                Ok(Self::Route(Arc::new(settings)))
            }
        }
    }

    /// Returns this configuration for a route with what it inherits from `outer`, that of what contains the route: settings are
    /// merged (`CheckSettings`).
    #[must_use]
    pub fn over(self, outer: &Self) -> Self {
        match (&self, outer) {
            (Self::Route(inner), Self::Route(outer)) => Self::Route(Arc::new(inner.over(outer))),
            _ => self,
        }
    }

    /// Returns the cluster of the service.
    pub fn cluster(&self) -> Option<&Name> {
        match self {
            Self::Filter(filter) => Some(filter.service.cluster()),
            Self::Route(settings) => settings.service.as_ref().map(Service::cluster),
            Self::Off => None,
        }
    }

    /// Decides about a request. `listener` is the configuration in the listener.
    pub fn decide(&self, listener: &Self, request: &FilterRequest<'_>) -> Verdict {
        let Some(check) = self.of(listener) else { return Verdict::Admit };
        let Check { filter, .. } = check;
        if !filter.enabled.holds((request.random)()) {
            return if filter.deny_at_disable { filter.refuse() } else { Verdict::Admit };
        }
        match check.body() {
            Some(body) if request.has_body => Verdict::ReadBody(body.most),
            _ => check.ask(request, None),
        }
    }

    /// Decides again, with the body or the service's reply.
    pub fn decide_again(
        &self,
        listener: &Self,
        request: &FilterRequest<'_>,
        heard: Heard,
        changes: &mut ResponseChanges,
    ) -> Verdict {
        let Some(check) = self.of(listener) else { return Verdict::Admit };
        match heard {
            Heard::Body(body) => match check.body() {
                Some(Body { may_be_cut: false, .. }) if body.is_cut => {
                    Verdict::refuse(Reason::BodyTooLarge, Reason::BodyTooLarge.status())
                }
                _ => check.ask(request, Some(body)),
            },
            Heard::Reply(Ok(reply)) => check.heard(&reply, changes),
            Heard::Reply(Err(_)) => check.filter.failed(),
        }
    }

    /// Returns what applies to a request, or `None` if it needs no authorization.
    fn of<'a>(&'a self, listener: &'a Self) -> Option<Check<'a>> {
        let Self::Filter(filter) = listener else { return None };
        match self {
            Self::Filter(filter) => Some(Check { filter, settings: None }),
            Self::Route(settings) => Some(Check { filter, settings: Some(settings) }),
            Self::Off => None,
        }
    }
}

/// What applies to one request.
#[derive(Clone, Copy)]
struct Check<'a> {
    filter: &'a Filter,
    settings: Option<&'a Settings>,
}

impl Check<'_> {
    fn body(&self) -> Option<Body> {
        self.settings.and_then(|settings| settings.body).unwrap_or(self.filter.body)
    }

    fn service(&self) -> &Service {
        self.settings.and_then(|settings| settings.service.as_ref()).unwrap_or(&self.filter.service)
    }

    fn ask(&self, request: &FilterRequest<'_>, body: Option<Beginning>) -> Verdict {
        let question = match self.service() {
            Service::Grpc(service) => Some(check::question(service, self, request, body)),
            Service::Http(service) => service.question(&self.filter.fields, request, body),
        };
        match question {
            Some(question) => Verdict::Ask(Box::new(question)),
            // A request that cannot be described to the service, whatever state that is in.
            None => self.filter.refuse(),
        }
    }

    fn heard(&self, reply: &ServiceReply, changes: &mut ResponseChanges) -> Verdict {
        let answer = match self.service() {
            Service::Grpc(_) => answer::of_call(reply, self.filter.status_on_error),
            Service::Http(service) => service.answer(reply),
        };
        match answer {
            Answer::Allowed { request, response } => {
                changes.mutate(response);
                Verdict::AdmitWith(request)
            }
            Answer::Denied(mut response) => {
                response.body.truncate(self.filter.longest_denial);
                Verdict::Respond(response)
            }
            Answer::Error(Some(response)) if !self.filter.failure_allowed => Verdict::Respond(response),
            Answer::Error(_) => self.filter.failed(),
            Answer::Unusable => {
                Verdict::refuse(Reason::ExternalAuthorizationFailed, StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }
}

impl Filter {
    /// What happens to a request that the service could not be asked about.
    fn failed(&self) -> Verdict {
        if !self.failure_allowed {
            return self.refuse();
        }
        let mut changes = HeaderMutation::default();
        if self.tells_failure {
            changes.set(FAILURE_ALLOWED, HeaderValue::from_static("true"));
        }
        Verdict::AdmitUnchecked(changes)
    }

    fn refuse(&self) -> Verdict {
        Verdict::refuse(Reason::ExternalAuthorizationFailed, self.status_on_error)
    }

    fn decode(wire: wire::ExtAuthz) -> Result<Self, Unusable> {
        use wire::ext_authz::Services;
        let wire::ExtAuthz {
            transport_api_version,
            failure_mode_allow,
            failure_mode_allow_header_add,
            with_request_body,
            clear_route_cache,
            status_on_error,
            validate_mutations: _, // they always are
            metadata_context_namespaces,
            typed_metadata_context_namespaces,
            route_metadata_context_namespaces,
            route_typed_metadata_context_namespaces,
            filter_enabled,
            filter_enabled_metadata,
            deny_at_disable,
            include_peer_certificate,
            stat_prefix: _, // denials are counted by their reason
            bootstrap_metadata_labels_key,
            allowed_headers,
            disallowed_headers,
            include_tls_session,
            charge_cluster_response_stats: _, // denials are counted by their reason
            encode_raw_headers,
            decoder_header_mutation_rules,
            enable_dynamic_metadata_ingestion: _, // no filter reads metadata
            filter_metadata: _,                   // for access logs
            emit_filter_state_stats: _,           // for access logs
            max_denied_response_body_bytes,
            enforce_response_header_limits,
            shadow_mode,
            emit_client_span: _, // there is no such span
            services,
        } = wire;
        unsupported_any(&[
            ("clear_route_cache", clear_route_cache),
            // A service that decides by them must not be asked without them.
            ("metadata_context_namespaces", !metadata_context_namespaces.is_empty()),
            ("typed_metadata_context_namespaces", !typed_metadata_context_namespaces.is_empty()),
            ("route_metadata_context_namespaces", !route_metadata_context_namespaces.is_empty()),
            ("route_typed_metadata_context_namespaces", !route_typed_metadata_context_namespaces.is_empty()),
            ("filter_enabled_metadata", filter_enabled_metadata.is_some()),
            ("include_peer_certificate", include_peer_certificate),
            ("bootstrap_metadata_labels_key", !bootstrap_metadata_labels_key.is_empty()),
            ("include_tls_session", include_tls_session),
            ("decoder_header_mutation_rules", decoder_header_mutation_rules.is_some()),
            ("enforce_response_header_limits", enforce_response_header_limits),
            ("shadow_mode", shadow_mode),
        ])?;
        match core::ApiVersion::try_from(transport_api_version) {
            Ok(core::ApiVersion::Auto | core::ApiVersion::V3) => {}
            _ => return Err(Unusable::new("transport_api_version", "other than V3 is not supported")),
        }
        let service = match services {
            Some(Services::GrpcService(wire)) => Service::grpc(wire)?,
            Some(Services::HttpService(wire)) => Service::http(wire)?,
            None => return Err(Unusable::new("services", "is required")),
        };
        Ok(Self {
            service,
            body: with_request_body.map(Body::decode).transpose()?,
            fields: Selection::decode(allowed_headers, disallowed_headers, encode_raw_headers)?,
            enabled: runtime_fraction("filter_enabled", filter_enabled)?.unwrap_or(Percentage::ALL),
            deny_at_disable: deny_at_disable.is_some_and(|of| of.default_value.is_some_and(|of| of.value)),
            failure_allowed: failure_mode_allow,
            tells_failure: failure_mode_allow && failure_mode_allow_header_add,
            status_on_error: status_on_error
                .map_or(Ok(StatusCode::FORBIDDEN), |wire| final_status("status_on_error", wire))?,
            longest_denial: match max_denied_response_body_bytes {
                0 => usize::MAX,
                bytes => bytes as usize,
            },
        })
    }
}

impl Settings {
    fn decode(wire: wire::CheckSettings) -> Result<Self, Unusable> {
        use wire::check_settings::ServiceOverride;
        let wire::CheckSettings {
            context_extensions,
            disable_request_body_buffering,
            with_request_body,
            emit_client_span: _, // there is no such span
            service_override,
        } = wire;
        let body = match (disable_request_body_buffering, with_request_body) {
            (true, Some(_)) => {
                return Err(Unusable::new(
                    "with_request_body",
                    "is set beside disable_request_body_buffering",
                ));
            }
            (true, None) => Some(None),
            (false, wire) => wire.map(Body::decode).transpose()?.map(Some),
        };
        let service = match service_override {
            Some(ServiceOverride::GrpcService(wire)) => Some(Service::grpc(wire)?),
            Some(ServiceOverride::HttpService(wire)) => Some(Service::http(wire)?),
            None => None,
        };
        Ok(Self { context: context_extensions, body, service })
    }

    fn over(&self, outer: &Self) -> Self {
        let mut context = outer.context.clone();
        context.extend(self.context.clone());
        let service = self.service.as_ref().or(outer.service.as_ref()).cloned();
        Self { context, body: self.body.or(outer.body), service }
    }
}

impl Service {
    fn grpc(wire: core::GrpcService) -> Result<Self, Unusable> {
        GrpcService::decode(wire).map(Self::Grpc).map_err(|bad| bad.within("grpc_service"))
    }

    fn http(wire: wire::HttpService) -> Result<Self, Unusable> {
        HttpService::decode(wire).map(Self::Http).map_err(|bad| bad.within("http_service"))
    }

    fn cluster(&self) -> &Name {
        match self {
            Self::Grpc(service) => &service.cluster,
            Self::Http(service) => &service.cluster,
        }
    }
}

impl Body {
    /// The longest beginning of a body that a filter may keep, in bytes.
    const LONGEST: u32 = 4 * 1024 * 1024;

    fn decode(wire: wire::BufferSettings) -> Result<Self, Unusable> {
        let wire::BufferSettings { max_request_bytes, allow_partial_message, pack_as_bytes } = wire;
        if !(1..=Self::LONGEST).contains(&max_request_bytes) {
            let what = format_args!("{max_request_bytes} is not between 1 and {}", Self::LONGEST);
            return Err(Unusable::new("with_request_body.max_request_bytes", what));
        }
        let most = max_request_bytes as usize;
        Ok(Self { most, may_be_cut: allow_partial_message, as_bytes: pack_as_bytes })
    }
}
