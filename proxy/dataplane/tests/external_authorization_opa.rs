//! External authorization by a server that we did not write: Open Policy Agent with its plugin for Envoy. Over HTTP its `system.authz` policy
//! allows or denies the request that it is asked about; over gRPC the plugin answers `envoy.service.auth.v3`.
//!
//! `tests/heavier opa` runs them, since they need the program.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use outrigger_config::cluster::{Cluster, UpstreamProtocol};
use outrigger_config::http_manager::HttpConnectionManager;
use outrigger_config::listener::Handler;
use outrigger_policy::filter::{FilterConfig, HttpFilter};
use outrigger_proto::xds::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use outrigger_proto::xds::core::{GrpcService, HttpUri, http_uri::HttpUpstreamType};
use outrigger_proto::xds::ext_authz::{BufferSettings, ExtAuthz, HttpService, ext_authz::Services};
use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::type_url;
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::wait::eventually;
use prost::Message;
use tokio::net::TcpStream;

use support::{Proxy, World, cluster, endpoint, forward, manager};

/// Over HTTP, anyone may read `/public`, and alice everything.
const BY_HTTP: &str = r#"package system.authz

default allow := false

allow if input.identity == "alice"

allow if input.path == ["v1", "data", "public"]
"#;

/// Over gRPC, alice may order books.
const BY_GRPC: &str = r#"package envoy.authz

import input.attributes.request.http

default allow := {
    "allowed": false,
    "http_status": 402,
    "body": "no books for you",
    "headers": {"x-decision": "denied"},
}

allow := {
    "allowed": true,
    "headers": {"x-user": "alice", "x-seen": http.body},
    "request_headers_to_remove": ["authorization"],
    "response_headers_to_add": {"x-decision": "allowed"},
} if {
    http.method == "POST"
    http.headers.authorization == "Bearer alice"
    input.parsed_path == ["orders"]
    input.parsed_query.n == ["1"]
    input.truncated_body
}
"#;

/// A running server, which is killed when it is dropped.
struct Server(Child);

