//! The contract between translation and the proxy: if a configuration is accepted, no proxy refuses the resources translated
//! from it, and every resource that they refer to exists.
//!
//! Configuration is read from files, so that the source's validation is part of the contract: first every kind of route,
//! filter and service, then a property test of routes with unusual but valid values.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod policies;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_config::build::Builder;
use outrigger_config::compiled::{Compiled, Raw};
use outrigger_config::resources::Resources;
use outrigger_control_plane::model::registration::{
    MtlsMode, Registrations, WorkloadEntry, WorkloadKey, WorkloadPort,
};
use outrigger_control_plane::model::service::{AppProtocol, ServiceKey};
use outrigger_control_plane::source::assembler::{Assembler, View};
use outrigger_control_plane::source::watch::DirectorySource;
use outrigger_control_plane::translate::catalog::Catalog;
use outrigger_control_plane::translate::scope::{Dialect, MeshSettings, Mode, Viewer};
use outrigger_core::Name;
use outrigger_core::identity::{SpiffeId, TrustDomain};
use outrigger_proto::kind::Kind;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Reads a configuration of these documents.
fn read(documents: &[Value]) -> View {
    let directory = tempfile::tempdir().unwrap();
    let text: Vec<_> = documents.iter().map(Value::to_string).collect();
    std::fs::write(directory.path().join("all.yaml"), text.join("\n---\n")).unwrap();
    let state = directory.path().join("state.json");
    let mut assembler = Assembler::new(|_| {});
    let _source = DirectorySource::start(directory.path(), state, assembler.add_source()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(assembler.synced()).unwrap().borrow().clone()
}

fn catalog(view: &View, registrations: Registrations) -> Catalog {
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    let catalog = Catalog::new(MeshSettings { cluster_domain: "cluster.local".into(), trust_domain });
    catalog.publish(Arc::new(view.mesh.with_registrations(registrations)));
    catalog
}

fn workload(namespace: &str) -> WorkloadKey {
    let identity = SpiffeId::parse(&format!("spiffe://cluster.local/ns/{namespace}/sa/cart")).unwrap();
    WorkloadKey { identity, instance: "cart-1".into() }
}

/// Decodes, as a proxy does, all resources that the `asked` listeners and the wildcards lead to. Returns the accepted resources
/// and the errors.
fn give(catalog: &Catalog, namespace: &str, mode: Mode, asked: &[&str]) -> (Resources, Vec<String>) {
    let viewer = Viewer {
        workload: workload(namespace),
        mode,
        dialect: Dialect::Outrigger,
        zone: None,
        forwards_client_certificates: true,
    };
    let mut resources = Resources::default();
    let mut minded = Vec::new();
    let mut wanted: BTreeSet<(Kind, Name)> =
        asked.iter().map(|name| (Kind::Listener, Name::from(*name))).collect();
    // Referring kinds before the kinds that they refer to.
    for kind in [Kind::Listener, Kind::Route, Kind::Cluster, Kind::Endpoints] {
        if kind.has_wildcard() {
            wanted.extend(catalog.wildcard(&viewer, kind).into_iter().map(|name| (kind, name)));
        }
        let names: Vec<_> = wanted.iter().filter(|(of, _)| *of == kind).map(|(_, n)| n.clone()).collect();
        for name in names {
            let Some(made) = catalog.resource(&viewer, kind, &name) else {
                minded.push(format!("there is no {kind:?} {name}"));
                continue;
            };
            let aliases = made.aliases.clone();
            let raw = Raw { name, aliases, version: made.version.to_string(), body: made.to_any() };
            match Compiled::new(kind, raw.clone(), None) {
                Ok(compiled) => {
                    wanted.extend(compiled.references().map(|(kind, name)| (kind, name.clone())));
                    resources.insert(kind, Arc::new(compiled));
                }
                Err(unusable) => minded.push(format!("{kind} {}: {unusable}", raw.name)),
            }
        }
    }
    (resources, minded)
}

fn service(name: &str, ip: &str, ports: &[(u16, &str)]) -> Value {
    let port = |(number, protocol): &(u16, &str)| match *protocol {
        "" => json!({"name": format!("p{number}"), "port": number}),
        protocol => json!({"name": format!("p{number}"), "port": number, "appProtocol": protocol}),
    };
    let ports: Vec<_> = ports.iter().map(port).collect();
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": ip, "ports": ports}})
}

fn slice(service: &str, port: u16, addresses: &[&str], family: &str) -> Value {
    let endpoint =
        |address: &&str| json!({"addresses": [address], "zone": "z1", "conditions": {"ready": true}});
    let endpoints: Vec<_> = addresses.iter().map(endpoint).collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
        "metadata": {"name": format!("{service}-{port}"), "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints, "ports": [{"name": format!("p{port}"), "port": port}]})
}

fn route(kind: &str, name: &str, namespace: &str, parent: (&str, u16), rules: Value) -> Value {
    let parent =
        json!({"group": "", "kind": "Service", "name": parent.0, "namespace": "shop", "port": parent.1});
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
        "metadata": {"name": name, "namespace": namespace}, "spec": {"parentRefs": [parent], "rules": rules}})
}

