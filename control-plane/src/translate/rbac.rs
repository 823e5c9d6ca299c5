//! Envoy's RBAC (`envoy.config.rbac.v3.RBAC`) of AuthorizationPolicies.

use ipnet::IpNet;
use outrigger_core::Name;
use outrigger_proto::xds::core::CidrRange;
use outrigger_proto::xds::matcher::metadata_matcher::{PathSegment, path_segment};
use outrigger_proto::xds::matcher::string_matcher::MatchPattern;
use outrigger_proto::xds::matcher::{
    ListMatcher, MetadataMatcher, OrMatcher, PathMatcher, StringMatcher, ValueMatcher, list_matcher,
    path_matcher, value_matcher,
};
use outrigger_proto::xds::protobuf::{Any, UInt32Value};
use outrigger_proto::xds::rbac::permission::{self, Rule};
use outrigger_proto::xds::rbac::principal::{self, Authenticated, Identifier};
use outrigger_proto::xds::rbac::{self, Permission, Principal};
use outrigger_proto::xds::{network_rbac, rbac_filter, type_url};
use prost::Message;

use super::matching;
use super::wire::{exact, matching as full_match};
use crate::model::authorization::{
    Authorization, AuthorizationRule, ClaimMatch, Operation, Source, SpiffeMatch,
};
use crate::model::policy::Policy;
use crate::model::route::{PathMatch, ValuePattern};

/// The name under which the filter for tokens leaves their claims, and the filter whose name they are compared by.
pub(super) const CLAIMS: &str = "claims";
pub(super) const OF_TOKENS: &str = "envoy.filters.http.jwt_authn";

/// The message that rules are encoded in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form<'a> {
    /// The HTTP filter.
    Filter,
    /// Its configuration for a route.
    Route,
    /// The network filter, with its `stat_prefix`.
    Connection(&'a str),
}

/// What the rules are about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    /// The trust domain of service accounts and namespaces.
    pub(super) trust_domain: &'a str,
    /// The port of the application. None if the destination of each connection has it.
    pub(super) port: Option<u16>,
    /// Requests, or connections of opaque bytes. On these, an Allow rule with a condition on requests or on claims matches nothing, and a
    /// Deny rule ignores the condition.
    pub(super) requests: bool,
}

/// For rules that depend neither on who calls nor on the port.
pub(super) const ANYTHING: Subject<'_> = Subject { trust_domain: "", port: None, requests: true };

/// Returns the filter that refuses everything in the name of this policy, or nothing if there is none.
pub(super) fn refusal(form: Form<'_>, policy: Option<&str>) -> Any {
    let mut rules = Ruleset::denying(ANYTHING);
    policy.into_iter().for_each(|name| rules.add_everything(name));
    let type_url = match form {
        Form::Filter => type_url::RBAC,
        Form::Route => type_url::RBAC_PER_ROUTE,
        Form::Connection(_) => type_url::NETWORK_RBAC,
    };
    Any { type_url: type_url.into(), value: encode(form, &rules, None) }
}

/// Rules that allow or deny.
#[derive(Debug)]
pub(super) struct Ruleset<'a> {
    action: rbac::rbac::Action,
    subject: Subject<'a>,
    /// None admits everything: no policy was added.
    policies: Option<Vec<(String, rbac::Policy)>>,
}

impl<'a> Ruleset<'a> {
    /// Denies what matches one of the policies that are added.
    pub(super) fn denying(subject: Subject<'a>) -> Self {
        Self { action: rbac::rbac::Action::Deny, subject, policies: None }
    }

    /// Denies what matches none of the policies that are added. Without any, it allows everything.
    pub(super) fn allowing(subject: Subject<'a>) -> Self {
        Self { action: rbac::rbac::Action::Allow, subject, policies: None }
    }

    /// Adds nothing that could match, so that [`allowing`](Self::allowing) denies what no other policy allows.
    pub(super) fn add_nothing(&mut self) {
        self.policies.get_or_insert_default();
    }

