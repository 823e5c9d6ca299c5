//! The HTTP filters that this proxy has (`HttpConnectionManager.http_filters`, without the router).
//!
//! A filter is a name and a configuration, which a route can override ([`overrides`]). A new filter is one file with its
//! configuration and its decision, a member of [`FilterConfig`], and the lines for it in this file.

pub mod overrides;
pub mod connection;

use std::sync::Arc;

use outrigger_core::Name;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::{
    api_key_auth, cors, ext_authz, fault, jwt_authn, local_ratelimit, ratelimit, rbac_filter,
    stateful_session, type_url,
};

use crate::api_key::ApiKeys;
use crate::cors::CorsPolicy;
use crate::ext_authz::ExtAuthz;
use crate::fault::Fault;
use crate::field::{Unusable, unpack};
use crate::global_rate_limit::GlobalRateLimit;
use crate::jwt::Jwt;
use crate::local_rate_limit::LocalRateLimit;
use crate::rbac::{Asked, Rbac};
use crate::stateful_session::StatefulSession;
use crate::verdict::{FilterRequest, Heard, ResponseChanges, Verdict};

/// A filter of a listener.
#[derive(Debug, Clone)]
pub struct HttpFilter {
    /// Its name, by which routes override its configuration.
    pub name: Name,
    /// Its configuration.
    pub config: FilterConfig,
    /// Whether it applies only where a route enables it (`HttpFilter.disabled`).
    pub disabled: bool,
}

/// The configuration of a filter, in a listener or a route.
#[derive(Debug, Clone)]
pub enum FilterConfig {
    /// Cross-origin requests. `None` in a listener: only routes have policies.
    Cors(Option<Arc<CorsPolicy>>),
    /// Authentication by signed tokens.
    Jwt(Arc<Jwt>),
    /// Authentication by API keys.
    ApiKey(Arc<ApiKeys>),
    /// Authorization.
    Rbac(Arc<Rbac>),
    /// External authorization.
    ExtAuthz(ExtAuthz),
    /// Limits on the requests of this proxy.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Limits that a service counts.
    GlobalRateLimit(GlobalRateLimit),
    /// Fault injection.
    Fault(Arc<Fault>),
    /// Session persistence. `None` is no sessions.
    StatefulSession(Option<Arc<StatefulSession>>),
}

impl FilterConfig {
    /// Decodes the configuration of a filter of a listener. Returns `None` if this proxy does not have the filter.
    pub fn of_listener(any: &Any) -> Result<Option<Self>, Unusable> {
        match any.type_url.as_str() {
            type_url::CORS => {
                let cors::Cors {} = unpack(any, type_url::CORS)?;
                Ok(Some(Self::Cors(None)))
            }
            type_url::JWT_AUTHENTICATION => {
                let wire: jwt_authn::JwtAuthentication = unpack(any, type_url::JWT_AUTHENTICATION)?;
                Ok(Some(Self::Jwt(Arc::new(Jwt::decode(wire)?))))
            }
            type_url::API_KEY_AUTH => {
                let wire: api_key_auth::ApiKeyAuth = unpack(any, type_url::API_KEY_AUTH)?;
                Ok(Some(Self::ApiKey(Arc::new(ApiKeys::decode(wire)?))))
            }
            type_url::RBAC => {
                let wire: rbac_filter::Rbac = unpack(any, type_url::RBAC)?;
                Ok(Some(Self::Rbac(Arc::new(Rbac::decode(wire)?))))
            }
            type_url::LOCAL_RATE_LIMIT => Self::local_rate_limit(any, false).map(Some),
            type_url::RATE_LIMIT => {
                let wire: ratelimit::RateLimit = unpack(any, type_url::RATE_LIMIT)?;
                Ok(Some(Self::GlobalRateLimit(GlobalRateLimit::decode(wire)?)))
            }
            type_url::EXT_AUTHZ => {
                let wire: ext_authz::ExtAuthz = unpack(any, type_url::EXT_AUTHZ)?;
                Ok(Some(Self::ExtAuthz(ExtAuthz::decode(wire)?)))
            }
            type_url::STATEFUL_SESSION => {
                let wire: stateful_session::StatefulSession = unpack(any, type_url::STATEFUL_SESSION)?;
                Ok(Some(Self::StatefulSession(StatefulSession::decode(wire)?.map(Arc::new))))
            }
            _ => Self::of_either(any),
        }
    }

