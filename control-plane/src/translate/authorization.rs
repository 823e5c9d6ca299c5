//! The AuthorizationPolicies that apply to a port of a workload, as filters of requests and of connections: one refuses what a policy denies,
//! then one refuses what none allows.
//!
//! Policies of routes need the routes of the service at the server's sidecar: each carries the filters of the policies that it is a target of.

use outrigger_proto::xds::hcm::{HttpFilter, http_filter};
use outrigger_proto::xds::listener::Filter;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::route;
use outrigger_proto::xds::type_url;

use super::listener::network_filter;
use super::matching;
use super::rbac::{Form, Ruleset, Subject, encode};
use super::scope::Scope;
use crate::model::authorization::{Action, Authorization};
use crate::model::policy::{Place, Policy, ROOT_NAMESPACE};
use crate::model::registration::{WorkloadEntry, WorkloadPort};
use crate::model::route::{Route, RouteTable};

/// The names of the filters. Routes configure them by these.
const DENY: &str = "outrigger.authorization.deny";
const ALLOW: &str = "outrigger.authorization.allow";

type Applied<'a> = Vec<&'a Policy<Authorization>>;

/// The policies that apply to a port.
#[derive(Debug)]
pub(super) struct PortPolicies<'a> {
    trust_domain: &'a str,
    /// The port of the application. None if the destination of each connection has it.
    port: Option<u16>,
    /// For every request and connection.
    whole: Applied<'a>,
    /// The routes of the port's service, if one of them is a target, with the policies of each beside the others.
    routes: Vec<(&'a Route, Applied<'a>)>,
    /// Two services with different routes lead to the port. Which one a client called is not known, so nothing can be allowed by route.
    ambiguous: bool,
}

impl<'a> PortPolicies<'a> {
    /// Finds the policies of the workload's ports `ports`, which share the port `port` of the application. None are those of undeclared ports.
    pub(super) fn of(
        scope: Scope<'a>,
        workload: &WorkloadEntry,
        port: Option<u16>,
        ports: &[&WorkloadPort],
    ) -> Self {
        let namespace = workload.key.identity.namespace().into();
        let (mesh, root) = (scope.mesh, ROOT_NAMESPACE.into());
        let of_mesh = mesh.policies(&root).filter(|policy| policy.places.contains(&Place::Namespace));
        let own: Applied<'a> = mesh.policies(&namespace).collect();
        let applies = |place: &Place| place.covers(workload, ports);
        let mut whole: Applied<'a> = if namespace == root { Vec::new() } else { of_mesh.collect() };
        whole.extend(own.iter().filter(|policy| policy.places.iter().any(applies)));
        let mut tables: Vec<&'a [Route]> = Vec::new();
        for (key, number) in
            ports.iter().flat_map(|port| port.services.iter().map(|key| (key, port.service_port)))
        {
            let table = mesh.routes(key, number, &namespace).map(|table| &**table);
            if let Some(RouteTable::Http(routes)) = table
                && routes.iter().any(|route| own.iter().any(|policy| has_route(policy, route)))
                && !tables.contains(&routes.as_slice())
            {
                tables.push(routes);
            }
        }
        let of_route = |route: &'a Route| {
            (route, own.iter().filter(|policy| has_route(policy, route)).copied().collect::<Applied<'a>>())
        };
        let mut routes: Vec<_> =
            tables.first().into_iter().flat_map(|table| table.iter()).map(of_route).collect();
        while routes.last().is_some_and(|(_, policies)| policies.is_empty()) {
            routes.pop();
        }
        let trust_domain = scope.settings.trust_domain.as_str();
        Self { trust_domain, port, whole, routes, ambiguous: tables.len() > 1 }
    }

    /// Returns the HTTP filters, in order: none without a policy.
    pub(super) fn http_filters(&self) -> Vec<HttpFilter> {
        let filter = |name: &str, value: Vec<u8>| HttpFilter {
            name: name.into(),
            config_type: Some(http_filter::ConfigType::TypedConfig(Any {
                type_url: type_url::RBAC.into(),
                value,
            })),
            ..Default::default()
        };
        let made = self.configs(&self.whole, Form::Filter).into_iter();
        made.map(|(name, value)| filter(name, value)).collect()
    }