    /// Adds a policy. A rule that cannot match on this port is left out.
    pub(super) fn add(&mut self, policy: &Policy<Authorization>) {
        let mut made = Vec::new();
        for (at, rule) in policy.spec.rules.iter().enumerate() {
            let refused = if policy.spec.stands_in { " (refused)" } else { "" };
            if let Some(wire) = self.policy(rule, &policy.name.namespace) {
                made.push((format!("{}/{at}{refused}", policy.name), wire));
            }
        }
        self.policies.get_or_insert_default().extend(made);
    }

    /// Adds a policy that matches everything.
    pub(super) fn add_everything(&mut self, name: &str) {
        let everything =
            rbac::Policy { permissions: vec![allow_any()], principals: vec![anyone()], ..Default::default() };
        self.policies.get_or_insert_default().push((name.into(), everything));
    }

    /// Adds a policy that matches requests with a verified token of another algorithm than `algorithms`, of which there is one at least. `header`
    /// is the name under which the filter for tokens leaves the token's header.
    pub(super) fn add_other_algorithms(&mut self, name: &str, header: &str, algorithms: &[&str]) {
        let path = || vec![segment(header), segment("alg")];
        let present = value(value_matcher::MatchPattern::PresentMatch(true));
        let mut all: Vec<_> = algorithms.iter().map(|name| text_value(name)).collect();
        let listed = match all.len() {
            1 => all.remove(0),
            _ => value(value_matcher::MatchPattern::OrMatch(OrMatcher { value_matchers: all })),
        };
        let both = [metadata(path(), present, false), metadata(path(), listed, true)];
        let principals = vec![principal(Identifier::AndIds(ids(both.into())))];
        let policy = rbac::Policy { permissions: vec![allow_any()], principals, ..Default::default() };
        self.policies.get_or_insert_default().push((name.into(), policy));
    }

    /// Returns true if no policy was added.
    pub(super) fn is_empty(&self) -> bool {
        self.policies.is_none()
    }

    /// Returns the parts of the message, one policy in each.
    fn parts(&self) -> impl Iterator<Item = rbac::Rbac> {
        let part = |policy: Option<&(String, rbac::Policy)>| rbac::Rbac {
            action: self.action.into(),
            policies: policy.cloned().into_iter().collect(),
            ..Default::default()
        };
        let policies = self.policies.iter();
        policies
            .flat_map(move |all| [part(None)].into_iter().chain(all.iter().map(move |one| part(Some(one)))))
    }

    /// Returns a rule. Returns None if it matches nothing on this port.
    fn policy(&self, rule: &AuthorizationRule, namespace: &str) -> Option<rbac::Policy> {
        let permissions: Vec<_> = match &rule.to[..] {
            [] => vec![allow_any()],
            to => to.iter().filter_map(|operation| self.permission(operation)).collect(),
        };
        let principals: Vec<_> = match &rule.from[..] {
            [] => vec![anyone()],
            from => from.iter().filter_map(|source| self.principal(source, namespace)).collect(),
        };
        (!permissions.is_empty() && !principals.is_empty()).then_some(rbac::Policy {
            permissions,
            principals,
            ..Default::default()
        })
    }

    fn permission(&self, operation: &Operation) -> Option<Permission> {
        let ports = &operation.ports;
        let mut all = Vec::new();
        let denies = self.action == rbac::rbac::Action::Deny;
        if !self.subject.requests && operation.needs_requests() && !denies {
            return None;
        }
        match self.subject.port {
            Some(port) if !ports.is_empty() && !ports.contains(&port) => return None,
            Some(_) => {}
            None => all.extend(one_of(ports.iter().map(|port| Rule::DestinationPort((*port).into())))),
        }
        if self.subject.requests {
            all.extend(Self::of_request(operation));
        }
        Some(match all.len() {
            0 => allow_any(),
            1 => permission(all.remove(0)),
            _ => permission(Rule::AndRules(rules(all))),
        })
    }

