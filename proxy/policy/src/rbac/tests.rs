use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Method};
use outrigger_core::identity::SpiffeId;
use outrigger_proto::xds::matcher::string_matcher::MatchPattern;
use outrigger_proto::xds::{core, matcher, protobuf, route, types};
use rbac::permission::Rule;
use rbac::principal::Identifier;

use super::*;
use crate::header_match::Head;
use crate::verdict::Source;

fn text(pattern: MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: false }
}

fn path(pattern: MatchPattern) -> Rule {
    Rule::UrlPath(matcher::PathMatcher { rule: Some(matcher::path_matcher::Rule::Path(text(pattern))) })
}

fn caller(id: &str) -> Identifier {
    let principal_name = Some(text(MatchPattern::Exact(id.into())));
    Identifier::Authenticated(rbac::principal::Authenticated { principal_name })
}

fn range(address: &str, length: u32) -> core::CidrRange {
    let prefix_len = Some(protobuf::UInt32Value { value: length });
    core::CidrRange { address_prefix: address.into(), prefix_len }
}

fn permission(rule: Rule) -> rbac::Permission {
    rbac::Permission { rule: Some(rule) }
}

fn principal(identifier: Identifier) -> rbac::Principal {
    rbac::Principal { identifier: Some(identifier) }
}

fn policy(rule: Rule, identifier: Identifier) -> rbac::Policy {
    rbac::Policy {
        permissions: vec![permission(rule)],
        principals: vec![principal(identifier)],
        ..Default::default()
    }
}

fn filter(action: rbac::rbac::Action, policies: Vec<rbac::Policy>) -> Result<Rbac, Unusable> {
    let policies: HashMap<_, _> =
        policies.into_iter().enumerate().map(|(at, policy)| (at.to_string(), policy)).collect();
    let rules = rbac::Rbac { action: action.into(), policies, audit_logging_options: None };
    Rbac::decode(rbac_filter::Rbac { rules: Some(rules), ..Default::default() })
}

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

/// Whether a GET of `/orders/7?all` is allowed: by `cart` at 10.1.2.3, to port 8080 of 10.9.9.9, with the field `x-tenant: a`.
fn allowed(of: &Rbac) -> bool {
    let mut headers = HeaderMap::new();
    headers.insert("x-tenant", "a".parse().unwrap());
    let identity = SpiffeId::parse(CART).unwrap();
    decide(of, Some(&identity), "10.1.2.3", &headers)
}

