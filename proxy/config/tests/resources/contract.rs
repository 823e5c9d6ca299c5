//! Resources as the control plane's contract describes them are accepted and have the described meaning.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use outrigger_config::cluster::{Balancing, UpstreamProtocol};
use outrigger_config::endpoint::Transport;
use outrigger_config::listener::{ConnectionFacts, Handler, NetworkFilter, TransportProtocol};
use outrigger_config::route::RouteAction;
use outrigger_config::tls::ClientCertificate;
use outrigger_policy::header_match::Head;
use outrigger_proto::xds::{core, hcm, listener, type_url};

use crate::fixture::*;

#[test]
fn a_destination_leads_to_its_endpoints_and_their_identity() {
    let mut builder = cart();
    let snapshot = build(&mut builder);
    let destination = snapshot.destination("cart:80").unwrap();
    assert_eq!(&*destination.canonical, CART);
    let Handler::Http(http) = &destination.handler else { panic!("not HTTP") };
    let headers = HeaderMap::new();
    let head =
        Head { method: &Method::GET, scheme: "http", authority: "cart", path: "/a", headers: &headers };
    let route = snapshot.table(&http.routes).unwrap().find(&head, 0).unwrap();
    let RouteAction::Forward(forward) = &route.action else { panic!("not forwarded") };
    let cluster = snapshot.cluster(&forward.clusters.pick(0).cluster).unwrap();
    assert_eq!((cluster.balancing, cluster.protocol), (Balancing::PeakEwma, UpstreamProtocol::Http2));
    let endpoints = cluster.endpoints.load();
    let endpoint = &endpoints.list[0];
    let Transport::Tls(tls) = &endpoint.transport else { panic!("in the clear") };
    assert_eq!(tls.sni.as_deref(), Some("cart.shop.svc.cluster.local"));
    assert_eq!(endpoint.expected_peers().unwrap()[0].as_str(), CART_ID);
    assert_eq!(endpoint.instance.as_deref(), Some("cart-1"));
}

#[test]
fn what_a_listener_leads_to_is_metadata_and_never_a_stat_prefix() {
    let mut builder = cart();
    let foreign = listener::Listener { metadata: None, ..destination("cart:80") };
    accept(&mut builder, "cart:80", "2", listener_body(foreign));
    let snapshot = build(&mut builder);
    let found = snapshot.destination("cart:80").unwrap();
    let Handler::Http(http) = &found.handler else { panic!("not HTTP") };
    assert_eq!((&*found.canonical, http.destination.as_deref()), ("cart:80", Some("cart:80")));

    accept(&mut builder, "inbound|127.0.0.1:8080", "1", cluster_body(app_cluster()));
    for (said, expected) in [(None, None), (leads_to(CART), Some(CART))] {
        let mut inbound = inbound();
        inbound.filter_chains.iter_mut().for_each(|chain| chain.metadata = said.clone());
        accept(&mut builder, "inbound|10.0.0.7:80", expected.unwrap_or("1"), listener_body(inbound));
        let snapshot = build(&mut builder);
        for chain in &snapshot.listeners["inbound|10.0.0.7:80"].chains {
            let NetworkFilter::Handle(handler) = &chain.filter else { panic!("no handler") };
            let destination = match handler {
                Handler::Http(http) | Handler::Detect { http, .. } => http.destination.as_deref(),
                Handler::Tcp(tcp) => tcp.destination.as_deref(),
            };
            assert_eq!(destination, expected, "{}", chain.name);
        }
    }
}

#[test]
fn http_1_0_is_served_as_the_listener_says() {
    let settings = |options: Option<core::Http1ProtocolOptions>| {
        let wire = hcm::HttpConnectionManager { http_protocol_options: options, ..manager(rds(CART)) };
        let wire = listener::Listener {
            api_listener: Some(listener::ApiListener {
                api_listener: Some(packed(type_url::HTTP_CONNECTION_MANAGER, &wire)),
            }),
            ..destination("cart:80")
        };
        let mut builder = cart();
        accept(&mut builder, "cart:80", "2", listener_body(wire));
        let snapshot = build(&mut builder);
        let found = snapshot.destination("cart:80").unwrap();
        let Handler::Http(http) = &found.handler else { panic!("not HTTP") };
        (http.settings.accept_http_10, http.settings.default_host_for_http_10.clone())
    };
    assert_eq!(settings(None), (false, None), "as in Envoy");
    let options = core::Http1ProtocolOptions {
        accept_http_10: true,
        default_host_for_http_10: "cart.shop:80".into(),
        ..Default::default()
    };
    assert_eq!(settings(Some(options)), (true, Some("cart.shop:80".parse().unwrap())));
}

#[test]
fn an_endpoint_with_an_identity_that_its_cluster_does_not_allow_accepts_no_peer() {
    let mut builder = cart();
    let mut cluster = cart_cluster();
    let other = upstream_tls(&["spiffe://cluster.local/ns/shop/sa/other"]);
    cluster.transport_socket_matches[0].transport_socket = socket(type_url::UPSTREAM_TLS_CONTEXT, &other);
    accept(&mut builder, CART, "2", cluster_body(cluster));
    let snapshot = build(&mut builder);
    let endpoints = snapshot.cluster(CART).unwrap().endpoints.load();
    assert!(endpoints.list[0].expected_peers().unwrap().is_empty());
}