    /// Returns the conditions on requests.
    fn of_request(operation: &Operation) -> Vec<Rule> {
        let Operation { ports: _, hosts, methods, paths, headers } = operation;
        let mut all = Vec::new();
        all.extend(one_of(hosts.iter().map(|host| Rule::Header(authority(host)))));
        all.extend(one_of(methods.iter().map(|method| {
            Rule::Header(matching::header(":method", &ValuePattern::Exact(method.as_str().into())))
        })));
        all.extend(one_of(paths.iter().flat_map(path)));
        all.extend(headers.iter().map(|of| Rule::Header(matching::header(&of.name, &of.value))));
        all
    }

    fn principal(&self, source: &Source, namespace: &str) -> Option<Principal> {
        let Source { service_accounts, namespaces, spiffe_ids, cidrs, claims } = source;
        if !self.subject.requests && !claims.is_empty() && self.action != rbac::rbac::Action::Deny {
            return None;
        }
        let domain = self.subject.trust_domain;
        let account = service_accounts.iter().map(|account| {
            let namespace = account.namespace.as_deref().unwrap_or(namespace);
            identity(exact(&format!("spiffe://{domain}/ns/{namespace}/sa/{}", account.name)))
        });
        let namespace =
            namespaces.iter().map(|name| identity(prefix(&format!("spiffe://{domain}/ns/{name}/"))));
        let id = spiffe_ids.iter().map(|id| match id {
            SpiffeMatch::Exact(id) => identity(exact(id)),
            SpiffeMatch::Prefix(start) => identity(prefix(start)),
        });
        let lists = [any_of(account), any_of(namespace), any_of(id), any_of(cidrs.iter().map(address))];
        let mut all: Vec<_> = lists.into_iter().flatten().collect();
        if self.subject.requests {
            all.extend(claims.iter().map(claim));
        }
        Some(match all.len() {
            0 => anyone(),
            1 => principal(all.remove(0)),
            _ => principal(Identifier::AndIds(ids(all))),
        })
    }
}

/// Encodes a filter with rules, and with rules that are only audited.
///
/// A map would be encoded in a random order. So each policy is a part of its own: the parts of a message that are encoded one after the
/// other are merged when they are decoded (Protocol Buffers, "Encoding": embedded messages).
pub(super) fn encode(form: Form<'_>, rules: &Ruleset<'_>, audited: Option<&Ruleset<'_>>) -> Vec<u8> {
    let one = |rules: Option<rbac::Rbac>, shadow_rules: Option<rbac::Rbac>| match form {
        Form::Filter => rbac_filter::Rbac { rules, shadow_rules, ..Default::default() }.encode_to_vec(),
        Form::Route => {
            let filter = rbac_filter::Rbac { rules, shadow_rules, ..Default::default() };
            rbac_filter::RbacPerRoute { rbac: Some(filter) }.encode_to_vec()
        }
        Form::Connection(prefix) => {
            let stat_prefix = prefix.into();
            network_rbac::Rbac { rules, shadow_rules, stat_prefix, ..Default::default() }.encode_to_vec()
        }
    };
    let rules = rules.parts().map(|part| one(Some(part), None));
    let audited = audited.into_iter().flat_map(Ruleset::parts).map(|part| one(None, Some(part)));
    rules.chain(audited).flatten().collect()
}

/// The name in any case, with or without a final dot and a port. The name `*.shop` means those that end in `.shop`.
fn authority(host: &str) -> outrigger_proto::xds::route::HeaderMatcher {
    let (below, name) = host.strip_prefix("*.").map_or(("", host), |name| (".+\\.", name));
    let name = regex::escape(name);
    matching::header(":authority", &ValuePattern::Regex(format!("(?i){below}{name}\\.?(:[0-9]+)?").into()))
}