    /// Decodes the configuration of a filter for a route. Returns `None` if this proxy does not have the filter.
    pub fn of_route(any: &Any) -> Result<Option<Self>, Unusable> {
        match any.type_url.as_str() {
            type_url::CORS_POLICY => {
                let wire: cors::CorsPolicy = unpack(any, type_url::CORS_POLICY)?;
                Ok(Some(Self::Cors(Some(Arc::new(CorsPolicy::decode(wire)?)))))
            }
            type_url::JWT_PER_ROUTE => {
                let wire: jwt_authn::PerRouteConfig = unpack(any, type_url::JWT_PER_ROUTE)?;
                Ok(Some(Self::Jwt(Arc::new(Jwt::decode_for_route(wire)?))))
            }
            type_url::API_KEY_AUTH_PER_ROUTE => {
                let wire: api_key_auth::ApiKeyAuthPerRoute = unpack(any, type_url::API_KEY_AUTH_PER_ROUTE)?;
                Ok(Some(Self::ApiKey(Arc::new(ApiKeys::decode_for_route(wire)?))))
            }
            type_url::RBAC_PER_ROUTE => {
                let wire: rbac_filter::RbacPerRoute = unpack(any, type_url::RBAC_PER_ROUTE)?;
                Ok(Some(Self::Rbac(Arc::new(Rbac::decode_for_route(wire)?))))
            }
            type_url::LOCAL_RATE_LIMIT => Self::local_rate_limit(any, true).map(Some),
            type_url::RATE_LIMIT_PER_ROUTE => {
                let wire: ratelimit::RateLimitPerRoute = unpack(any, type_url::RATE_LIMIT_PER_ROUTE)?;
                Ok(Some(Self::GlobalRateLimit(GlobalRateLimit::decode_for_route(wire)?)))
            }
            type_url::EXT_AUTHZ_PER_ROUTE => {
                let wire: ext_authz::ExtAuthzPerRoute = unpack(any, type_url::EXT_AUTHZ_PER_ROUTE)?;
                Ok(Some(Self::ExtAuthz(ExtAuthz::decode_for_route(wire)?)))
            }
            type_url::STATEFUL_SESSION_PER_ROUTE => {
                let wire: stateful_session::StatefulSessionPerRoute =
                    unpack(any, type_url::STATEFUL_SESSION_PER_ROUTE)?;
                Ok(Some(Self::StatefulSession(StatefulSession::decode_for_route(wire)?.map(Arc::new))))
            }
            _ => Self::of_either(any),
        }
    }

    fn local_rate_limit(any: &Any, in_route: bool) -> Result<Self, Unusable> {
        let wire: local_ratelimit::LocalRateLimit = unpack(any, type_url::LOCAL_RATE_LIMIT)?;
        LocalRateLimit::decode(wire, in_route).map(Arc::new).map(Self::LocalRateLimit)
    }

    /// Decodes a configuration that has the same type in listeners and routes.
    fn of_either(any: &Any) -> Result<Option<Self>, Unusable> {
        match any.type_url.as_str() {
            type_url::HTTP_FAULT => {
                let wire: fault::HttpFault = unpack(any, type_url::HTTP_FAULT)?;
                Ok(Some(Self::Fault(Arc::new(Fault::decode(wire)?))))
            }
            _ => Ok(None),
        }
    }