/// `cart` with a port of every protocol, `other` over IPv6, `stock` without a cluster IP, and an external name.
fn services() -> Vec<Value> {
    let protocols =
        [(80, "http"), (81, ""), (82, "kubernetes.io/h2c"), (83, "grpc"), (84, "tcp"), (85, "http")];
    vec![
        service("cart", "10.0.0.1", &protocols),
        slice("cart", 80, &["10.1.0.1", "10.1.0.2"], "IPv4"),
        service("other", "fd00::1", &[(80, "http")]),
        slice("other", 80, &["fd00::2"], "IPv6"),
        service("stock", "None", &[(9000, "")]),
        slice("stock", 9000, &["10.1.0.9"], "IPv4"),
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "away", "namespace": "shop"},
            "spec": {"type": "ExternalName", "externalName": "example.org"}}),
    ]
}

fn backend(name: &str, weight: u32) -> Value {
    json!({"name": name, "namespace": "shop", "port": 80, "weight": weight})
}

fn every_filter() -> Value {
    let changes = json!({"set": [{"name": "A", "value": "100% of %REQ(x)%"}], "add": [{"name": "c", "value": "d"}],
        "remove": ["e"]});
    let mirror =
        json!({"backendRef": {"name": "cart", "port": 80}, "fraction": {"numerator": 1, "denominator": 3}});
    let gone = json!({"backendRef": {"name": "gone", "port": 80}});
    let cors = json!({"allowOrigins": ["https://*.example.com", "http://*", "https://a.b:8443"], "allowCredentials": true,
        "allowMethods": ["GET"], "allowHeaders": ["X-A"], "exposeHeaders": ["*"], "maxAge": 60});
    json!([
        {"type": "RequestHeaderModifier", "requestHeaderModifier": changes},
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": changes},
        {"type": "RequestMirror", "requestMirror": mirror},
        {"type": "RequestMirror", "requestMirror": gone},
        {"type": "URLRewrite", "urlRewrite": {"hostname": "example.com",
            "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": ""}}},
        {"type": "CORS", "cors": cors},
        {"type": "ExternalAuth", "externalAuth": {"protocol": "HTTP", "backendRef": {"name": "other", "port": 80},
            "http": {"path": "/check", "allowedHeaders": ["a"]}, "forwardBody": {"maxSize": 9}}},
    ])
}

fn every_route() -> Vec<Value> {
    let path = |kind: &str, value: &str| json!([{"path": {"type": kind, "value": value}}]);
    let rewrite = |kind: &str, field: &str, value: &str| json!([{"type": "URLRewrite", "urlRewrite": {"path": {"type": kind, field: value}}}]);
    let changes = json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}]);
    let mut special = backend("cart", 1);
    special["filters"] = changes;
    let http = json!([
        {"matches": path("PathPrefix", "/a/"), "filters": every_filter(), "backendRefs": [backend("cart", 9), backend("gone", 1)],
            "timeouts": {"request": "10s", "backendRequest": "2s"},
            "retry": {"codes": [500, 503], "attempts": 3, "backoff": "100ms"}},
        {"matches": [{"method": "CONNECT", "headers": [{"name": "Host", "value": "cart"}, {"name": "x", "type": "RegularExpression", "value": "a|b"}],
            "queryParams": [{"name": "q%20", "value": "%"}]}], "backendRefs": [special], "retry": {"attempts": 1, "backoff": "0s"}, "timeouts": {"request": "0s"}},
        {"matches": path("RegularExpression", "/[ab]/.*"), "filters": rewrite("ReplaceFullPath", "replaceFullPath", r"/100%25/\1/$1"),
            "backendRefs": [backend("cart", 1)]},
        {"matches": path("PathPrefix", "/c.d"), "filters": rewrite("ReplacePrefixMatch", "replacePrefixMatch", "/%20"), "backendRefs": [backend("cart", 0)]},
        {"matches": path("PathPrefix", "/e"), "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https",
            "hostname": "example.com", "path": {"type": "ReplaceFullPath", "replaceFullPath": "/%20x"}, "statusCode": 308}}]},
        {"matches": path("PathPrefix", "/f"), "filters": [{"type": "RequestRedirect", "requestRedirect": {"port": 8443,
            "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": ""}}}]},
        {},
    ]);
    let grpc = json!([
        {"matches": [{"method": {"type": "Exact", "service": "shop.v1.Payments", "method": "Pay"}}], "backendRefs": [backend("cart", 1)]},
        {"matches": [{"method": {"type": "RegularExpression", "service": "shop\\..*"}}],
            "filters": [{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "cart", "port": 80}}}]},
    ]);
    let tcp = |backends: Value| json!([{"backendRefs": backends}]);
    vec![
        route("HTTPRoute", "http", "shop", ("cart", 80), http),
        route(
            "HTTPRoute",
            "consumer",
            "office",
            ("cart", 80),
            json!([{"backendRefs": [backend("cart", 1)]}]),
        ),
        route("GRPCRoute", "grpc", "shop", ("cart", 83), grpc),
        route("TCPRoute", "tcp", "shop", ("cart", 84), tcp(json!([backend("cart", 9), backend("gone", 1)]))),
        route("TCPRoute", "opaque", "shop", ("cart", 85), tcp(json!([backend("gone", 1)]))),
    ]
}