/// A prefix is one of whole segments: `/a` matches `/a` and `/a/b`, not `/ab`.
fn path(path: &PathMatch) -> Vec<Rule> {
    let rule = |text| Rule::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(text)) });
    match path {
        PathMatch::Exact(path) => vec![rule(exact(path))],
        PathMatch::Prefix(all) if **all == *"/" => vec![rule(prefix("/"))],
        PathMatch::Prefix(path) => vec![rule(exact(path)), rule(prefix(&format!("{path}/")))],
        PathMatch::Regex(expression) => vec![rule(full_match(expression))],
    }
}

fn prefix(text: &str) -> StringMatcher {
    StringMatcher { match_pattern: Some(MatchPattern::Prefix(text.into())), ..Default::default() }
}

fn identity(name: StringMatcher) -> Identifier {
    Identifier::Authenticated(Authenticated { principal_name: Some(name) })
}

/// A claim that is one of the texts, or a list with one of them.
fn claim(of: &ClaimMatch) -> Identifier {
    let element = |of: ValueMatcher| {
        let one_of = list_matcher::MatchPattern::OneOf(Box::new(of));
        let list = ListMatcher { match_pattern: Some(one_of) };
        value(value_matcher::MatchPattern::ListMatch(Box::new(list)))
    };
    let either = |one: &Name| [text_value(one), element(text_value(one))];
    let value_matchers = of.values.iter().flat_map(either).collect();
    let path = [segment(CLAIMS)].into_iter().chain(of.path.iter().map(|name| segment(name))).collect();
    metadata(path, value(value_matcher::MatchPattern::OrMatch(OrMatcher { value_matchers })), false)
}

/// What the filter for tokens has left at a path.
#[expect(deprecated, reason = "its successor is unknown to older proxies")]
fn metadata(path: Vec<PathSegment>, value: ValueMatcher, invert: bool) -> Identifier {
    Identifier::Metadata(MetadataMatcher { filter: OF_TOKENS.into(), path, value: Some(value), invert })
}

fn segment(key: &str) -> PathSegment {
    PathSegment { segment: Some(path_segment::Segment::Key(key.into())) }
}

fn value(pattern: value_matcher::MatchPattern) -> ValueMatcher {
    ValueMatcher { match_pattern: Some(pattern) }
}

fn text_value(text: &str) -> ValueMatcher {
    value(value_matcher::MatchPattern::StringMatch(exact(text)))
}

fn address(net: &IpNet) -> Identifier {
    let prefix_len = Some(UInt32Value { value: net.prefix_len().into() });
    Identifier::DirectRemoteIp(CidrRange { address_prefix: net.network().to_string(), prefix_len })
}

fn allow_any() -> Permission {
    permission(Rule::Any(true))
}

fn anyone() -> Principal {
    principal(Identifier::Any(true))
}

fn permission(rule: Rule) -> Permission {
    Permission { rule: Some(rule) }
}

fn principal(identifier: Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

fn rules(all: Vec<Rule>) -> permission::Set {
    permission::Set { rules: all.into_iter().map(permission).collect() }
}

fn ids(all: Vec<Identifier>) -> principal::Set {
    principal::Set { ids: all.into_iter().map(principal).collect() }
}

/// Returns the disjunction. Returns None for no rule.
fn one_of(all: impl Iterator<Item = Rule>) -> Option<Rule> {
    let mut all: Vec<_> = all.collect();
    match all.len() {
        0 => None,
        1 => Some(all.remove(0)),
        _ => Some(Rule::OrRules(rules(all))),
    }
}

/// Returns the disjunction. Returns None for no identifier.
fn any_of(all: impl Iterator<Item = Identifier>) -> Option<Identifier> {
    let mut all: Vec<_> = all.collect();
    match all.len() {
        0 => None,
        1 => Some(all.remove(0)),
        _ => Some(Identifier::OrIds(ids(all))),
    }
}
