//! Envoy's filter for sessions (`envoy.extensions.filters.http.stateful_session.v3.StatefulSession`), as route rules and the policies of their
//! backends say (GEP-1619).
//!
//! The filter of a listener keeps no sessions by itself: its routes, and the clusters that share a route, have the configuration. It is optional
//! for clients that do not know it. A rule's own comes before the policies of its backends.

use outrigger_proto::xds::cookie_session::CookieBasedSessionState;
use outrigger_proto::xds::core::TypedExtensionConfig;
use outrigger_proto::xds::hcm::{HttpFilter, http_filter};
use outrigger_proto::xds::header_session::HeaderBasedSessionState;
use outrigger_proto::xds::http_types::Cookie;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::route::FilterConfig;
use outrigger_proto::xds::stateful_session::stateful_session_per_route::Override;
use outrigger_proto::xds::stateful_session::{StatefulSession, StatefulSessionPerRoute};
use outrigger_proto::xds::{extension, type_url};
use sha2::{Digest, Sha256};

use super::destination::Target;
use super::scope::Scope;
use super::wire::{any, duration, empty};
use crate::model::route::{BackendTarget, Route, RouteTable, RouteTarget, WeightedBackend};
use crate::model::session_persistence::SessionPersistence;

/// The path of cookies (GEP-1619, "Path").
const PATH: &str = "/";

/// Returns the filter of the listener of a target with these routes, if any of them has sessions.
pub(super) fn filter(scope: Scope<'_>, target: &Target, table: Option<&RouteTable>) -> Option<HttpFilter> {
    let used = match table {
        None => of_service(scope, target).is_some(),
        Some(RouteTable::Http(routes)) => routes.iter().any(|route| has_sessions(scope, route)),
        Some(RouteTable::Tcp(_)) => false,
    };
    used.then(|| HttpFilter {
        name: extension::STATEFUL_SESSION.into(),
        is_optional: true,
        config_type: Some(http_filter::ConfigType::TypedConfig(empty(type_url::STATEFUL_SESSION))),
        ..Default::default()
    })
}

/// Returns the configuration of a target without routes: as the policy of the service says.
pub(super) fn of_service(scope: Scope<'_>, target: &Target) -> Option<(String, Any)> {
    // An endpoint that a client calls directly is chosen already.
    let policies = scope.mesh.caller_policies(&target.service, target.port);
    let sessions = policies.session_persistence.filter(|_| target.only.is_none())?;
    Some(configuration(sessions, &["", &target.name(scope.domain())]))
}

/// Returns the configuration of a route: its own, or as the policy of its only backend says.
pub(super) fn of_route(scope: Scope<'_>, route: &Route) -> Option<(String, Any)> {
    if let Some(sessions) = &route.action.session_persistence {
        return Some(configuration(sessions, &[rule(route)]));
    }
    let RouteTarget::Forward(backends) = &route.action.target else { return None };
    match &kept(scope, route, backends)[..] {
        [one] => by_policy(scope, route, one),
        _ => None,
    }
}

/// Returns the configuration of a backend that shares the requests of a route with others: as its policy says, if the route has none of its own.
pub(super) fn of_backend(
    scope: Scope<'_>,
    route: &Route,
    backend: &WeightedBackend,
) -> Option<(String, Any)> {
    if route.action.session_persistence.is_some() { None } else { by_policy(scope, route, backend) }
}

/// Returns the backends of a route that get requests. One with sessions gets those of its sessions, even if its weight is 0 (GEP-1619, "Traffic
/// Splitting").
pub(super) fn kept<'a>(
    scope: Scope<'_>,
    route: &Route,
    backends: &'a [WeightedBackend],
) -> Vec<&'a WeightedBackend> {
    let has_sessions = |backend: &WeightedBackend| {
        backend.target.is_ok()
            && (route.action.session_persistence.is_some() || by_policy(scope, route, backend).is_some())
    };
    backends.iter().filter(|backend| backend.weight > 0 || has_sessions(backend)).collect()
}

fn has_sessions(scope: Scope<'_>, route: &Route) -> bool {
    let by_backend = || match &route.action.target {
        RouteTarget::Forward(backends) => backends.iter().any(|of| by_policy(scope, route, of).is_some()),
        RouteTarget::Redirect(_) => false,
    };
    route.action.session_persistence.is_some() || by_backend()
}

fn by_policy(scope: Scope<'_>, route: &Route, backend: &WeightedBackend) -> Option<(String, Any)> {
    let BackendTarget { service, port } = backend.target.as_ref().ok()?;
    let sessions = scope.mesh.caller_policies(service, *port).session_persistence?;
    let backend = Target::service(service.clone(), *port).name(scope.domain());
    Some(configuration(sessions, &[rule(route), &backend]))
}

/// Returns `httproute/<namespace>/<name>/<rule>`: the matches of a rule share its sessions.
fn rule(route: &Route) -> &str {
    route.id.rsplit_once('/').map_or(&route.id, |(rule, _)| rule)
}

/// Returns an entry of `typed_per_filter_config`. A cookie without a name has one that follows from `of`: rules "MUST NOT share persistent
/// sessions" (GEP-1619).
fn configuration(sessions: &SessionPersistence, of: &[&str]) -> (String, Any) {
    let (name, state) = match sessions {
        SessionPersistence::Cookie { name, max_age } => {
            let cookie = Cookie {
                name: name.as_ref().map_or_else(|| generated_name(of), |name| name.to_string()),
                ttl: max_age.and_then(duration),
                path: PATH.into(),
                ..Default::default()
            };
            let state = CookieBasedSessionState { cookie: Some(cookie) };
            (extension::COOKIE_SESSION, any(type_url::COOKIE_SESSION, &state))
        }
        SessionPersistence::Header(name) => {
            let state = HeaderBasedSessionState { name: name.to_string() };
            (extension::HEADER_SESSION, any(type_url::HEADER_SESSION, &state))
        }
    };
    let state = TypedExtensionConfig { name: name.into(), typed_config: Some(state) };
    let sessions = StatefulSession { session_state: Some(state), ..Default::default() };
    let sessions = StatefulSessionPerRoute { r#override: Some(Override::StatefulSession(sessions)) };
    let config = FilterConfig {
        config: Some(any(type_url::STATEFUL_SESSION_PER_ROUTE, &sessions)),
        is_optional: true,
        ..Default::default()
    };
    (extension::STATEFUL_SESSION.into(), any(type_url::FILTER_CONFIG, &config))
}

fn generated_name(of: &[&str]) -> String {
    let digest = Sha256::digest(of.join("\n"));
    let digits: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("outrigger-session-{digits}")
}