    /// Returns the network filters of a chain of opaque bytes, in order: none without a policy.
    ///
    /// A connection has no route. So what is denied at a route is denied at the port, and what is allowed at a route is not allowed here.
    pub(super) fn network_filters(&self, stat: &str) -> Vec<Filter> {
        let of_routes = || self.routes.iter().flat_map(|(_, policies)| policies);
        let mut deny = self.rules(Action::Deny, false);
        self.whole.iter().chain(of_routes()).for_each(|policy| deny.add(policy));
        let mut allow = self.rules(Action::Allow, false);
        self.whole.iter().for_each(|policy| allow.add(policy));
        if of_routes().any(|policy| policy.spec.action == Action::Allow) {
            allow.enforced.add_nothing();
        }
        let all = [(DENY, Action::Deny, deny), (ALLOW, Action::Allow, allow)].into_iter();
        let used = all.filter(|(_, action, _)| self.uses(*action));
        let filter = |(name, _, rules): (&str, Action, FilterRules<'_>)| {
            let value = rules.encode(Form::Connection(stat));
            network_filter(name, Any { type_url: type_url::NETWORK_RBAC.into(), value })
        };
        used.map(filter).collect()
    }

    /// Returns the routes that a route to the application becomes: one for each route of the service up to the last that is a target, then the
    /// route itself.
    pub(super) fn split(&self, to_application: route::Route) -> Vec<route::Route> {
        let one = |(of, policies): &(&Route, Applied<'a>)| {
            let mut matcher = matching::route_match(&of.matches);
            let base = to_application.r#match.as_ref();
            matcher.grpc = matcher.grpc.or_else(|| base.and_then(|base| base.grpc));
            let both: Applied<'a> = self.whole.iter().chain(policies).copied().collect();
            let configs = if policies.is_empty() { Vec::new() } else { self.configs(&both, Form::Route) };
            let config = |(name, value): (&str, Vec<u8>)| {
                (name.to_owned(), Any { type_url: type_url::RBAC_PER_ROUTE.into(), value })
            };
            route::Route {
                r#match: Some(matcher),
                typed_per_filter_config: configs.into_iter().map(config).collect(),
                ..to_application.clone()
            }
        };
        self.routes.iter().map(one).chain([to_application.clone()]).collect()
    }

    /// Returns the configuration of each filter that the port has.
    fn configs(&self, policies: &[&Policy<Authorization>], form: Form<'_>) -> Vec<(&'static str, Vec<u8>)> {
        let filters = [(DENY, Action::Deny), (ALLOW, Action::Allow)].into_iter();
        let config = |(name, action)| {
            let mut rules = self.rules(action, true);
            policies.iter().for_each(|policy| rules.add(policy));
            (name, rules.encode(form))
        };
        filters.filter(|(_, action)| self.uses(*action)).map(config).collect()
    }

    /// Returns true if the port has the filter that denies, or the one that allows.
    fn uses(&self, filter: Action) -> bool {
        let all = self.routes.iter().flat_map(|(_, policies)| policies).chain(&self.whole);
        let mut denying = all.map(|policy| policy.spec.action == Action::Deny);
        match filter {
            Action::Deny => self.ambiguous || denying.any(|denies| denies),
            Action::Allow | Action::Audit => denying.any(|denies| !denies),
        }
    }

    /// Returns the rules of a filter without policies.
    fn rules(&self, filter: Action, requests: bool) -> FilterRules<'a> {
        let subject = Subject { trust_domain: self.trust_domain, port: self.port, requests };
        let new = if filter == Action::Deny { Ruleset::denying } else { Ruleset::allowing };
        let mut rules = FilterRules { filter, enforced: new(subject), audited: new(subject), audits: false };
        if self.ambiguous && filter == Action::Deny {
            rules.enforced.add_everything("routes of several Services");
        }
        rules
    }
}

/// The rules of one filter.
#[derive(Debug)]
struct FilterRules<'a> {
    filter: Action,
    enforced: Ruleset<'a>,
    /// What Allow and Audit policies do not allow.
    audited: Ruleset<'a>,
    /// There is an Audit policy.
    audits: bool,
}

impl FilterRules<'_> {
    /// Adds a policy, if it is one of this filter.
    fn add(&mut self, policy: &Policy<Authorization>) {
        let action = policy.spec.action;
        if (action == Action::Deny) != (self.filter == Action::Deny) {
            return;
        }
        if action != Action::Audit {
            self.enforced.add(policy);
        }
        self.audited.add(policy);
        self.audits |= action == Action::Audit;
    }

    fn encode(&self, form: Form<'_>) -> Vec<u8> {
        encode(form, &self.enforced, self.audits.then_some(&self.audited))
    }
}

fn has_route(policy: &Policy<Authorization>, route: &Route) -> bool {
    policy.places.iter().any(|place| place.has_route(&route.id))
}