fn decide(of: &Rbac, identity: Option<&SpiffeId>, address: &str, headers: &HeaderMap) -> bool {
    let address: IpAddr = address.parse().unwrap();
    let destination: SocketAddr = "10.9.9.9:8080".parse().unwrap();
    let head =
        Head { method: &Method::GET, scheme: "http", authority: "stock", path: "/orders/7?all", headers };
    let source =
        Source { identity, address, destination, server_name: Some("stock.shop"), ..Source::STRANGER };
    match of.decide(&source, Some(Asked { head: &head, claims: &[] })).verdict() {
        Verdict::Admit => true,
        Verdict::Refuse(refusal) => {
            assert_eq!((refusal.reason, refusal.status.as_u16()), (Reason::AccessDenied, 403));
            false
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn allow_needs_a_policy_that_matches_and_deny_needs_none() {
    use rbac::rbac::Action::{Allow, Deny};
    let matching = || policy(path(MatchPattern::Prefix("/orders/".into())), caller(CART));
    let other_path = || policy(path(MatchPattern::Exact("/admin".into())), caller(CART));
    let other_caller = || policy(Rule::Any(true), caller("spiffe://cluster.local/ns/shop/sa/front"));
    for (policies, matches) in [
        (vec![], false),
        (vec![matching()], true),
        (vec![other_path(), other_caller()], false),
        (vec![other_path(), matching()], true),
    ] {
        assert_eq!(allowed(&filter(Allow, policies.clone()).unwrap()), matches);
        assert_eq!(allowed(&filter(Deny, policies).unwrap()), !matches);
    }
    assert!(allowed(&Rbac::decode(rbac_filter::Rbac::default()).unwrap()));
    assert!(allowed(&Rbac::decode_for_route(rbac_filter::RbacPerRoute::default()).unwrap()));
}

#[test]
fn each_condition_on_the_request_holds_as_specified() {
    let header = |value: &str| {
        use route::header_matcher::HeaderMatchSpecifier::StringMatch;
        let matcher = StringMatch(text(MatchPattern::Exact(value.into())));
        let name = "x-tenant".into();
        Rule::Header(route::HeaderMatcher {
            name,
            header_match_specifier: Some(matcher),
            ..Default::default()
        })
    };
    let all = |rules: Vec<Rule>| rules.into_iter().map(permission).collect();
    let and = |rules| Rule::AndRules(rbac::permission::Set { rules: all(rules) });
    let or = |rules| Rule::OrRules(rbac::permission::Set { rules: all(rules) });
    let not = |rule| Rule::NotRule(Box::new(permission(rule)));
    for (rule, holds) in [
        (Rule::Any(true), true),
        (not(Rule::Any(true)), false),
        (header("a"), true),
        (header("b"), false),
        (and(vec![header("a"), Rule::Any(true)]), true),
        (and(vec![header("a"), header("b")]), false),
        (or(vec![header("b"), header("a")]), true),
        (or(vec![header("b")]), false),
        // Without the query.
        (path(MatchPattern::Exact("/orders/7".into())), true),
        (path(MatchPattern::Suffix("all".into())), false),
        (Rule::DestinationPort(8080), true),
        (Rule::DestinationPort(80), false),
        (Rule::DestinationPortRange(types::Int32Range { start: 8000, end: 8081 }), true),
        (Rule::DestinationPortRange(types::Int32Range { start: 8000, end: 8080 }), false),
        (Rule::DestinationIp(range("10.9.0.0", 16)), true),
        (Rule::DestinationIp(range("10.1.0.0", 16)), false),
        (Rule::RequestedServerName(text(MatchPattern::Exact("stock.shop".into()))), true),
        (Rule::RequestedServerName(text(MatchPattern::Exact("cart.shop".into()))), false),
    ] {
        let of = filter(rbac::rbac::Action::Allow, vec![policy(rule.clone(), Identifier::Any(true))]);
        assert_eq!(allowed(&of.unwrap()), holds, "{rule:?}");
    }
}

#[test]
#[expect(deprecated, reason = "the older form is still sent")]
fn each_condition_on_the_caller_holds_as_specified() {
    let anyone = Identifier::Authenticated(rbac::principal::Authenticated { principal_name: None });
    let cart = SpiffeId::parse(CART).unwrap();
    let all = |ids: Vec<Identifier>| ids.into_iter().map(principal).collect();
    let and = |ids| Identifier::AndIds(rbac::principal::Set { ids: all(ids) });
    let or = |ids| Identifier::OrIds(rbac::principal::Set { ids: all(ids) });
    let not = |id| Identifier::NotId(Box::new(principal(id)));
    let local = || Identifier::DirectRemoteIp(range("10.1.0.0", 16));
    for (identifier, by_cart, by_stranger, from_elsewhere) in [
        (caller(CART), true, false, true),
        (anyone.clone(), true, false, true),
        (not(anyone.clone()), false, true, false),
        (local(), true, true, false),
        (Identifier::RemoteIp(range("10.1.0.0", 16)), true, true, false),
        (Identifier::SourceIp(range("10.1.0.0", 16)), true, true, false),
        (Identifier::RemoteIp(range("0.0.0.0", 0)), true, true, true),
        (Identifier::RemoteIp(range("::", 0)), false, false, false),
        (and(vec![caller(CART), local()]), true, false, false),
        (or(vec![caller(CART), local()]), true, true, true),
    ] {
        let of =
            filter(rbac::rbac::Action::Allow, vec![policy(Rule::Any(true), identifier.clone())]).unwrap();
        let headers = HeaderMap::new();
        let got = [
            decide(&of, Some(&cart), "10.1.2.3", &headers),
            decide(&of, None, "10.1.2.3", &headers),
            decide(&of, Some(&cart), "192.0.2.1", &headers),
        ];
        assert_eq!(got, [by_cart, by_stranger, from_elsewhere], "{identifier:?}");
        // An IPv6 socket receives IPv4 clients by mapped addresses.
        assert_eq!(decide(&of, Some(&cart), "::ffff:10.1.2.3", &headers), by_cart, "{identifier:?}");
    }
}

/// The condition that the claim `sub` is `ann`.
fn of_ann(filter: &str) -> matcher::MetadataMatcher {
    use matcher::metadata_matcher::{PathSegment, path_segment::Segment};
    let path = ["jwt", "sub"].map(|key| PathSegment { segment: Some(Segment::Key(key.into())) }).into();
    let sub = matcher::value_matcher::MatchPattern::StringMatch(text(MatchPattern::Exact("ann".into())));
    let value = Some(matcher::ValueMatcher { match_pattern: Some(sub) });
    matcher::MetadataMatcher { filter: filter.into(), path, value, invert: false }
}

#[test]
#[expect(deprecated, reason = "the older form is still sent")]
fn a_caller_is_known_by_the_claims_of_its_token() {
    const TOKENS: &str = "envoy.filters.http.jwt_authn";
    let sourced = |metadata_source| {
        let metadata_matcher = Some(of_ann(TOKENS));
        Identifier::SourcedMetadata(rbac::SourcedMetadata { metadata_matcher, metadata_source })
    };
    let headers = HeaderMap::new();
    let head = Head { method: &Method::GET, scheme: "http", authority: "a", path: "/", headers: &headers };
    let claims = |sub: &str| {
        let claims = serde_json::Map::from_iter([("sub".to_owned(), sub.into())]);
        [("jwt".into(), std::sync::Arc::new(claims))]
    };
    for identifier in [Identifier::Metadata(of_ann(TOKENS)), sourced(0)] {
        let of = filter(rbac::rbac::Action::Allow, vec![policy(Rule::Any(true), identifier)]).unwrap();
        let admits = |claims: &[NamedClaims]| {
            of.decide(&Source::STRANGER, Some(Asked { head: &head, claims })).denied_by.is_none()
        };
        assert!(admits(&claims("ann")) && !admits(&claims("bob")) && !admits(&[]));
    }
    let refused = |identifier| {
        let of = filter(rbac::rbac::Action::Allow, vec![policy(Rule::Any(true), identifier)]);
        of.unwrap_err().field.replace("rules.policies[\"0\"].", "")
    };
    assert_eq!(refused(sourced(1)), "principals[0].sourced_metadata.metadata_source");
    assert_eq!(refused(Identifier::Metadata(of_ann("envoy.lua"))), "principals[0].metadata.filter");
}

#[test]
fn rules_that_cannot_be_enforced_are_refused_by_field() {
    use rbac::rbac::Action::Allow;
    let refused = |rule, identifier| {
        filter(Allow, vec![policy(rule, identifier)]).unwrap_err().field.replace("rules.policies[\"0\"].", "")
    };
    let any = || Identifier::Any(true);
    let none = rbac::permission::Set::default();
    for (rule, field) in [
        (Rule::Any(false), "permissions[0].any"),
        (Rule::AndRules(none.clone()), "permissions[0].and_rules.rules"),
        (Rule::OrRules(none), "permissions[0].or_rules.rules"),
        (Rule::NotRule(Box::new(permission(Rule::Any(false)))), "permissions[0].not_rule.any"),
        (Rule::DestinationPort(65536), "permissions[0].destination_port"),
        (Rule::DestinationIp(range("10.0.0.0", 33)), "permissions[0].destination_ip"),
        (Rule::DestinationIp(range("shop", 8)), "permissions[0].destination_ip"),
        (
            Rule::DestinationPortRange(types::Int32Range { start: 9, end: 9 }),
            "permissions[0].destination_port_range",
        ),
        (Rule::RequestedServerName(Default::default()), "permissions[0].requested_server_name.match_pattern"),
        (Rule::SourcedMetadata(Default::default()), "permissions[0].sourced_metadata"),
        (Rule::UrlPath(Default::default()), "permissions[0].url_path.rule"),
    ] {
        assert_eq!(refused(rule, any()), field);
    }
    assert_eq!(refused(Rule::Any(true), Identifier::Any(false)), "principals[0].any");
    let nobody = rbac::Policy { permissions: vec![permission(Rule::Any(true))], ..Default::default() };
    assert_eq!(filter(Allow, vec![nobody]).unwrap_err().field, "rules.policies[\"0\"].principals");
    assert_eq!(
        filter(Allow, vec![rbac::Policy::default()]).unwrap_err().field,
        "rules.policies[\"0\"].permissions"
    );
    let shadow_rules = Some(rbac::Rbac { action: 9, ..Default::default() });
    let shadow = rbac_filter::Rbac { shadow_rules, ..Default::default() };
    assert_eq!(Rbac::decode(shadow).unwrap_err().field, "shadow_rules.action");
}

fn rules(action: rbac::rbac::Action, policies: &[(&str, rbac::Policy)]) -> Option<rbac::Rbac> {
    let policies = policies.iter().map(|(name, policy)| ((*name).to_owned(), policy.clone())).collect();
    Some(rbac::Rbac { action: action.into(), policies, audit_logging_options: None })
}

fn names(decision: Decision<'_>) -> (Option<&str>, Option<&str>) {
    (decision.denied_by.map(|name| &**name), decision.audit_denied_by.map(|name| &**name))
}

#[test]
fn a_refusal_names_its_policy_and_audited_rules_refuse_nothing() {
    use rbac::rbac::Action::{Allow, Deny, Log};
    let anyone = policy(Rule::Any(true), Identifier::Any(true));
    let cart_only = policy(Rule::Any(true), caller(CART));
    let both = [("b", anyone.clone()), ("a", anyone)];
    let cases = [
        (rules(Deny, &both), None, (Some("a"), None)),
        (rules(Allow, &[("cart", cart_only.clone())]), None, (Some("none"), None)),
        (rules(Allow, &both), rules(Deny, &both[..1]), (None, Some("b"))),
        (None, rules(Allow, &[("cart", cart_only)]), (None, Some("none"))),
        (rules(Log, &both), rules(Log, &both), (None, None)),
    ];
    for (rules, shadow_rules, expected) in cases {
        let of = Rbac::decode(rbac_filter::Rbac { rules, shadow_rules, ..Default::default() }).unwrap();
        assert_eq!(names(of.decide(&Source::STRANGER, None)), expected);
    }
}

#[test]
fn a_filter_of_connections_has_no_conditions_on_requests() {
    use rbac::rbac::Action::Deny;
    let connection = |rule, identifier| {
        let rules = rules(Deny, &[("p", policy(rule, identifier))]);
        Rbac::decode_for_connection(network_rbac::Rbac {
            rules,
            stat_prefix: "tcp".into(),
            ..Default::default()
        })
    };
    let refused = |rule, identifier| {
        connection(rule, identifier).unwrap_err().field.replace("rules.policies[\"p\"].", "")
    };
    let header = || route::HeaderMatcher { name: "x-tenant".into(), ..Default::default() };
    let any = || path(MatchPattern::Exact("/".into()));
    let all = rbac::permission::Set { rules: vec![permission(Rule::Header(header()))] };
    for (rule, field) in [
        (Rule::Header(header()), "permissions[0].header"),
        (any(), "permissions[0].url_path"),
        (Rule::NotRule(Box::new(permission(any()))), "permissions[0].not_rule.url_path"),
        (Rule::AndRules(all), "permissions[0].and_rules.rules[0].header"),
    ] {
        assert_eq!(refused(rule, Identifier::Any(true)), field);
    }
    assert_eq!(refused(Rule::Any(true), Identifier::Header(header())), "principals[0].header");
    let metadata_matcher = Some(of_ann("envoy.filters.http.jwt_authn"));
    let claim = Identifier::SourcedMetadata(rbac::SourcedMetadata { metadata_matcher, metadata_source: 0 });
    assert_eq!(refused(Rule::Any(true), claim), "principals[0].sourced_metadata.metadata_matcher");
    let of = connection(Rule::DestinationPort(80), Identifier::RemoteIp(range("127.0.0.0", 8))).unwrap();
    assert_eq!(names(of.decide(&Source::STRANGER, None)), (Some("p"), None));
    let elsewhere = Source { address: [10, 0, 0, 1].into(), ..Source::STRANGER };
    assert_eq!(names(of.decide(&elsewhere, None)), (None, None));
    assert_eq!(Rbac::decode_for_connection(Default::default()).unwrap_err().field, "stat_prefix");
}
