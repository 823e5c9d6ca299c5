//! The policies that apply to a port of a workload, as filters of its inbound chains. Each kind has a file below.
//!
//! Policies of routes need the routes of the service at the server's sidecar: each carries the configuration of the filters for the policies
//! that it is a target of.

use outrigger_proto::xds::hcm::{HttpFilter, http_filter};
use outrigger_proto::xds::listener::Filter;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::route;

use super::applied::Applied;
use super::authentication::Authenticated;
use super::authorization::Access;
use super::external_authorization::Asked;
use super::fault;
use super::matching;
use super::rate_limit::Limits;
use super::scope::Scope;
use crate::model::authentication::Authentication;
use crate::model::authorization::Authorization;
use crate::model::external_authorization::ExternalAuthorization;
use crate::model::fault_injection::FaultInjection;
use crate::model::rate_limit::RateLimit;
use crate::model::registration::{WorkloadEntry, WorkloadPort};
use crate::model::route::{Route, RouteTable};

/// The policies that apply to a port.
#[derive(Debug)]
pub(super) struct PortPolicies<'a> {
    authenticated: Authenticated<'a>,
    access: Access<'a>,
    asked: Asked<'a>,
    faults: Applied<'a, FaultInjection>,
    limits: Limits<'a>,
    /// The routes of the port's service, up to the last that is a target.
    routes: Vec<&'a Route>,
}

impl<'a> PortPolicies<'a> {
    /// Finds the policies of the workload's ports `ports`, which share the port `port` of the application. None are those of undeclared ports.
    pub(super) fn of(
        scope: Scope<'a>,
        workload: &WorkloadEntry,
        port: Option<u16>,
        ports: &[&WorkloadPort],
    ) -> Self {
        let authorization = Applied::<Authorization>::of(scope.mesh, workload, ports);
        let authentication = Applied::<Authentication>::of(scope.mesh, workload, ports);
        let external = Applied::<ExternalAuthorization>::of(scope.mesh, workload, ports);
        let faults = Applied::<FaultInjection>::of(scope.mesh, workload, ports);
        let rate_limits = Applied::<RateLimit>::of(scope.mesh, workload, ports);
        let restricts =
            |route: &Route| authentication.has(route) || authorization.has(route) || external.has(route);
        let is_target = |route: &Route| restricts(route) || rate_limits.has(route) || faults.has(route);
        let namespace = workload.key.identity.namespace();
        let mut tables: Vec<&'a [Route]> = Vec::new();
        for (key, number) in
            ports.iter().flat_map(|port| port.services.iter().map(|key| (key, port.service_port)))
        {
            let table = scope.mesh.routes(key, number, namespace).map(|table| &**table);
            if let Some(RouteTable::Http(routes)) = table
                && routes.iter().any(is_target)
                && !tables.contains(&routes.as_slice())
            {
                tables.push(routes);
            }
        }
        // Two services with different routes lead to the port. Which one a client called is not known: nothing is admitted that a policy of a
        // route could restrict, and policies that restrict nothing do not apply.
        let ambiguous = tables.len() > 1;
        let closed = ambiguous && tables.iter().any(|table| table.iter().any(restricts));
        let mut routes: Vec<&'a Route> = match tables[..] {
            [table] => table.iter().collect(),
            [table, ..] if closed => table.iter().collect(),
            _ => Vec::new(),
        };
        while routes.last().is_some_and(|route| !is_target(route)) {
            routes.pop();
        }
        let trust_domain = scope.settings.trust_domain.as_str();
        let access = Access::new(authorization, &routes, trust_domain, port, closed);
        let authenticated = Authenticated::new(authentication, &routes, scope);
        let asked = Asked::new(external, ports, &routes, &scope.settings.cluster_domain);
        let limits = Limits::new(rate_limits, ports, &routes, &scope.settings.cluster_domain);
        Self { authenticated, access, asked, limits, faults, routes }
    }

    /// Returns the HTTP filters, in order: none without a policy.
    pub(super) fn http_filters(&self) -> Vec<HttpFilter> {
        let filter = |(name, config): (&str, Any)| HttpFilter {
            name: name.into(),
            config_type: Some(http_filter::ConfigType::TypedConfig(config)),
            disabled: self.authenticated.is_disabled(name),
            ..Default::default()
        };
        let faults = fault::filters(&self.faults, &self.routes);
        let access = self.authenticated.filters().into_iter().chain(self.access.filters());
        let after = self.limits.filters().into_iter().chain(faults);
        access.map(filter).chain(self.asked.filters()).chain(after.map(filter)).collect()
    }

    /// Returns the network filters of a chain of opaque bytes, in order: none without a policy.
    ///
    /// `beside_requests` is true if the port serves requests too, which then must not be sent as opaque bytes.
    pub(super) fn network_filters(&self, stat: &str, beside_requests: bool) -> Vec<Filter> {
        let authenticated = self.authenticated.network_filter(stat, beside_requests);
        let access = authenticated.into_iter().chain(self.access.network_filters(stat));
        access.chain(self.asked.network_filter(stat, beside_requests)).collect()
    }

    /// Returns the routes that a route to the application becomes: one for each route of the service up to the last that is a target, then the
    /// route itself.
    pub(super) fn split(&self, to_application: route::Route) -> Vec<route::Route> {
        let one = |of: &&Route| {
            let mut matcher = matching::route_match(&of.matches);
            let base = to_application.r#match.as_ref();
            matcher.grpc = matcher.grpc.or_else(|| base.and_then(|base| base.grpc));
            let access = self.authenticated.of_route(of).into_iter().chain(self.access.of_route(of));
            let configs = access.chain(fault::of_route(&self.faults, of));
            let configs = configs.map(|(name, config)| (name.to_owned(), config));
            let mut route = route::Route {
                r#match: Some(matcher),
                typed_per_filter_config: configs.chain(self.asked.of_route(of)).collect(),
                request_headers_to_remove: self.authenticated.headers_to_remove(Some(of)),
                ..to_application.clone()
            };
            self.limits.describe(&mut route, Some(of));
            route
        };
        let mut rest = route::Route {
            request_headers_to_remove: self.authenticated.headers_to_remove(None),
            ..to_application.clone()
        };
        self.limits.describe(&mut rest, None);
        self.routes.iter().map(one).chain([rest]).collect()
    }
}
