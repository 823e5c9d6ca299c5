//! Picks by hashes agree with Envoy: `hashing.json` has clusters as Envoy reads them, and the endpoints that it picked for the
//! requests that are made here. `tests/heavier envoy` compares more requests with an Envoy that runs.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use outrigger_config::snapshot::Snapshot;
use outrigger_policy::hash_policy::HashPolicies;
use outrigger_policy::header_match::Head;
use outrigger_policy::verdict::Source;
use outrigger_proto::xds::cluster;
use prost::Message;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};

use crate::fields::descriptors::POOL;
use crate::fixture::*;

const OBSERVED: &str = include_str!("hashing.json");

/// Decodes a message from its JSON form.
fn message<M: Message + Default>(full_name: &str, json: &Value) -> M {
    let descriptor = POOL.get_message_by_name(full_name).unwrap();
    DynamicMessage::deserialize(descriptor, json).unwrap().transcode_to().unwrap()
}

/// Returns the path and the fields of the request of that number: each of the policies in `hashing.json` has a part of them.
fn request(cluster: &str, number: usize) -> (String, Vec<(HeaderName, String)>) {
    let key = |of: usize| (HeaderName::from_static("x-key"), format!("key-{of}"));
    let fields = match number % 4 {
        0 => vec![key(number)],
        1 => vec![(COOKIE, format!("a=b; session=key-{number}"))],
        2 => vec![],
        _ => vec![key(number), (COOKIE, format!("session=s{number}"))],
    };
    let query = if number % 4 > 1 { format!("?user=u{number}") } else { String::new() };
    (format!("/{cluster}/{number}{query}"), fields)
}

fn hash_of(policies: &HashPolicies, cluster: &str, number: usize) -> Option<u64> {
    let (path, fields) = request(cluster, number);
    let headers: HeaderMap =
        fields.into_iter().map(|(name, value)| (name, HeaderValue::try_from(value).unwrap())).collect();
    let head =
        Head { method: &Method::GET, scheme: "http", authority: "cart", path: &path, headers: &headers };
    let local = "127.0.0.1:80".parse().unwrap();
    let source = Source {
        identity: None,
        address: [127, 0, 0, 1].into(),
        port: 1,
        destination: local,
        server_name: None,
    };
    policies.of_request(&head, &source, |_| {})
}

/// Returns the last part of the picked address of each request.
fn picked(snapshot: &Snapshot, name: &str, of_route: &HashPolicies, requests: usize) -> String {
    let cluster = snapshot.cluster(name).unwrap();
    let endpoints = cluster.endpoints.load();
    let policies = if cluster.hash_policies.is_empty() { of_route } else { &cluster.hash_policies };
    let serves = |at: usize| {
        use outrigger_config::endpoint::HealthStatus::Healthy;
        endpoints.list[at].health == Healthy
    };
    let available: Vec<_> = endpoints
        .groups()
        .all()
        .iter()
        .map(|group| group.hosts.iter().filter(|at| serves(**at)).count())
        .collect();
    let pick = |number| {
        let hash = hash_of(policies, name, number).unwrap();
        match endpoints.list[endpoints.of_hash(hash, &available, serves).unwrap()].address.ip() {
            IpAddr::V4(address) => address.octets()[3].to_string(),
            IpAddr::V6(_) => "?".into(),
        }
    };
    (0..requests).map(pick).collect()
}

/// Returns the clusters of `hashing.json`, each with its name, what Envoy picked, and a function that picks for requests.
fn clusters(observed: &Value) -> Vec<(String, &str, impl Fn(usize) -> String)> {
    let policies = observed["hash_policy"].as_array().unwrap().iter();
    let policies = policies.map(|json| message("envoy.config.route.v3.RouteAction.HashPolicy", json));
    let policies = HashPolicies::decode(policies.collect()).unwrap();
    let cluster = |of: &'_ Value| {
        let wire: cluster::Cluster = message("envoy.config.cluster.v3.Cluster", &of["cluster"]);
        let name = wire.name.clone();
        let mut mesh = Mesh::default();
        accept(&mut mesh, &name, "1", cluster_body(wire));
        (name, build(&mut mesh))
    };
    let all = observed["clusters"].as_array().unwrap().iter();
    all.map(|of| {
        let ((name, snapshot), policies) = (cluster(of), policies.clone());
        let picks = {
            let name = name.clone();
            move |requests| picked(&snapshot, &name, &policies, requests)
        };
        (name, of["picked"].as_str().unwrap(), picks)
    })
    .collect()
}

