//! RDS: the routes of a service port for the clients of a namespace.

use outrigger_proto::xds::route::{Route, RouteConfiguration, VirtualHost};

use super::action;
use super::destination::Target;
use super::scope::Scope;
use crate::model::route::RouteTable;

/// Translates the route configuration of a target. Returns None if the port carries opaque bytes. For a single endpoint the
/// service's routes do not apply (GEP-1294: they apply to the service's own addresses).
pub(super) fn route_configuration(scope: Scope<'_>, target: &Target) -> Option<RouteConfiguration> {
    let name = target.name(scope.domain());
    let table = scope.mesh.routes(&target.service, target.port, scope.viewer.namespace());
    let routes = match table.filter(|_| target.only.is_none()) {
        None => vec![action::straight_to(scope, &name)],
        Some(table) => match table.as_ref() {
            RouteTable::Http(routes) => {
                routes.iter().map(|route| action::route(scope, route, target.port)).collect()
            }
            RouteTable::Tcp(_) => return None,
        },
    };
    Some(configuration(&name, routes))
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
