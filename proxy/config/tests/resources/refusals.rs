//! Every resource that cannot be used is refused with the name of its field, and no bytes make the decoder panic.

use outrigger_config::compiled::Compiled;
use outrigger_proto::kind::Kind;
use outrigger_proto::xds::protobuf::{self, Any, BoolValue, UInt64Value};
use outrigger_proto::xds::{
    cluster, core, endpoint, fault, hcm, listener, network_rbac, route, tls, type_url,
};
use proptest::prelude::*;

use cluster::cluster::{LbConfig, MaglevLbConfig, RingHashLbConfig};

use crate::fixture::*;

/// The field that the refusal names.
fn refused(name: &str, body: Any) -> String {
    apply(&mut Mesh::default(), name, "1", body).unwrap().field
}

fn bad_cluster(change: impl FnOnce(&mut cluster::Cluster)) -> String {
    let mut wire = cart_cluster();
    change(&mut wire);
    refused(CART, cluster_body(wire))
}

fn bad_upstream_tls(change: impl FnOnce(&mut tls::UpstreamTlsContext)) -> String {
    let mut context = upstream_tls(&[CART_ID]);
    change(&mut context);
    let field = bad_cluster(|wire| {
        wire.transport_socket_matches[0].transport_socket = socket(type_url::UPSTREAM_TLS_CONTEXT, &context);
    });
    field.strip_prefix("transport_socket_matches[0].transport_socket.").unwrap().into()
}

fn bad_table(change: impl FnOnce(&mut route::RouteConfiguration)) -> String {
    let mut wire = table(CART, CART);
    change(&mut wire);
    refused(CART, table_body(wire))
}

fn bad_route(change: impl FnOnce(&mut route::Route)) -> String {
    let field = bad_table(|table| change(&mut table.virtual_hosts[0].routes[0]));
    field.strip_prefix("virtual_hosts[0].routes[0].").unwrap().into()
}

fn bad_action(change: impl FnOnce(&mut route::RouteAction)) -> String {
    let field = bad_route(|route| {
        let Some(route::route::Action::Route(action)) = &mut route.action else { panic!() };
        change(action);
    });
    field.strip_prefix("route.").unwrap().into()
}

fn bad_listener(change: impl FnOnce(&mut listener::Listener)) -> String {
    let mut wire = inbound();
    change(&mut wire);
    refused("inbound|10.0.0.7:80", listener_body(wire))
}

fn bad_manager(change: impl FnOnce(&mut hcm::HttpConnectionManager)) -> String {
    let mut wire = manager(rds(CART));
    change(&mut wire);
    let mut listener = destination("cart:80");
    listener.api_listener =
        Some(listener::ApiListener { api_listener: Some(packed(type_url::HTTP_CONNECTION_MANAGER, &wire)) });
    let field = refused("cart:80", listener_body(listener));
    field.strip_prefix("api_listener.api_listener.").unwrap().into()
}

#[test]
fn clusters() {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
    assert_eq!(bad_cluster(|wire| wire.name = "other".into()), "name");
    assert_eq!(
        bad_cluster(|wire| wire.health_checks = vec![Default::default()]),
        "health_checks[0].interval"
    );
    let subsets = cluster::cluster::LbSubsetConfig { list_as_any: true, ..Default::default() };
    assert_eq!(bad_cluster(|wire| wire.lb_subset_config = Some(subsets)), "lb_subset_config");
    assert_eq!(bad_cluster(|wire| wire.connect_timeout = seconds(0)), "connect_timeout");
    let mode = protobuf::Value { kind: Some(protobuf::value::Kind::StringValue("perhaps".into())) };
    let fields = protobuf::Struct { fields: [("mode".to_owned(), mode)].into() };
    let filter_metadata = [("outrigger.overload".to_owned(), fields)].into();
    let metadata = core::Metadata { filter_metadata, ..Default::default() };
    let field = "metadata.filter_metadata.outrigger.overload.mode";
    assert_eq!(bad_cluster(|wire| wire.metadata = Some(metadata)), field);
    let percentile = protobuf::Value { kind: Some(protobuf::value::Kind::NumberValue(100.0)) };
    let fields = protobuf::Struct { fields: [("percentile".to_owned(), percentile)].into() };
    let filter_metadata = [("outrigger.hedging".to_owned(), fields)].into();
    let metadata = core::Metadata { filter_metadata, ..Default::default() };
    let field = "metadata.filter_metadata.outrigger.hedging.percentile";
    assert_eq!(bad_cluster(|wire| wire.metadata = Some(metadata)), field);
    assert_eq!(bad_cluster(|wire| wire.eds_cluster_config = None), "eds_cluster_config");
    assert_eq!(
        bad_cluster(|wire| wire.eds_cluster_config.as_mut().unwrap().eds_config = None),
        "eds_cluster_config.eds_config"
    );
    for dns in [DiscoveryType::StrictDns, DiscoveryType::LogicalDns] {
        let dns = ClusterDiscoveryType::Type(dns.into());
        assert_eq!(bad_cluster(|wire| wire.cluster_discovery_type = Some(dns)), "load_assignment");
    }
    let custom = ClusterDiscoveryType::ClusterType(Default::default());
    assert_eq!(bad_cluster(|wire| wire.cluster_discovery_type = Some(custom)), "cluster_type");
    assert_eq!(
        bad_cluster(|wire| {
            wire.load_balancing_policy = None;
            wire.lb_policy = LbPolicy::Maglev.into();
            let table_size = Some(UInt64Value { value: 65_536 });
            wire.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size }));
        }),
        "maglev_lb_config.table_size"
    );
    assert_eq!(
        bad_cluster(|wire| {
            wire.load_balancing_policy = None;
            wire.lb_policy = LbPolicy::RingHash.into();
            let minimum_ring_size = Some(UInt64Value { value: 9 << 20 });
            let config = RingHashLbConfig { minimum_ring_size, ..Default::default() };
            wire.lb_config = Some(LbConfig::RingHashLbConfig(config));
        }),
        "ring_hash_lb_config.minimum_ring_size"
    );
    assert_eq!(
        bad_cluster(|wire| wire.load_balancing_policy.as_mut().unwrap().policies.clear()),
        "load_balancing_policy.policies"
    );
    assert_eq!(
        bad_cluster(|wire| wire.outlier_detection.as_mut().unwrap().max_ejection_percent = number(101)),
        "outlier_detection.max_ejection_percent"
    );
    assert_eq!(
        bad_cluster(|wire| wire.transport_socket_matches[1].transport_socket = None),
        "transport_socket_matches[1].transport_socket"
    );
}

