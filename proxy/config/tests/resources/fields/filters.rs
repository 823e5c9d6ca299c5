//! HTTP filters and their configuration by route.

use outrigger_proto::xds::common_fault::{FaultDelay, FaultRateLimit, fault_delay, fault_rate_limit};
use outrigger_proto::xds::fault::{FaultAbort, HttpFault, fault_abort};
use outrigger_proto::xds::matcher::string_matcher::MatchPattern;
use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::rbac::{self, permission::Rule, principal::Identifier};
use outrigger_proto::xds::{core, hcm, matcher, network_rbac, rbac_filter, route, type_url, types};

use super::claims::{claim, sourced};
use super::listeners::{METRICS, in_listener};
use super::managers::in_http_filter;
use super::place::Place;
use super::routes::in_route;
use crate::fixture::*;

fn in_fault(of: HttpFault) -> (String, Any) {
    in_http_filter(fault_filter(&of))
}

fn fault_filter(of: &HttpFault) -> hcm::HttpFilter {
    http_filter("fault", packed(type_url::HTTP_FAULT, of))
}

fn delay() -> FaultDelay {
    FaultDelay {
        percentage: Some(types::FractionalPercent { numerator: 10, denominator: 0 }),
        fault_delay_secifier: seconds(1).map(fault_delay::FaultDelaySecifier::FixedDelay),
    }
}

fn rate() -> FaultRateLimit {
    let limit = fault_rate_limit::FixedLimit { limit_kbps: 1 };
    FaultRateLimit {
        percentage: Some(types::FractionalPercent { numerator: 1, ..Default::default() }),
        limit_type: Some(fault_rate_limit::LimitType::FixedLimit(limit)),
    }
}

fn abort() -> FaultAbort {
    FaultAbort {
        percentage: Some(types::FractionalPercent { numerator: 10, denominator: 0 }),
        error_type: Some(fault_abort::ErrorType::HttpStatus(503)),
        ..Default::default()
    }
}

fn in_rbac(of: rbac_filter::Rbac) -> (String, Any) {
    in_http_filter(http_filter("rbac", packed(type_url::RBAC, &of)))
}

fn in_network_rbac(of: network_rbac::Rbac) -> (String, Any) {
    let mut wire = inbound();
    wire.filter_chains[0].filters.insert(0, network_filter(type_url::NETWORK_RBAC, &of));
    in_listener(wire)
}

fn in_rules(of: rbac::Rbac) -> (String, Any) {
    in_rbac(rbac_filter::Rbac { rules: Some(of), ..Default::default() })
}

fn in_policy(of: rbac::Policy) -> (String, Any) {
    in_rules(rbac::Rbac { policies: [("p".to_owned(), of)].into(), ..Default::default() })
}

fn in_permission(of: rbac::Permission) -> (String, Any) {
    in_policy(rbac::Policy { permissions: vec![of], ..policy() })
}

pub fn in_principal(of: rbac::Principal) -> (String, Any) {
    in_policy(rbac::Policy { principals: vec![of], ..policy() })
}

fn policy() -> rbac::Policy {
    rbac::Policy { permissions: vec![permission()], principals: vec![principal()], ..Default::default() }
}

fn permission() -> rbac::Permission {
    rbac::Permission { rule: Some(Rule::Any(true)) }
}

fn principal() -> rbac::Principal {
    rbac::Principal { identifier: Some(Identifier::Any(true)) }
}

fn to_port() -> rbac::Permission {
    rbac::Permission { rule: Some(Rule::DestinationPort(9)) }
}

fn from_address() -> rbac::Principal {
    rbac::Principal {
        identifier: Some(Identifier::RemoteIp(core::CidrRange {
            address_prefix: "::".into(),
            prefix_len: None,
        })),
    }
}

fn permissions() -> rbac::permission::Set {
    rbac::permission::Set { rules: vec![permission()] }
}

fn principals() -> rbac::principal::Set {
    rbac::principal::Set { ids: vec![principal()] }
}

fn text() -> matcher::StringMatcher {
    matcher::StringMatcher { match_pattern: Some(MatchPattern::Exact("/a".into())), ignore_case: false }
}

fn path() -> matcher::PathMatcher {
    matcher::PathMatcher { rule: Some(matcher::path_matcher::Rule::Path(text())) }
}

fn field() -> route::HeaderMatcher {
    route::HeaderMatcher { name: "a".into(), ..Default::default() }
}

fn addresses() -> core::CidrRange {
    core::CidrRange { address_prefix: "10.0.0.0".into(), prefix_len: number(8) }
}