/// A workload that serves every port of `cart`, on listening addresses of its own or by redirected sockets.
fn registered(original_destination: bool, capture: Option<SocketAddr>) -> Registrations {
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let protocols = [
        None,
        Some(AppProtocol::Http),
        Some(AppProtocol::H2c),
        Some(AppProtocol::Grpc),
        Some(AppProtocol::Tcp),
        None,
    ];
    let port = |(service_port, protocol): (u16, &Option<AppProtocol>)| WorkloadPort {
        services: vec![ServiceKey::new("shop", "cart")],
        service_port,
        protocol: *protocol,
        advertised: address(9000 + service_port),
        listen: address(if original_destination { 15006 } else { 9000 + service_port }),
        application: address(8000 + service_port),
        original_destination,
        mtls: Some(if service_port < 83 { MtlsMode::Permissive } else { MtlsMode::Strict }),
    };
    let mut all = Registrations::default();
    all.insert(Arc::new(WorkloadEntry {
        key: workload("shop"),
        ports: (80..).zip(&protocols).map(port).collect(),
        labels: [("version".into(), "v1".into())].into(),
        capture,
        mtls: MtlsMode::Permissive,
        ready: true,
        draining: false,
        pod: None,
    }));
    all
}

#[test]
fn every_kind_of_route_filter_and_service_is_accepted() {
    let documents: Vec<_> = {
        let policies = policies::every_policy().into_iter().chain(policies::every_authentication());
        let policies = policies.chain(policies::every_backend_traffic());
        services().into_iter().chain(every_route()).chain(policies).collect()
    };
    let view = read(&documents);
    assert_eq!(*view.refusals, []);
    let asked = [
        "cart:80",
        "cart.shop:81",
        "cart.shop.svc:82",
        "cart.shop.svc.cluster.local:83",
        "cart:84",
        "cart:85",
        "10.0.0.1:80",
        "[fd00::1]:80",
        "stock:9000",
        "10.1.0.9:9000",
        "10.1.0.1:80",
        "127.0.0.1:9081",
    ];
    let capture = Some(SocketAddr::from(([127, 0, 0, 1], 15006)));
    for (original_destination, capture) in [(false, None), (true, None), (true, capture)] {
        let catalog = catalog(&view, registered(original_destination, capture));
        let (_, minded) = give(&catalog, "shop", Mode::OnDemand, &asked);
        assert_eq!(minded, Vec::<String>::new());
        let (_, minded) = give(&catalog, "office", Mode::OnDemand, &["cart.shop:80"]);
        assert_eq!(minded, Vec::<String>::new());
        let (resources, minded) = give(&catalog, "shop", Mode::Wildcard, &[]);
        assert_eq!(minded, Vec::<String>::new());
        let snapshot = Builder::default().build(&Resources::default(), &resources).unwrap();
        for address in ["10.0.0.1:80", "10.0.0.1:85", "[fd00::1]:80"] {
            assert!(snapshot.destination(address).is_some(), "{address}");
        }
    }
}

