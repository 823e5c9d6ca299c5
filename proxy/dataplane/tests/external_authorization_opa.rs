//! External authorization by servers that we did not write: over HTTP by Open Policy Agent, whose `system.authz` policy allows or denies the
//! request that it is asked about, and over gRPC by Istio's example of an authorization service, which uses Envoy's Go messages.
//!
//! `tests/heavier opa` runs them, since they need the programs.

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

/// Everybody may read `/public`, and alice everything.
const POLICY: &str = r#"package system.authz

default allow := false

allow if input.identity == "alice"

allow if input.path == ["v1", "data", "public"]
"#;

/// A running server, which is killed when it is dropped.
struct Server(Child);

impl Server {
    /// Starts the program that an environment variable names, and waits until it listens.
    async fn start(program: &str, flags: &[String], address: SocketAddr) -> Self {
        let program = std::env::var(program).unwrap_or_else(|_| panic!("run tests/heavier opa"));
        let server = Command::new(program).args(flags).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = Self(server.unwrap());
        eventually("a server", async || TcpStream::connect(address).await.ok()).await;
        server
    }

    async fn opa(address: SocketAddr, policy: &Path) -> Self {
        let flags =
            ["run", "--server", "--skip-version-check", "--authentication=token", "--authorization=basic"];
        let mut flags: Vec<_> = flags.map(str::to_owned).into();
        flags.extend([
            format!("--addr={address}"),
            "--log-level=error".to_owned(),
            policy.display().to_string(),
        ]);
        Self::start("OUTRIGGER_OPA", &flags, address).await
    }

    async fn istio(address: SocketAddr) -> Self {
        let [http, grpc] = [free_address().port(), address.port()].map(|port| port.to_string());
        Self::start("OUTRIGGER_AUTHORIZER", &["-http".into(), http, "-grpc".into(), grpc], address).await
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
    let policy = folder.path().join("policy.rego");
    std::fs::write(&policy, POLICY).unwrap();
    let address = free_address();
    let opa = Server::opa(address, &policy).await;
    let app = Application::echo("app").await;
    let proxy = proxy(app.address, &by_http(), address, UpstreamProtocol::Http1);
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
    let _opa = Server::opa(address, &policy).await;
    eventually("the sidecar to ask again", async || {
        (client.request("GET", "app", "/orders", alice).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(client.request("GET", "app", "/orders", "").await.status, 401);
}

#[tokio::test]
#[ignore = "needs the program that tests/heavier opa builds"]
async fn a_service_with_envoys_messages_in_go_decides_about_requests() {
    let address = free_address();
    let server = Server::istio(address).await;
    let app = Application::echo("app").await;
    let proxy = proxy(app.address, &by_grpc(), address, UpstreamProtocol::Http2);
    let mut client = Client::connect(proxy.address(0)).await;
    let denied = client.request("GET", "app", "/orders?n=1", "X-Ext-Authz: deny\r\n").await;
    assert_eq!((denied.status, denied.reason()), (403, "external_authorization_denied"));
    assert!(denied.body.starts_with("denied by ext_authz"), "{denied:?}");
    assert_eq!(denied.field("x-ext-authz-check-result"), Some("denied"));
    assert_eq!(app.requests(), 0);
    for _ in 0..50 {
        let fields =
            "X-Ext-Authz: allow\r\nX-Ext-Authz-Additional-Header-Override: client\r\nContent-Length: 20\r\n";
        client.send(format!("POST /orders HTTP/1.1\r\nHost: app\r\n{fields}\r\none book, two books!")).await;
        let allowed = client.response().await;
        let seen = allowed.body.to_ascii_lowercase();
        assert_eq!(allowed.status, 200);
        assert!(seen.ends_with("\r\n\r\none book, two books!"), "{seen}");
        // The service passes everything that it was sent on to the application.
        assert!(seen.contains("\"one book, two bo\""), "{seen}");
        assert!(seen.contains("override: grpc-additional-header-override-value\r\n"), "{seen}");
        assert!(!seen.contains("override: client\r\n"), "{seen}");
    }
    drop(server);
    let answer = client.request("GET", "app", "/orders", "X-Ext-Authz: allow\r\n").await;
    assert_eq!((answer.status, answer.reason()), (403, "external_authorization_failed"));
}