#[expect(deprecated, reason = "older forms are still sent")]
fn rbac_places() -> Vec<Place> {
    use rbac_filter::{Rbac, RbacPerRoute};
    let rule = |rule: fn() -> Rule| move |of: &mut rbac::Permission| of.rule = Some(rule());
    let caller =
        |identifier: fn() -> Identifier| move |of: &mut rbac::Principal| of.identifier = Some(identifier());
    vec![
        Place::new("RBAC", "envoy.extensions.filters.http.rbac.v3.RBAC", Rbac::default(), in_rbac)
            .harmless(COUNTED, &["rules_stat_prefix", "shadow_rules_stat_prefix", "track_per_rule_stats"]),
        Place::new(
            "RBAC (network)",
            "envoy.extensions.filters.network.rbac.v3.RBAC",
            network_rbac::Rbac { stat_prefix: "tcp".into(), ..Default::default() },
            in_network_rbac,
        )
        .harmless(METRICS, &["stat_prefix"])
        .harmless(COUNTED, &["shadow_rules_stat_prefix"])
        .harmless(
            "decided before the first byte, and again when the configuration changes",
            &["enforcement_type"],
        ),
        Place::new(
            "RBACPerRoute",
            "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
            RbacPerRoute { rbac: Some(Rbac { rules: Some(rbac::Rbac::default()), ..Default::default() }) },
            |of| {
                let any = packed(type_url::RBAC_PER_ROUTE, &of);
                let typed_per_filter_config = [("rbac".to_owned(), any)].into();
                in_route(route::Route { typed_per_filter_config, ..forward(CART) })
            },
        )
        .probe("rbac", |of: &mut RbacPerRoute| of.rbac = None),
        Place::new("RBAC (rules)", "envoy.config.rbac.v3.RBAC", rbac::Rbac::default(), in_rules)
            .probe("action", |of: &mut rbac::Rbac| of.action = rbac::rbac::Action::Deny.into())
            .probe("policies", |of: &mut rbac::Rbac| of.policies = [("p".to_owned(), policy())].into()),
        Place::new("Policy", "envoy.config.rbac.v3.Policy", policy(), in_policy)
            .probe("permissions", |of: &mut rbac::Policy| of.permissions.push(permission()))
            .probe("principals", |of: &mut rbac::Policy| of.principals.push(principal())),
        Place::new("Permission", "envoy.config.rbac.v3.Permission", to_port(), in_permission)
            .probe("any", rule(|| Rule::Any(true)))
            .probe("and_rules", rule(|| Rule::AndRules(permissions())))
            .probe("or_rules", rule(|| Rule::OrRules(permissions())))
            .probe("not_rule", rule(|| Rule::NotRule(Box::new(permission()))))
            .probe("header", rule(|| Rule::Header(field())))
            .probe("url_path", rule(|| Rule::UrlPath(path())))
            .probe("destination_ip", rule(|| Rule::DestinationIp(addresses())))
            .probe("destination_port", rule(|| Rule::DestinationPort(80)))
            .probe("requested_server_name", rule(|| Rule::RequestedServerName(text())))
            .probe(
                "destination_port_range",
                rule(|| Rule::DestinationPortRange(types::Int32Range { start: 1, end: 2 })),
            ),
        Place::new("Principal", "envoy.config.rbac.v3.Principal", from_address(), in_principal)
            .probe("any", caller(|| Identifier::Any(true)))
            .probe("and_ids", caller(|| Identifier::AndIds(principals())))
            .probe("or_ids", caller(|| Identifier::OrIds(principals())))
            .probe("not_id", caller(|| Identifier::NotId(Box::new(principal()))))
            .probe("authenticated", caller(|| Identifier::Authenticated(Default::default())))
            .probe("source_ip", caller(|| Identifier::SourceIp(addresses())))
            .probe("direct_remote_ip", caller(|| Identifier::DirectRemoteIp(addresses())))
            .probe("remote_ip", caller(|| Identifier::RemoteIp(addresses())))
            .probe("header", caller(|| Identifier::Header(field())))
            .probe("metadata", caller(|| Identifier::Metadata(claim())))
            .probe("sourced_metadata", caller(|| Identifier::SourcedMetadata(sourced(claim()))))
            .probe("url_path", caller(|| Identifier::UrlPath(path()))),
        Place::new(
            "Principal.Authenticated",
            "envoy.config.rbac.v3.Principal.Authenticated",
            rbac::principal::Authenticated::default(),
            |of| in_principal(rbac::Principal { identifier: Some(Identifier::Authenticated(of)) }),
        )
        .probe("principal_name", |of: &mut rbac::principal::Authenticated| of.principal_name = Some(text())),
        Place::new("PathMatcher", "envoy.type.matcher.v3.PathMatcher", path(), |of| {
            in_permission(rbac::Permission { rule: Some(Rule::UrlPath(of)) })
        })
        .probe("path", |of: &mut matcher::PathMatcher| {
            let other = matcher::StringMatcher { ignore_case: true, ..text() };
            of.rule = Some(matcher::path_matcher::Rule::Path(other));
        }),
        Place::new("CidrRange (RBAC)", "envoy.config.core.v3.CidrRange", addresses(), |of| {
            in_principal(rbac::Principal { identifier: Some(Identifier::RemoteIp(of)) })
        })
        .probe("address_prefix", |of: &mut core::CidrRange| of.address_prefix = "11.0.0.0".into()),
        Place::new("Permission.Set", "envoy.config.rbac.v3.Permission.Set", permissions(), |of| {
            in_permission(rbac::Permission { rule: Some(Rule::AndRules(of)) })
        })
        .probe("rules", |of: &mut rbac::permission::Set| of.rules.push(permission())),
        Place::new("Principal.Set", "envoy.config.rbac.v3.Principal.Set", principals(), |of| {
            in_principal(rbac::Principal { identifier: Some(Identifier::AndIds(of)) })
        })
        .probe("ids", |of: &mut rbac::principal::Set| of.ids.push(principal())),
    ]
}