#[test]
fn an_inbound_listener_chooses_its_chain_by_alpn() {
    let mut builder = Mesh::default();
    accept(&mut builder, "inbound|127.0.0.1:8080", "1", cluster_body(app_cluster()));
    accept(&mut builder, "inbound|10.0.0.7:80", "1", listener_body(inbound()));
    let snapshot = build(&mut builder);
    let listener = &snapshot.listeners["inbound|10.0.0.7:80"];
    let chain = |alpn: &[&[u8]]| {
        let facts = ConnectionFacts {
            destination: listener.address,
            transport: TransportProtocol::Tls,
            server_name: None,
            application_protocols: alpn,
        };
        listener.chain(&facts).map(|chain| chain.name.to_string())
    };
    assert!(listener.needs_hello());
    assert_eq!(chain(&[b"h2"]).as_deref(), Some("inbound|80|http|cart"));
    assert_eq!(chain(&[b"outrigger-tcp"]).as_deref(), Some("inbound|80|tcp|cart"));
    assert_eq!(chain(&[b"outrigger-tcp", b"h2"]).as_deref(), Some("inbound|80|tcp|cart"));
    assert_eq!(chain(&[b"spdy"]), None);
    let required = ClientCertificate::Required;
    assert!(listener.chains.iter().all(|chain| chain.tls.as_ref().unwrap().client_certificate == required));
    let application = snapshot.cluster("inbound|127.0.0.1:8080").unwrap().endpoints.load();
    assert_eq!(application.list.len(), 1);
    assert_eq!(application.list[0].transport, Transport::Plain);
}

#[test]
fn a_destination_of_unknown_protocol_is_detected() {
    let mut builder = cart();
    let mut wire = destination("cart:81");
    wire.listener_filters = vec![listener::ListenerFilter {
        name: "envoy.filters.listener.http_inspector".into(),
        ..Default::default()
    }];
    wire.listener_filters_timeout = seconds(1);
    wire.default_filter_chain = Some(listener::FilterChain {
        filters: vec![network_filter(type_url::TCP_PROXY, &tcp(CART))],
        ..Default::default()
    });
    accept(&mut builder, "cart:81", "1", listener_body(wire));
    let snapshot = build(&mut builder);
    let Handler::Detect { within, .. } = &snapshot.destination("cart:81").unwrap().handler else {
        panic!("not detected")
    };
    assert_eq!(*within, Duration::from_secs(1));
}

#[test]
fn redirected_connections_are_distinguished_by_port() {
    let mut builder = Mesh::default();
    accept(&mut builder, "inbound|127.0.0.1:8080", "1", cluster_body(app_cluster()));
    let mut wire = inbound();
    wire.use_original_dst = Some(outrigger_proto::xds::protobuf::BoolValue { value: true });
    wire.filter_chains.pop();
    wire.filter_chains[0].filter_chain_match.as_mut().unwrap().destination_port = number(8080);
    accept(&mut builder, "inbound|10.0.0.7:80", "1", listener_body(wire));
    let snapshot = build(&mut builder);
    let listener = &snapshot.listeners["inbound|10.0.0.7:80"];
    let facts = |destination: &str| ConnectionFacts {
        destination: destination.parse().unwrap(),
        transport: TransportProtocol::Tls,
        server_name: None,
        application_protocols: &[b"h2"],
    };
    assert!(listener.original_dst && listener.chain(&facts("10.0.0.7:8080")).is_some());
    assert!(listener.chain(&facts("10.0.0.7:8081")).is_none());
}

#[test]
fn the_original_destination_filter_enables_its_use() {
    let mut builder = Mesh::default();
    accept(&mut builder, "inbound|127.0.0.1:8080", "1", cluster_body(app_cluster()));
    let mut wire = inbound();
    wire.listener_filters = vec![
        listener::ListenerFilter {
            name: "envoy.filters.listener.tls_inspector".into(),
            ..Default::default()
        },
        listener::ListenerFilter { name: "envoy.filters.listener.original_dst".into(), ..Default::default() },
    ];
    accept(&mut builder, "inbound|10.0.0.7:80", "1", listener_body(wire));
    assert!(build(&mut builder).listeners["inbound|10.0.0.7:80"].original_dst);
}

#[test]
fn an_optional_filter_that_is_not_known_is_skipped() {
    let mut builder = cart();
    let mut manager = manager(rds(CART));
    let mut unknown = http_filter("lua", packed("type.googleapis.com/lua", &()));
    unknown.is_optional = true;
    manager.http_filters.insert(0, unknown);
    let mut wire = destination("cart:80");
    wire.api_listener = Some(listener::ApiListener {
        api_listener: Some(packed(type_url::HTTP_CONNECTION_MANAGER, &manager)),
    });
    accept(&mut builder, "cart:80", "2", listener_body(wire));
}

#[test]
fn the_proxys_own_listeners_are_in_every_snapshot() {
    let mut donor = Mesh::default();
    accept(&mut donor, "inbound|127.0.0.1:8080", "1", cluster_body(app_cluster()));
    accept(&mut donor, "inbound|10.0.0.7:80", "1", listener_body(inbound()));
    let own = build(&mut donor).listeners["inbound|10.0.0.7:80"].clone();
    let snapshot = build(&mut Mesh::with_own(own.clone()));
    assert!(Arc::ptr_eq(&snapshot.listeners[&own.name], &own));
    assert!(matches!(own.chains[0].filter, NetworkFilter::Handle(Handler::Http(_))));
}
