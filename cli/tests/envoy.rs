//! A real Envoy, configured by our control plane: it accepts every resource, serves requests, and follows an update.
//! Part of `tests/heavier`, which installs Envoy and sets `OUTRIGGER_ENVOY` to its path.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use outrigger::ports;
use serde_json::Value;

#[test]
fn envoy_accepts_every_resource_serves_requests_and_follows_an_update() {
    let mesh = Mesh::start();
    wait("Envoy serves a request", || {
        mesh.get(mesh.front, "/items").filter(|answer| answer.contains(" 200 "))
    });
    let answer = mesh.get(mesh.front, "/items").unwrap();
    assert!(answer.contains("x-release: one") && answer.contains("paddle"), "{answer}");
    let kinds = mesh.acknowledged();
    assert!(["cds", "eds", "rds"].iter().all(|kind| kinds.contains(&(*kind).to_owned())), "{kinds:?}");

    // An endpoint that refuses connections, then another route with the first endpoint again.
    mesh.processes.configure(&configuration(mesh.unused, "one"));
    wait("Envoy uses the new endpoint", || {
        mesh.get(mesh.front, "/items").filter(|answer| answer.contains(" 503 "))
    });
    mesh.processes.configure(&configuration(mesh.app, "two"));
    wait("Envoy uses the new route", || {
        mesh.get(mesh.front, "/items")
            .filter(|answer| answer.contains(" 200 ") && answer.contains("x-release: two"))
    });
    mesh.acknowledged();
    let stats = mesh.get(mesh.envoy_admin, "/stats?filter=update_rejected").unwrap();
    let rejected: Vec<_> =
        stats.lines().filter(|line| line.contains("rejected: ") && !line.ends_with(": 0")).collect();
    assert!(stats.contains("listener_manager.lds.update_rejected: 0") && rejected.is_empty(), "{rejected:?}");
}

/// A control plane, an application and an Envoy as a gateway, which has a certificate of the mesh. All ports are on loopback.
struct Mesh {
    processes: support::Mesh,
    listen: SocketAddr,
    admin: SocketAddr,
    app: SocketAddr,
    unused: SocketAddr,
    front: SocketAddr,
    envoy_admin: SocketAddr,
}

impl Mesh {
    fn start() -> Self {
        let [listen, admin, app, unused, front, envoy_admin, proxy_admin, outbound] = ports::free().unwrap();
        let mut processes = support::Mesh::start(&[], listen, admin, &configuration(app, "one"));
        processes.outrigger("app", &[], &["sample", "catalog", "--listen", &app.to_string()]);
        // A sidecar gets the certificate for Envoy.
        processes.sidecar(&[], "gateway", proxy_admin, &["--outbound", &outbound.to_string()]);
        let mut mesh = Self { processes, listen, admin, app, unused, front, envoy_admin };
        let bootstrap = mesh.processes.path("envoy.yaml");
        std::fs::write(&bootstrap, mesh.bootstrap()).unwrap();
        let envoy = std::env::var("OUTRIGGER_ENVOY").expect("OUTRIGGER_ENVOY: run tests/heavier");
        let flags = ["--concurrency", "1", "--log-level", "warning", "--use-dynamic-base-id"];
        mesh.processes.spawn("envoy", &[&[&envoy, "-c", &bootstrap], &flags[..]].concat());
        mesh
    }

    /// Waits until Envoy has acknowledged everything. Returns the types that it holds; panics if it has rejected a resource.
    fn acknowledged(&self) -> Vec<String> {
        wait("Envoy acknowledges everything", || {
            let answer = self.get(self.admin, "/status")?;
            let status: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).unwrap();
            assert_eq!(status["refusals"].as_array().unwrap().len(), 0, "{status}");
            let envoy =
                status["proxies"].as_array().unwrap().iter().find(|proxy| proxy["node"] == "envoy")?;
            assert!(envoy["software"].as_str().unwrap().starts_with("envoy 1."), "{status}");
            let types = envoy["types"].as_array().unwrap();
            let resources = || types.iter().flat_map(|of| of["resources"].as_array().unwrap());
            let rejected: Vec<_> = resources().filter(|resource| !resource["nacked"].is_null()).collect();
            assert!(rejected.is_empty(), "{rejected:#?}");
            let settled = types.iter().all(|of| of["waiting"] == false)
                && resources().all(|resource| resource["sent"] == resource["acked"]);
            let held = types.iter().filter(|of| !of["resources"].as_array().unwrap().is_empty());
            settled.then(|| held.map(|of| of["kind"].as_str().unwrap().to_owned()).collect())
        })
    }

    /// Envoy's own configuration: the control plane over mutual TLS, and one listener with the routes of `cart`.
    fn bootstrap(&self) -> String {
        let directory = self.processes.path("");
        let address = |at: SocketAddr| {
            format!("{{socket_address: {{address: {}, port_value: {}}}}}", at.ip(), at.port())
        };
        let (admin, front, control_plane) =
            (address(self.envoy_admin), address(self.front), address(self.listen));
        format!(
            r#"node:
  id: envoy
  cluster: gateway
  metadata: {{OUTRIGGER_MODE: wildcard}}
admin: {{address: {admin}}}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{{envoy_grpc: {{cluster_name: control-plane}}}}]
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  listeners:
  - name: front
    address: {front}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          rds: {{route_config_name: "cart.shop.svc.cluster.local:80", config_source: {{ads: {{}}, resource_api_version: V3}}}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: control-plane
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: control-plane
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {control_plane}}}}}]}}]
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3}}
          alpn_protocols: [h2]
          tls_certificates:
          - certificate_chain: {{filename: {directory}gateway/identity.pem}}
            private_key: {{filename: {directory}gateway/identity.key}}
          validation_context:
            trusted_ca: {{filename: {directory}roots.pem}}
            match_typed_subject_alt_names:
            - {{san_type: URI, matcher: {{exact: "spiffe://cluster.local/ns/outrigger-system/sa/control-plane"}}}}
"#
        )
    }

    /// Returns the whole response as text, or None if the port is not open yet.
    fn get(&self, address: SocketAddr, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }
}

/// Returns the configuration: services of every protocol, and `cart` with one endpoint and one route.
fn configuration(endpoint: SocketAddr, release: &str) -> String {
    let service = |name: &str, spec: &str, ports: &str| {
        format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{{spec}, ports: [{ports}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: a, port: {}, protocol: TCP}}, {{name: b, port: 9, protocol: TCP}}]
endpoints: [{{addresses: [\"{}\"]}}]
---
",
            endpoint.port(),
            endpoint.ip()
        )
    };
    [
        service("cart", "clusterIP: 10.96.0.10", "{name: a, port: 80, appProtocol: http}"),
        service("db", "clusterIP: 10.96.0.11", "{name: a, port: 5432, appProtocol: tcp}, {name: b, port: 9}"),
        service("grpc", "clusterIP: 10.96.0.12", "{name: a, port: 80, appProtocol: kubernetes.io/h2c}"),
        service("headless", "clusterIP: None", "{name: a, port: 80, appProtocol: http}"),
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart, namespace: shop}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: cart, port: 80}}]
  rules:
  - timeouts: {{request: 5s}}
    retry: {{attempts: 1, codes: [503]}}
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-release, value: {release}}}]}}
    backendRefs: [{{name: cart, port: 80}}]
"
        ),
    ]
    .concat()
}

/// Waits for a value; panics after 30 s.
fn wait<T>(what: &str, mut value: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(100));
    }
}
