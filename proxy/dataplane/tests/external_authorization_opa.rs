//! External authorization by a server that we did not write: Open Policy Agent, whose `system.authz` policy allows or denies the request that
//! it is asked about.
//!
//! `tests/heavier opa` runs it, since it needs the program.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use outrigger_config::http_manager::HttpConnectionManager;
use outrigger_config::listener::Handler;
use outrigger_policy::filter::{FilterConfig, HttpFilter};
use outrigger_proto::xds::core::{HttpUri, http_uri::HttpUpstreamType};
use outrigger_proto::xds::ext_authz::{ExtAuthz, HttpService, ext_authz::Services};
use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::type_url;
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::wait::eventually;
use prost::Message;
use tokio::net::TcpStream;

use support::{Proxy, World, forward, manager};

/// Everybody may read `/public`, and alice everything.
const POLICY: &str = r#"package system.authz

default allow := false

allow if input.identity == "alice"

allow if input.path == ["v1", "data", "public"]
"#;

/// A running server, which is killed when it is dropped.
struct Opa(Child);

impl Opa {
    async fn start(address: SocketAddr, policy: &Path) -> Self {
        let program = std::env::var("OUTRIGGER_OPA").unwrap_or_else(|_| panic!("run tests/heavier opa"));
        let address_flag = format!("--addr={address}");
        let flags =
            ["run", "--server", "--skip-version-check", "--authentication=token", "--authorization=basic"];
        let mut command = Command::new(program);
        command.args(flags).arg(address_flag).arg("--log-level=error").arg(policy).stdin(Stdio::null());
        let server = Self(command.spawn().unwrap());
        eventually("OPA", async || TcpStream::connect(address).await.ok()).await;
        server
    }
}

impl Drop for Opa {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A proxy whose destination `app` asks OPA about each request, with its path below `/v1/data`.
fn proxy(app: SocketAddr, opa: SocketAddr) -> Proxy {
    let uri = HttpUri {
        uri: "http://opa".into(),
        timeout: Some(protobuf::Duration { seconds: 5, nanos: 0 }),
        http_upstream_type: Some(HttpUpstreamType::Cluster("opa".into())),
    };
    let service = HttpService { server_uri: Some(uri), path_prefix: "/v1/data".into(), ..Default::default() };
    let wire = ExtAuthz { services: Some(Services::HttpService(service)), ..Default::default() };
    let any = Any { type_url: type_url::EXT_AUTHZ.into(), value: wire.encode_to_vec() };
    let config = FilterConfig::of_listener(&any).unwrap().unwrap();
    let manager = HttpConnectionManager {
        filters: [HttpFilter { name: "ext_authz".into(), config, disabled: false }].into(),
        ..HttpConnectionManager::clone(&manager("app:80", forward("app")))
    };
    let world = World::new().cluster("app", &[app]).cluster("opa", &[opa]);
    world.proxy().destination("app:80", Handler::Http(Arc::new(manager))).start()
}

#[tokio::test]
#[ignore = "needs the program that tests/heavier opa builds"]
async fn open_policy_agent_decides_about_requests() {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.rego");
    std::fs::write(&policy, POLICY).unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let opa = Opa::start(address, &policy).await;
    let app = Application::echo("app").await;
    let proxy = proxy(app.address, address);
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
    let _opa = Opa::start(address, &policy).await;
    eventually("the sidecar to ask again", async || {
        (client.request("GET", "app", "/orders", alice).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(client.request("GET", "app", "/orders", "").await.status, 401);
}