/// Text with characters that have a special meaning in URLs, regular expressions or Envoy's format strings.
fn odd_text() -> impl Strategy<Value = String> {
    let plain = prop::sample::select(vec!["a", "B", "7", "-", "_", ".", "~", "é"]);
    let special = "[ -~]".prop_map(|text: String| text);
    let known = prop::sample::select(vec![
        "%20", "%REQ(x)%", "%%", "\\1", "$1", "\\", "?", "#", "*", "/", "//", "{}", "\t",
    ]);
    let piece = prop_oneof![plain.prop_map(String::from), special, known.prop_map(String::from)];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

fn header_name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "Host",
        "connection",
        "Content-Length",
        "TE",
        "transfer-encoding",
        "upgrade",
        "trailer",
        "keep-alive",
        "Proxy-Connection",
        "http2-settings",
        "expect",
        "x-forwarded-for",
        ":path",
        "cookie",
    ]);
    prop_oneof![known.prop_map(String::from), "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,8}"]
}

fn filter() -> impl Strategy<Value = Value> {
    let changes = || {
        (header_name(), odd_text(), prop::sample::select(vec!["set", "add", "remove"])).prop_map(
            |(name, value, list)| match list {
                "remove" => json!({"remove": [name]}),
                list => json!({list: [{"name": name, "value": value}]}),
            },
        )
    };
    let path = || {
        (odd_text(), any::<bool>()).prop_map(|(text, full)| match full {
            true => json!({"type": "ReplaceFullPath", "replaceFullPath": text}),
            false => json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": text}),
        })
    };
    prop_oneof![
        changes().prop_map(|to| json!({"type": "RequestHeaderModifier", "requestHeaderModifier": to})),
        changes().prop_map(|to| json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": to})),
        path().prop_map(|path| json!({"type": "URLRewrite", "urlRewrite": {"path": path}})),
        (path(), any::<u16>()).prop_map(|(path, port)| {
            json!({"type": "RequestRedirect", "requestRedirect": {"path": path, "port": port}})
        }),
        (odd_text(), header_name(), header_name()).prop_map(|(origin, allowed, exposed)| {
            json!({"type": "CORS", "cors": {"allowOrigins": [format!("https://{origin}")], "allowHeaders": [allowed],
                "exposeHeaders": [exposed]}})
        }),
    ]
}

fn matches() -> impl Strategy<Value = Value> {
    let kinds = || prop::sample::select(vec!["Exact", "RegularExpression"]);
    let path = prop_oneof![3 => Just("PathPrefix"), 1 => Just("Exact"), 1 => Just("RegularExpression")];
    (path, odd_text(), kinds(), header_name(), odd_text()).prop_map(|(path, rest, kind, name, value)| {
        json!({"path": {"type": path, "value": format!("/{rest}")},
            "headers": [{"type": kind, "name": name, "value": value}],
            "queryParams": [{"type": kind, "name": name, "value": value}]})
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let duration = || prop::sample::select(vec!["0s", "1ms", "99999h99999h99999h", "3s"]);
    let weights = prop::collection::vec(prop::sample::select(vec![0, 1, 1_000_000]), 0..3);
    (prop::option::of(matches()), prop::option::of(filter()), duration(), weights, 400..600, 0..4).prop_map(
        |(matches, filter, duration, weights, code, attempts)| {
            let redirects = filter.as_ref().is_some_and(|filter| filter["type"] == "RequestRedirect");
            let backends: Vec<_> = weights.iter().map(|weight| backend("cart", *weight)).collect();
            let mut rule = json!({"matches": matches.into_iter().collect::<Vec<_>>(),
                "filters": filter.into_iter().collect::<Vec<_>>()});
            if !redirects {
                rule["backendRefs"] = json!(backends);
                rule["timeouts"] = json!({"request": duration});
                rule["retry"] = json!({"codes": [code], "attempts": attempts, "backoff": duration});
            }
            rule
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_source_accepts_the_proxy_does_not_refuse(rules in prop::collection::vec(rule(), 1..4)) {
        let mut documents = services();
        // One rule per route, so that a refused rule does not remove the others.
        documents.extend(rules.into_iter().enumerate().map(|(at, rule)| {
            route("HTTPRoute", &format!("r{at}"), "shop", ("cart", 80), json!([rule]))
        }));
        let catalog = catalog(&read(&documents), Registrations::default());
        let (_, minded) = give(&catalog, "shop", Mode::OnDemand, &["cart:80"]);
        prop_assert_eq!(minded, Vec::<String>::new());
    }
}
