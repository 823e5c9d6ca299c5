//! `outrigger rate-limit` as a process: what it answers, what it refuses at the start, and its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use outrigger::ports;
use outrigger_proto::xds::common_ratelimit::RateLimitDescriptor;
use outrigger_proto::xds::common_ratelimit::rate_limit_descriptor::Entry;
use outrigger_proto::xds::ratelimit_service::rate_limit_response::Code;
use outrigger_proto::xds::ratelimit_service::rate_limit_service_client::RateLimitServiceClient;
use outrigger_proto::xds::ratelimit_service::{RateLimitRequest, RateLimitResponse};
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