impl Server {
    /// Starts OPA with these policies, and waits until it answers over HTTP at the first address, and over gRPC at the second.
    async fn start(folder: &Path, [http, grpc]: [SocketAddr; 2]) -> Self {
        let program = std::env::var("OUTRIGGER_OPA").unwrap_or_else(|_| panic!("run tests/heavier opa"));
        let mut command = Command::new(program);
        command.args(["run", "--server", "--skip-version-check", "--log-level=error"]);
        command.args(["--authentication=token", "--authorization=basic", &format!("--addr={http}")]);
        command.arg(format!("--set=plugins.envoy_ext_authz_grpc.addr={grpc}"));
        for (file, policy) in [("http.rego", BY_HTTP), ("grpc.rego", BY_GRPC)] {
            std::fs::write(folder.join(file), policy).unwrap();
            command.arg(folder.join(file));
        }
        let server = Self(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        for address in [http, grpc] {
            eventually("a server", async || TcpStream::connect(address).await.ok()).await;
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// OPA is asked about each request, with its path below `/v1/data`.
fn by_http() -> ExtAuthz {
    let uri = HttpUri {
        uri: "http://authorizer".into(),
        timeout: Some(protobuf::Duration { seconds: 5, nanos: 0 }),
        http_upstream_type: Some(HttpUpstreamType::Cluster("authorizer".into())),
    };
    let service = HttpService { server_uri: Some(uri), path_prefix: "/v1/data".into(), ..Default::default() };
    ExtAuthz { services: Some(Services::HttpService(service)), ..Default::default() }
}

/// The service sees up to 16 bytes of the body.
fn by_grpc() -> ExtAuthz {
    let target = EnvoyGrpc { cluster_name: "authorizer".into(), ..Default::default() };
    let service = GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)),
        timeout: Some(protobuf::Duration { seconds: 5, nanos: 0 }),
        ..Default::default()
    };
    let body = BufferSettings { max_request_bytes: 16, allow_partial_message: true, ..Default::default() };
    ExtAuthz {
        services: Some(Services::GrpcService(service)),
        with_request_body: Some(body),
        ..Default::default()
    }
}

/// A proxy whose destination `app` asks the service at this address about each request.
fn proxy(app: SocketAddr, wire: &ExtAuthz, authorizer: SocketAddr, protocol: UpstreamProtocol) -> Proxy {
    let any = Any { type_url: type_url::EXT_AUTHZ.into(), value: wire.encode_to_vec() };
    let config = FilterConfig::of_listener(&any).unwrap().unwrap();
    let manager = HttpConnectionManager {
        filters: [HttpFilter { name: "ext_authz".into(), config, disabled: false }].into(),
        ..HttpConnectionManager::clone(&manager("app:80", forward("app")))
    };
    let authorizer = Cluster { protocol, ..cluster("authorizer", [endpoint(authorizer)]) };
    let world = World::new().cluster("app", &[app]).cluster_of(authorizer);
    world.proxy().destination("app:80", Handler::Http(Arc::new(manager))).start()
}

#[tokio::test]
#[ignore = "needs the program that tests/heavier opa builds"]
async fn open_policy_agent_decides_about_requests() {
    let folder = tempfile::tempdir().unwrap();
    let addresses = [free_address(), free_address()];
    let opa = Server::start(folder.path(), addresses).await;
    let app = Application::echo("app").await;
    let proxy = proxy(app.address, &by_http(), addresses[0], UpstreamProtocol::Http1);
    let mut client = Client::connect(proxy.address(0)).await;
    let alice = "Authorization: Bearer alice\r\n";
    assert_eq!(client.get("app", "/public").await.status, 200);
    for fields in ["", "Authorization: Bearer mallory\r\n"] {
        let answer = client.request("GET", "app", "/orders", fields).await;
        assert_eq!((answer.status, answer.reason()), (401, "external_authorization_denied"));
        assert!(answer.body.contains("unauthorized"), "{answer:?}");
    }
    for _ in 0..50 {
        assert_eq!(client.request("GET", "app", "/orders", alice).await.status, 200);
    }
    assert_eq!(app.requests(), 51);
    drop(opa);
    let answer = client.request("GET", "app", "/orders", alice).await;
    assert_eq!((answer.status, answer.reason()), (403, "external_authorization_failed"));
    let _opa = Server::start(folder.path(), addresses).await;
    eventually("the sidecar to ask again", async || {
        (client.request("GET", "app", "/orders", alice).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(client.request("GET", "app", "/orders", "").await.status, 401);
}

#[tokio::test]
#[ignore = "needs the program that tests/heavier opa builds"]
async fn the_plugin_for_envoy_decides_about_requests() {
    let folder = tempfile::tempdir().unwrap();
    let addresses = [free_address(), free_address()];
    let opa = Server::start(folder.path(), addresses).await;
    let app = Application::echo("app").await;
    let proxy = proxy(app.address, &by_grpc(), addresses[1], UpstreamProtocol::Http2);
    let mut client = Client::connect(proxy.address(0)).await;
    let body = r#"{"books": ["a","b"]}"#;
    let json = "Content-Type: application/json\r\nContent-Length: 20\r\n";
    let fields = &format!("Authorization: Bearer alice\r\nX-User: mallory\r\n{json}");
    for (path, fields) in [("/orders", fields), ("/orders?n=1", &json.to_owned())] {
        client.send(format!("POST {path} HTTP/1.1\r\nHost: app\r\n{fields}\r\n{body}")).await;
        let denied = client.response().await;
        assert_eq!((denied.status, denied.reason()), (402, "external_authorization_denied"));
        assert_eq!((denied.body.as_str(), denied.field("x-decision")), ("no books for you", Some("denied")));
    }
    assert_eq!(app.requests(), 0);
    for _ in 0..50 {
        client.send(format!("POST /orders?n=1 HTTP/1.1\r\nHost: app\r\n{fields}\r\n{body}")).await;
        let allowed = client.response().await;
        let seen = allowed.body.to_ascii_lowercase();
        assert_eq!((allowed.status, allowed.field("x-decision")), (200, Some("allowed")));
        assert!(seen.ends_with(&format!("\r\n\r\n{body}")), "{seen}");
        // OPA sees as much of the body as the filter permits.
        assert!(seen.contains("\r\nx-seen: {\"books\": [\"a\",\"\r\n"), "{seen}");
        assert!(seen.contains("\r\nx-user: alice\r\n") && !seen.contains("mallory"), "{seen}");
        assert!(!seen.contains("authorization:"), "{seen}");
    }
    drop(opa);
    let answer = client.get("app", "/orders").await;
    assert_eq!((answer.status, answer.reason()), (403, "external_authorization_failed"));
}
