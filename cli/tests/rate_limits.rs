//! `outrigger rate-limit` as a process: what it answers, what it refuses at the start, and its end; and beside it a mesh whose sidecars
//! ask it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

mod support;

use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use outrigger::ports;
use outrigger_proto::xds::common_ratelimit::RateLimitDescriptor;
use outrigger_proto::xds::common_ratelimit::rate_limit_descriptor::Entry;
use outrigger_proto::xds::ratelimit_service::rate_limit_response::Code;
use outrigger_proto::xds::ratelimit_service::rate_limit_service_client::RateLimitServiceClient;
use outrigger_proto::xds::ratelimit_service::{RateLimitRequest, RateLimitResponse};
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::Response;
use outrigger_test_support::wait::eventually;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::Channel;

const SHOP: &str = "domain: shop
descriptors:
- key: caller
  rate_limit: { unit: day, requests_per_unit: 2 }
";

/// A running service, which is killed when it is dropped.
struct Service {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Service {
    fn start(limits: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("limits.yaml");
        std::fs::write(&file, limits).unwrap();
        let [address] = ports::free().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_outrigger"))
            .args(["--exit-with-parent", "rate-limit", "--listen", &address.to_string()])
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, address, _directory: directory }
    }

    async fn client(&self) -> RateLimitServiceClient<Channel> {
        let to = format!("http://{}", self.address);
        eventually("a service that listens", async || RateLimitServiceClient::connect(to.clone()).await.ok())
            .await
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn ask(client: &mut RateLimitServiceClient<Channel>, caller: &str) -> RateLimitResponse {
    let entries = vec![Entry { key: "caller".into(), value: caller.into() }];
    let descriptors = vec![RateLimitDescriptor { entries, ..Default::default() }];
    let request = RateLimitRequest { domain: "shop".into(), descriptors, hits_addend: 0 };
    client.should_rate_limit(request).await.unwrap().into_inner()
}

/// Two instances of `cart`, whose sidecars ask the service about each request, and a sidecar of `web`.
struct Limited {
    _processes: support::Mesh,
    outbound: SocketAddr,
    carts: [SocketAddr; 2],
}

impl Limited {
    fn start(limits: SocketAddr) -> Self {
        let [listen, admin, app, web, outbound] = ports::free().unwrap();
        let [one, two, in_one, in_two, out_one, out_two] = ports::free().unwrap();
        let mut processes = support::Mesh::start(&[], listen, admin, &configuration(limits));
        processes.outrigger("app", &[], &["sample", "catalog", "--listen", &app.to_string()]);
        for (account, admin, inbound, outbound) in
            [("cart", one, in_one, out_one), ("cart-2", two, in_two, out_two)]
        {
            let (service, outbound) = (format!("cart={app},listen={inbound}"), outbound.to_string());
            processes.sidecar(&[], account, admin, &["--service", &service, "--outbound", &outbound]);
        }
        processes.sidecar(&[], "web", web, &["--outbound", &outbound.to_string()]);
        Self { _processes: processes, outbound, carts: [one, two] }
    }

    async fn get(&self) -> Response {
        Client::connect(self.outbound).await.get("cart", "/items").await
    }

    /// How many requests were admitted because the service did not answer.
    async fn failed_open(&self) -> f64 {
        let mut sum = 0.0;
        for cart in self.carts {
            let page = Client::connect(cart).await.get("localhost", "/metrics").await;
            let lines =
                page.body.lines().filter(|line| line.starts_with("outrigger_filters_failed_open_total"));
            sum += lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
        }
        sum
    }
}

fn configuration(limits: SocketAddr) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: cart, annotations: {{outrigger.dev/service-accounts: 'cart,cart-2'}}}}
spec: {{ports: [{{port: 80, appProtocol: http}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: rate-limit}}
spec: {{ports: [{{name: grpc, port: 8081, appProtocol: kubernetes.io/h2c}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: rate-limit, labels: {{kubernetes.io/service-name: rate-limit}}}}
addressType: IPv4
ports: [{{name: grpc, port: {}, protocol: TCP}}]
endpoints: [{{addresses: [\"{}\"]}}]
---
apiVersion: outrigger.dev/v1alpha1
kind: RateLimitPolicy
metadata: {{name: cart}}
spec:
  targetRefs: [{{group: '', kind: Service, name: cart}}]
  global:
    service: {{name: rate-limit, port: 8081}}
    domain: shop
    timeout: 5s
    descriptors: [{{by: [{{caller: {{}}}}]}}]
",
        limits.port(),
        limits.ip()
    )
}

#[tokio::test]
async fn the_clients_of_one_process_share_its_counters() {
    let mut service = Service::start(SHOP);
    let (mut one, mut other) = (service.client().await, service.client().await);
    let mut codes = Vec::new();
    for (client, caller) in [(1, "a"), (2, "a"), (1, "a"), (2, "b")] {
        let client = if client == 1 { &mut one } else { &mut other };
        codes.push(ask(client, caller).await.overall_code);
    }
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::OverLimit, Code::Ok].map(i32::from));
    // Connections that are open do not delay the end.
    kill_process(Pid::from_child(&service.child), Signal::TERM).unwrap();
    let ended = eventually("the end", async || service.child.try_wait().unwrap()).await;
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_file_that_cannot_be_used_ends_it_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("limits.yaml");
    std::fs::write(&file, SHOP.replace("day", "fortnight")).unwrap();
    let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["rate-limit", "--listen", "127.0.0.1:0"])
        .arg(&file)
        .output()
        .unwrap();
    let error = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(error.contains("limits.yaml") && error.contains("fortnight"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_limits_what_two_sidecars_admit_together() {
    let mut service = Service::start(&SHOP.replace('2', "4"));
    let mesh = Limited::start(service.address);
    let mut statuses = Vec::new();
    eventually("an instance of cart", async || (mesh.get().await.status == 200).then_some(())).await;
    for _ in 0..3 {
        statuses.push(mesh.get().await.status);
    }
    let refused = mesh.get().await;
    assert_eq!((statuses, refused.status, refused.reason()), (vec![200; 3], 429, "rate_limited"));
    assert_eq!(refused.field("x-ratelimit-limit"), Some("4, 4;w=86400"));
    let seconds: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&seconds), "{seconds}");
    assert_eq!(mesh.failed_open().await, 0.0);
    // Without the service, requests are admitted and counted.
    service.child.kill().unwrap();
    service.child.wait().unwrap();
    assert_eq!(mesh.get().await.status, 200);
    assert_eq!(mesh.failed_open().await, 1.0);
}
