//! RDS: the routes of a service port for the clients of a namespace.

use outrigger_proto::xds::route::{Route, RouteConfiguration, VirtualHost};

use super::action;
use super::destination::Target;
use super::external_auth::ExternalAuths;
use super::scope::Scope;
use crate::model::route::RouteTable;
use crate::model::service::ServiceType;

/// Translates the route configuration of a target. Returns None if the port carries opaque bytes.
pub(super) fn route_configuration(scope: Scope<'_>, target: &Target) -> Option<RouteConfiguration> {
    let name = target.name(scope.domain());
    let table = table(scope, target);
    let authorization = ExternalAuths::of(table);
    let routes = match table {
        None => vec![action::straight_to(scope, target)],
        Some(RouteTable::Http(routes)) => {
            routes.iter().map(|route| action::route(scope, route, target, &authorization)).collect()
        }
        Some(RouteTable::Tcp(_)) => return None,
    };
    Some(configuration(&name, routes))
}

/// Returns the routes that apply to a target. Routes apply to the addresses of their service (GEP-1294). Those of a headless service
/// are the addresses of its endpoints; an endpoint of another service that a client calls directly has no routes.
pub(super) fn table<'a>(scope: Scope<'a>, target: &Target) -> Option<&'a RouteTable> {
    let service = &scope.mesh.service(&target.service)?.service;
    let applies = target.only.is_none() || service.service_type == ServiceType::Headless;
    let table = scope.mesh.routes(&target.service, target.port, scope.viewer.namespace());
    table.filter(|_| applies).map(|table| &**table)
}

/// Returns routes for any host: the destination was already chosen.
pub(super) fn configuration(name: &str, routes: Vec<Route>) -> RouteConfiguration {
    RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![VirtualHost {
            name: name.into(),
            domains: vec!["*".into()],
            routes,
            ..Default::default()
        }],
        ..Default::default()
    }
}