const COUNTED: &str = "refusals are counted by policy";
const RUNTIME: &str = "there is no runtime layer, so that the key never has a value";

pub fn places() -> Vec<Place> {
    [rbac_places(), super::claims::places(), fault_places()].into_iter().flatten().collect()
}

fn fault_places() -> Vec<Place> {
    vec![
        Place::new(
            "HTTPFault",
            "envoy.extensions.filters.http.fault.v3.HTTPFault",
            HttpFault { delay: Some(delay()), abort: Some(abort()), ..Default::default() },
            in_fault,
        )
        .probe("delay", |of: &mut HttpFault| of.delay = None)
        .probe("abort", |of: &mut HttpFault| of.abort = None)
        .probe("headers", |of: &mut HttpFault| {
            of.headers = vec![route::HeaderMatcher { name: "a".into(), ..Default::default() }];
        })
        .probe("max_active_faults", |of: &mut HttpFault| {
            of.max_active_faults = Some(protobuf::UInt32Value { value: 1 });
        })
        .probe("response_rate_limit", |of: &mut HttpFault| of.response_rate_limit = Some(rate()))
        .harmless(
            RUNTIME,
            &[
                "delay_percent_runtime",
                "abort_percent_runtime",
                "delay_duration_runtime",
                "abort_http_status_runtime",
                "max_active_faults_runtime",
                "response_rate_limit_percent_runtime",
                "abort_grpc_status_runtime",
            ],
        )
        .harmless("there are no statistics by downstream cluster", &["disable_downstream_cluster_stats"])
        .harmless("for other filters to read; ours read none", &["filter_metadata"]),
        Place::new("FaultDelay", "envoy.extensions.filters.common.fault.v3.FaultDelay", delay(), |of| {
            in_fault(HttpFault { delay: Some(of), ..Default::default() })
        })
        .probe("header_delay", |of: &mut FaultDelay| {
            of.fault_delay_secifier =
                Some(fault_delay::FaultDelaySecifier::HeaderDelay(fault_delay::HeaderDelay {}));
        }),
        Place::new(
            "FaultRateLimit",
            "envoy.extensions.filters.common.fault.v3.FaultRateLimit",
            rate(),
            |of| in_fault(HttpFault { response_rate_limit: Some(of), ..Default::default() }),
        )
        .probe("header_limit", |of: &mut FaultRateLimit| {
            of.limit_type = Some(fault_rate_limit::LimitType::HeaderLimit(fault_rate_limit::HeaderLimit {}));
        }),
        Place::new(
            "FaultRateLimit.FixedLimit",
            "envoy.extensions.filters.common.fault.v3.FaultRateLimit.FixedLimit",
            fault_rate_limit::FixedLimit { limit_kbps: 1 },
            |of| {
                let limit_type = Some(fault_rate_limit::LimitType::FixedLimit(of));
                in_fault(HttpFault {
                    response_rate_limit: Some(FaultRateLimit { limit_type, ..rate() }),
                    ..Default::default()
                })
            },
        ),
        Place::new("FaultAbort", "envoy.extensions.filters.http.fault.v3.FaultAbort", abort(), |of| {
            in_fault(HttpFault { abort: Some(of), ..Default::default() })
        })
        .probe("http_status", |of: &mut FaultAbort| {
            of.error_type = Some(fault_abort::ErrorType::HttpStatus(418));
        })
        .probe("grpc_status", |of: &mut FaultAbort| {
            of.error_type = Some(fault_abort::ErrorType::GrpcStatus(5));
        })
        .probe("header_abort", |of: &mut FaultAbort| {
            of.error_type = Some(fault_abort::ErrorType::HeaderAbort(fault_abort::HeaderAbort {}));
        }),
    ]
}