#[test]
fn picks_by_hashes_are_those_of_envoy() {
    let observed: Value = serde_json::from_str(OBSERVED).unwrap();
    let clusters = clusters(&observed);
    assert_eq!(clusters.len(), 13);
    for (name, expected, picked) in clusters {
        assert_eq!(picked(expected.len()), expected, "{name}");
    }
}

#[test]
#[ignore = "needs Envoy, in the variable OUTRIGGER_ENVOY: see tests/heavier envoy"]
fn picks_by_hashes_are_those_of_an_envoy_that_runs() {
    const REQUESTS: usize = 300;
    let observed: Value = serde_json::from_str(OBSERVED).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (log, port) = (directory.path().join("access.log"), free_port());
    let bootstrap = directory.path().join("envoy.json");
    std::fs::write(&bootstrap, envoy(&observed, port, &log).to_string()).unwrap();
    let mut process = Running(
        Command::new(std::env::var("OUTRIGGER_ENVOY").unwrap())
            .arg("-c")
            .arg(&bootstrap)
            .args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error"])
            .spawn()
            .unwrap(),
    );
    let clusters = clusters(&observed);
    for (name, ..) in &clusters {
        (0..REQUESTS).for_each(|number| get(port, request(name, number)));
    }
    process.stop();
    let mut picked_by_envoy = BTreeMap::<String, BTreeMap<usize, String>>::new();
    for line in std::fs::read_to_string(&log).unwrap().lines() {
        let (path, host) = line.split_once(' ').unwrap();
        let path: Vec<_> = path.split('?').next().unwrap().split('/').collect();
        let address: SocketAddr = host.parse().unwrap();
        let IpAddr::V4(address) = address.ip() else { panic!("{line}") };
        let picks = picked_by_envoy.entry(path[1].to_owned()).or_default();
        picks.insert(path[2].parse().unwrap(), address.octets()[3].to_string());
    }
    for (name, _, picked) in clusters {
        let expected: Vec<_> = picked_by_envoy[&name].values().map(String::as_str).collect();
        assert_eq!(expected.len(), REQUESTS, "{name}");
        assert_eq!(picked(REQUESTS), expected.concat(), "{name}");
    }
}

/// A process that is ended when this is dropped.
struct Running(Child);

impl Running {
    /// Ends it as an operator would, so that it writes its log.
    fn stop(&mut self) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").arg(id).status().unwrap().success());
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The configuration of an Envoy that routes to the clusters by the beginning of the path. No endpoint listens: which one it
/// picks is in its access log.
fn envoy(observed: &Value, port: u16, log: &Path) -> Value {
    let clusters = observed["clusters"].as_array().unwrap();
    let route = |of: &Value| {
        let name = of["cluster"]["name"].as_str().unwrap();
        json!({
            "match": { "prefix": format!("/{name}/") },
            "route": { "cluster": name, "hash_policy": observed["hash_policy"] },
        })
    };
    let typed = |name: &str, mut config: Value| {
        config["@type"] = format!("type.googleapis.com/{name}").into();
        config
    };
    let access_log = typed(
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        json!({
            "path": log,
            "log_format": { "text_format_source": { "inline_string": "%REQ(:PATH)% %UPSTREAM_HOST%\n" } },
        }),
    );
    let router = typed("envoy.extensions.filters.http.router.v3.Router", json!({}));
    let manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "hashing",
            "access_log": [{ "name": "file", "typed_config": access_log }],
            "http_filters": [{ "name": "router", "typed_config": router }],
            "route_config": {
                "virtual_hosts": [{
                    "name": "all",
                    "domains": ["*"],
                    "routes": clusters.iter().map(route).collect::<Vec<_>>(),
                }],
            },
        }),
    );
    let listener = json!({
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } },
        "filter_chains": [{ "filters": [{ "name": "http", "typed_config": manager }] }],
    });
    let clusters: Vec<_> = clusters.iter().map(|of| &of["cluster"]).collect();
    json!({ "static_resources": { "listeners": [listener], "clusters": clusters } })
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Sends a request as soon as the port is open, and reads whatever answers it.
fn get(port: u16, (path, fields): (String, Vec<(HeaderName, String)>)) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let fields: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: cart\r\nconnection: close\r\n{fields}\r\n").unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
}