#[test]
fn tls_towards_endpoints() {
    use tls::common_tls_context::ValidationContextType;
    fn common(of: &mut tls::UpstreamTlsContext) -> &mut tls::CommonTlsContext {
        of.common_tls_context.as_mut().unwrap()
    }
    assert_eq!(bad_upstream_tls(|of| of.common_tls_context = None), "common_tls_context");
    assert_eq!(bad_upstream_tls(|of| of.auto_host_sni = true), "auto_host_sni");
    assert_eq!(
        bad_upstream_tls(|of| common(of).tls_certificates = vec![Default::default()]),
        "common_tls_context.tls_certificates"
    );
    assert_eq!(
        bad_upstream_tls(|of| common(of).tls_certificate_sds_secret_configs = vec![secret("other")]),
        "common_tls_context.tls_certificate_sds_secret_configs[0].name"
    );
    assert_eq!(
        bad_upstream_tls(|of| {
            let inline = ValidationContextType::ValidationContext(Default::default());
            common(of).validation_context_type = Some(inline);
        }),
        "common_tls_context.tls_certificate_sds_secret_configs"
    );
    let names = "common_tls_context.combined_validation_context.default_validation_context.match_typed_subject_alt_names";
    assert_eq!(bad_upstream_tls(|of| *of = upstream_tls(&[])), names);
    assert_eq!(
        bad_upstream_tls(|of| *of = upstream_tls(&["spiffe://cluster.local/x"])),
        format!("{names}[0].matcher.exact")
    );
}

#[test]
fn endpoints_of_an_assignment() {
    let bad = |change: fn(&mut endpoint::ClusterLoadAssignment)| {
        let mut wire = assignment(CART, &["10.0.0.7:80"]);
        change(&mut wire);
        refused(CART, packed(type_url::CLUSTER_LOAD_ASSIGNMENT, &wire))
    };
    assert_eq!(bad(|wire| wire.cluster_name = "other".into()), "cluster_name");
    assert_eq!(bad(|wire| wire.endpoints[0].priority = 129), "endpoints[0].priority");
    let first = "endpoints[0].lb_endpoints[0]";
    assert_eq!(
        bad(|wire| wire.endpoints[0].lb_endpoints[0].host_identifier = None),
        format!("{first}.endpoint")
    );
    assert_eq!(
        bad(|wire| wire.endpoints[0].lb_endpoints[0].load_balancing_weight = number(0)),
        format!("{first}.load_balancing_weight")
    );
    assert_eq!(
        bad(|wire| wire.endpoints[0].lb_endpoints[0].health_status = 99),
        format!("{first}.health_status")
    );
}