    /// Decides about a request. `listener` is the configuration of the same filter in the listener, to which that of a route may
    /// refer. Adds to `changes` what the filter does to its response.
    pub fn decide(
        &self,
        listener: &Self,
        request: &FilterRequest<'_>,
        changes: &mut ResponseChanges,
    ) -> Verdict {
        match (self, listener) {
            // Sessions are for the choice of an endpoint.
            (Self::Cors(None) | Self::StatefulSession(_), _) => Verdict::Admit,
            (Self::Cors(Some(policy)), _) => policy.decide(request, changes),
            (Self::Jwt(of), Self::Jwt(listener)) => of.decide(listener, request, changes),
            (Self::ApiKey(of), Self::ApiKey(listener)) => of.decide(listener, request, changes),
            // A configuration has the type of its filter (`FilterOverrides::resolve`). Alone, each refuses every request.
            (Self::Jwt(of), _) => of.decide(of, request, changes),
            (Self::ApiKey(of), _) => of.decide(of, request, changes),
            (Self::Rbac(rbac), _) => {
                let asked = Asked { head: &request.head, claims: request.claims };
                rbac.decide(&request.source, Some(asked)).verdict()
            }
            (Self::ExtAuthz(of), Self::ExtAuthz(listener)) => of.decide(listener, request),
            (Self::GlobalRateLimit(of), Self::GlobalRateLimit(listener)) => of.decide(listener, request),
            // A route replaces the configuration of the same filter only.
            (Self::ExtAuthz(_) | Self::GlobalRateLimit(_), _) => Verdict::Admit,
            (Self::LocalRateLimit(of), _) => of.decide(request, changes),
            (Self::Fault(fault), _) => fault.decide(request, changes),
        }
    }

    /// Decides again, with what the filter asked for in its previous verdict ([`Verdict::ReadBody`], [`Verdict::Ask`]).
    pub fn decide_again(
        &self,
        listener: &Self,
        request: &FilterRequest<'_>,
        heard: Heard,
        changes: &mut ResponseChanges,
    ) -> Verdict {
        match (self, listener) {
            (Self::ExtAuthz(of), Self::ExtAuthz(listener)) => {
                of.decide_again(listener, request, heard, changes)
            }
            (Self::GlobalRateLimit(of), Self::GlobalRateLimit(listener)) => {
                of.decide_again(listener, request, heard, changes)
            }
            // They ask for nothing.
            (Self::Cors(_) | Self::Jwt(_) | Self::ApiKey(_) | Self::Rbac(_), _)
            | (Self::LocalRateLimit(_) | Self::Fault(_) | Self::StatefulSession(_), _)
            | (Self::ExtAuthz(_) | Self::GlobalRateLimit(_), _) => Verdict::Admit,
        }
    }

    /// Returns this configuration for a route with what it inherits from `outer`, that of what contains the route.
    #[must_use]
    pub fn over(self, outer: &Self) -> Self {
        match (self, outer) {
            (Self::ExtAuthz(inner), Self::ExtAuthz(outer)) => Self::ExtAuthz(inner.over(outer)),
            (inner, _) => inner,
        }
    }

    /// Takes over the state of `before`, the configuration at the same place in the previous version of the resource.
    pub fn adopt(&self, before: &Self) {
        match (self, before) {
            (Self::LocalRateLimit(limit), Self::LocalRateLimit(before)) => limit.adopt(before),
            (Self::Fault(fault), Self::Fault(before)) => fault.adopt(before),
            _ => {}
        }
    }

    /// Returns the clusters that it sends questions to.
    pub fn clusters(&self) -> Vec<&Name> {
        match self {
            Self::ExtAuthz(of) => of.cluster().into_iter().collect(),
            Self::GlobalRateLimit(of) => of.cluster().into_iter().collect(),
            Self::Jwt(of) => of.clusters().collect(),
            Self::Cors(_) | Self::ApiKey(_) | Self::Rbac(_) => Vec::new(),
            Self::LocalRateLimit(_) | Self::Fault(_) | Self::StatefulSession(_) => Vec::new(),
        }
    }

    fn same_filter(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}
