//! The AuthorizationPolicies that apply to a port of a workload, as filters of requests and of connections: one refuses what a policy denies,
//! then one refuses what none allows.

use outrigger_proto::xds::listener::Filter;
use outrigger_proto::xds::protobuf::Any;
use outrigger_proto::xds::type_url;

use super::applied::{Applied, Configs};
use super::listener::network_filter;
use super::rbac::{Form, Ruleset, Subject, encode};
use crate::model::authorization::{Action, Authorization};
use crate::model::policy::Policy;
use crate::model::route::Route;

/// The names of the filters. Routes configure them by these.
const DENY: &str = "outrigger.authorization.deny";
const ALLOW: &str = "outrigger.authorization.allow";

/// Who may call a port.
#[derive(Debug)]
pub(super) struct Access<'a> {
    policies: Applied<'a, Authorization>,
    trust_domain: &'a str,
    /// The port of the application. None if the destination of each connection has it.
    port: Option<u16>,
    /// The policies that have a route of the port as a target.
    of_routes: Vec<&'a Policy<Authorization>>,
    /// Nobody, because it is not known which routes apply.
    closed: bool,
}

impl<'a> Access<'a> {
    /// Of the port `port` of the application, with these routes.
    pub(super) fn new(
        policies: Applied<'a, Authorization>,
        routes: &[&Route],
        trust_domain: &'a str,
        port: Option<u16>,
        closed: bool,
    ) -> Self {
        let of_routes = routes.iter().flat_map(|route| policies.at_route(route)).collect();
        Self { policies, trust_domain, port, of_routes, closed }
    }

    /// Returns the HTTP filters, in order: none without a policy.
    pub(super) fn filters(&self) -> Configs {
        self.configs(&self.policies.whole(), Form::Filter, type_url::RBAC)
    }

    /// Returns the configuration of the filters for a route. Empty if it is no target.
    pub(super) fn of_route(&self, route: &Route) -> Configs {
        let mut policies = self.policies.whole();
        policies.extend(self.policies.at_route(route));
        match self.policies.has(route) {
            true => self.configs(&policies, Form::Route, type_url::RBAC_PER_ROUTE),
            false => Vec::new(),
        }
    }

    /// Returns the network filters of a chain of opaque bytes, in order: none without a policy.
    ///
    /// A connection has no route. So what is denied at a route is denied at the port, and what is allowed at a route is not allowed here.
    pub(super) fn network_filters(&self, stat: &str) -> Vec<Filter> {
        let whole = self.policies.whole();
        let mut deny = self.rules(Action::Deny, false);
        whole.iter().chain(&self.of_routes).for_each(|policy| deny.add(policy));
        let mut allow = self.rules(Action::Allow, false);
        whole.iter().for_each(|policy| allow.add(policy));
        if self.of_routes.iter().any(|policy| policy.spec.action == Action::Allow) {
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

    /// Returns the configuration of each filter that the port has.
    fn configs(&self, policies: &[&Policy<Authorization>], form: Form<'_>, type_url: &str) -> Configs {
        let filters = [(DENY, Action::Deny), (ALLOW, Action::Allow)].into_iter();
        let config = |(name, action)| {
            let mut rules = self.rules(action, true);
            policies.iter().for_each(|policy| rules.add(policy));
            (name, Any { type_url: type_url.into(), value: rules.encode(form) })
        };
        filters.filter(|(_, action)| self.uses(*action)).map(config).collect()
    }

    /// Returns true if the port has the filter that denies, or the one that allows.
    fn uses(&self, filter: Action) -> bool {
        let whole = self.policies.whole();
        let mut denying =
            whole.iter().chain(&self.of_routes).map(|policy| policy.spec.action == Action::Deny);
        match filter {
            Action::Deny => self.closed || denying.any(|denies| denies),
            Action::Allow | Action::Audit => denying.any(|denies| !denies),
        }
    }

    /// Returns the rules of a filter without policies.
    fn rules(&self, filter: Action, requests: bool) -> FilterRules<'a> {
        let subject = Subject { trust_domain: self.trust_domain, port: self.port, requests };
        let new = if filter == Action::Deny { Ruleset::denying } else { Ruleset::allowing };
        let mut rules = FilterRules { filter, enforced: new(subject), audited: new(subject), audits: false };
        if self.closed && filter == Action::Deny {
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