#[test]
fn routes() {
    use route::route_match::PathSpecifier;
    assert_eq!(bad_table(|of| of.vhds = Some(Default::default())), "vhds");
    assert_eq!(bad_table(|of| of.virtual_hosts[0].domains.clear()), "virtual_hosts[0].domains");
    assert_eq!(
        bad_table(|of| of.virtual_hosts[0].domains = vec!["a*b".into()]),
        "virtual_hosts[0].domains[0]"
    );
    assert_eq!(
        bad_table(|of| of.virtual_hosts.push(of.virtual_hosts[0].clone())),
        "virtual_hosts[1].domains[0]"
    );
    assert_eq!(bad_route(|of| of.r#match = None), "match");
    assert_eq!(bad_route(|of| of.action = None), "action");
    let path = |specifier| bad_route(|of| of.r#match.as_mut().unwrap().path_specifier = specifier);
    assert_eq!(path(None), "match.path_specifier");
    assert_eq!(path(Some(PathSpecifier::PathSeparatedPrefix("/a/".into()))), "match.path_separated_prefix");
    assert_eq!(path(Some(PathSpecifier::ConnectMatcher(Default::default()))), "match.connect_matcher");
    assert_eq!(
        bad_route(|of| of.r#match.as_mut().unwrap().cookies = vec![Default::default()]),
        "match.cookies"
    );
    assert_eq!(
        bad_route(|of| {
            of.typed_per_filter_config.insert("lua".into(), packed("type.googleapis.com/lua", &()));
        }),
        "typed_per_filter_config[\"lua\"]"
    );
    let fault = fault::HttpFault { downstream_nodes: vec!["a".into()], ..Default::default() };
    let fault =
        route::FilterConfig { config: Some(packed(type_url::HTTP_FAULT, &fault)), ..Default::default() };
    let fault = packed(type_url::FILTER_CONFIG, &fault);
    assert_eq!(
        bad_route(|of| drop(of.typed_per_filter_config.insert("fault".into(), fault))),
        "typed_per_filter_config[\"fault\"].config.downstream_nodes"
    );
    assert_eq!(bad_action(|of| of.cluster_specifier = None), "cluster");
    assert_eq!(bad_action(|of| of.timeout = seconds(-1)), "timeout");
    assert_eq!(bad_action(|of| of.hash_policy = vec![Default::default()]), "hash_policy[0].policy_specifier");
    assert_eq!(bad_action(|of| of.rate_limits = vec![Default::default()]), "rate_limits[0].actions");
    assert_eq!(bad_action(|of| of.cluster_not_found_response_code = 9), "cluster_not_found_response_code");
}

#[test]
fn network_filters_that_cannot_decide_or_have_nothing_after_them() {
    use outrigger_proto::xds::rbac::{self, permission::Rule, principal::Identifier};
    let rbac = |rule| {
        let policy = rbac::Policy {
            permissions: vec![rbac::Permission { rule: Some(rule) }],
            principals: vec![rbac::Principal { identifier: Some(Identifier::Any(true)) }],
            ..Default::default()
        };
        let rules = rbac::Rbac { policies: [("p".to_owned(), policy)].into(), ..Default::default() };
        let rbac = network_rbac::Rbac { rules: Some(rules), stat_prefix: "tcp".into(), ..Default::default() };
        network_filter(type_url::NETWORK_RBAC, &rbac)
    };
    let field = route::HeaderMatcher { name: "x-tenant".into(), ..Default::default() };
    assert_eq!(
        bad_listener(|of| of.filter_chains[1].filters.insert(0, rbac(Rule::Header(field)))),
        "filter_chains[1].filters[0].typed_config.rules.policies[\"p\"].permissions[0].header"
    );
    let last = bad_listener(|of| of.filter_chains[1].filters.push(rbac(Rule::Any(true))));
    assert_eq!(last, "filter_chains[1].filters[0]");
    let alone = bad_listener(|of| of.filter_chains[1].filters = vec![rbac(Rule::Any(true))]);
    assert_eq!(alone, "filter_chains[1].filters[0]");
}

#[test]
#[expect(deprecated, reason = "older forms are still sent")]
fn listeners_and_their_chains() {
    assert_eq!(bad_listener(|of| of.filter_chains.clear()), "filter_chains");
    assert_eq!(bad_listener(|of| of.filter_chains[0].filters.clear()), "filter_chains[0].filters");
    assert_eq!(bad_listener(|of| of.filter_chains.push(of.filter_chains[0].clone())), "filter_chains");
    assert_eq!(bad_listener(|of| of.socket_options = vec![Default::default()]), "socket_options");
    let named = |name: &str| listener::ListenerFilter { name: name.into(), ..Default::default() };
    assert_eq!(bad_listener(|of| of.listener_filters = vec![named("proxy_protocol")]), "listener_filters[0]");
    assert_eq!(
        bad_listener(|of| {
            let bind_to_port = Some(BoolValue { value: false });
            of.deprecated_v1 = Some(listener::listener::DeprecatedV1 { bind_to_port });
        }),
        "deprecated_v1"
    );
    assert_eq!(bad_listener(|of| of.freebind = Some(BoolValue { value: true })), "freebind");
    assert_eq!(
        bad_listener(|of| {
            let wanted = of.filter_chains[0].filter_chain_match.as_mut().unwrap();
            wanted.source_ports = vec![1];
        }),
        "filter_chains[0].filter_chain_match.source_ports"
    );
    assert_eq!(
        bad_listener(|of| of.filter_chains[1].filters = vec![network_filter("redis", &())]),
        "filter_chains[1].filters[0].typed_config"
    );
    assert_eq!(
        refused(
            "nothing",
            listener_body(listener::Listener { name: "nothing".into(), ..Default::default() })
        ),
        "address"
    );
}

#[test]
fn chains_whose_protocols_no_connection_can_have() {
    let inspector = || listener::ListenerFilter {
        name: "envoy.filters.listener.http_inspector".into(),
        ..Default::default()
    };
    let field = "filter_chains[0].filter_chain_match.application_protocols";
    let clear = |of: &mut listener::Listener, protocols: &[&str]| {
        of.filter_chains[0].transport_socket = None;
        let wanted = of.filter_chains[0].filter_chain_match.as_mut().unwrap();
        wanted.application_protocols = protocols.iter().map(|name| (*name).into()).collect();
    };
    assert_eq!(bad_listener(|of| clear(of, &["http/1.1"])), field);
    assert_eq!(
        bad_listener(|of| {
            clear(of, &["istio"]);
            of.listener_filters = vec![inspector()];
        }),
        field
    );
    let mut wire = inbound();
    clear(&mut wire, &["http/1.1", "istio"]);
    wire.listener_filters = vec![inspector()];
    assert_eq!(apply(&mut Mesh::default(), "inbound|10.0.0.7:80", "1", listener_body(wire)), None);
    // TLS passthrough: the ALPN is that of the ClientHello.
    let mut wire = inbound();
    wire.filter_chains[1].transport_socket = None;
    assert_eq!(apply(&mut Mesh::default(), "inbound|10.0.0.7:80", "1", listener_body(wire)), None);
}

#[test]
fn connection_managers() {
    assert_eq!(
        bad_manager(|of| of.codec_type = hcm::http_connection_manager::CodecType::Http3.into()),
        "codec_type"
    );
    assert_eq!(bad_manager(|of| of.stat_prefix.clear()), "stat_prefix");
    assert_eq!(bad_manager(|of| of.route_specifier = None), "route_specifier");
    assert_eq!(bad_manager(|of| of.http_filters.clear()), "http_filters");
    assert_eq!(bad_manager(|of| of.http_filters.push(of.http_filters[0].clone())), "http_filters[0]");
    assert_eq!(bad_manager(|of| of.merge_slashes = true), "merge_slashes");
    assert_eq!(bad_manager(|of| of.max_request_headers_kb = number(0)), "max_request_headers_kb");
    let unknown = http_filter("lua", packed("type.googleapis.com/lua", &()));
    let mut wire = manager(rds(CART));
    wire.http_filters.insert(0, unknown);
    let mut listener = destination("cart:80");
    let api_listener = Some(packed(type_url::HTTP_CONNECTION_MANAGER, &wire));
    listener.api_listener = Some(listener::ApiListener { api_listener });
    let refused = apply(&mut Mesh::default(), "cart:80", "1", listener_body(listener)).unwrap();
    assert!(refused.to_string().contains("\"lua\""), "{refused}");
}

#[test]
fn a_message_of_another_type_is_refused() {
    let body = packed(type_url::LISTENER, &destination("cart:80"));
    let refused = Compiled::new(Kind::Cluster, raw("cart:80", "1", body), None).unwrap_err();
    assert_eq!(refused.field, "type_url");
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        kind in 0usize..4,
    ) {
        let kinds =
            [type_url::LISTENER, type_url::ROUTE_CONFIGURATION, type_url::CLUSTER, type_url::CLUSTER_LOAD_ASSIGNMENT];
        let body = Any { type_url: kinds[kind].into(), value: bytes };
        let mut builder = Mesh::default();
        apply(&mut builder, "x", "1", body);
        builder.build();
    }

    #[test]
    fn a_resource_with_a_changed_byte_is_accepted_or_refused_and_never_panics(
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        kind in 0usize..5,
    ) {
        let bodies = [
            ("cart:80", listener_body(destination("cart:80"))),
            ("inbound|10.0.0.7:80", listener_body(inbound())),
            (CART, table_body(table(CART, CART))),
            (CART, cluster_body(cart_cluster())),
            (CART, endpoints(CART, &["10.0.0.7:80"])),
        ];
        let (name, mut body) = bodies[kind].clone();
        let at = at.index(body.value.len());
        body.value[at] = byte;
        let mut builder = cart();
        apply(&mut builder, name, "2", body);
        builder.build();
    }
}
