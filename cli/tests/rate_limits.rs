//! `outrigger rate-limit` as a process: what it answers, what it refuses at the start, and its end; and beside it a mesh whose sidecars
//! ask it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests

#[path = "support/rate_limit.rs"]
mod rate_limit;
mod support;

use std::process::{Command, Output};

use outrigger_proto::xds::ratelimit_service::rate_limit_response::Code;
use outrigger_test_support::wait::eventually;
use rate_limit::{Limited, Service, ask};
use rustix::process::{Pid, Signal, kill_process};

const SHOP: &str = "domain: shop
descriptors:
- key: caller
  rate_limit: { unit: day, requests_per_unit: 2 }
";

#[tokio::test]
async fn the_clients_of_one_process_share_its_counters() {
    let mut service = Service::start(SHOP, &[], &[]);
    let (mut one, mut other) = (service.client().await, service.client().await);
    let mut codes = Vec::new();
    for (client, caller) in [(1, "a"), (2, "a"), (1, "a"), (2, "b")] {
        let client = if client == 1 { &mut one } else { &mut other };
        codes.push(ask(client, caller).await.unwrap().overall_code);
    }
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::OverLimit, Code::Ok].map(i32::from));
    assert_eq!(service.metric("outrigger_rate_limit_answers_total{code=\"over_limit\"}").await, 1);
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

#[test]
fn an_address_of_a_store_that_is_not_understood_ends_it_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("limits.yaml");
    std::fs::write(&file, SHOP).unwrap();
    let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["rate-limit", "--listen", "127.0.0.1:0", "--redis", "redis://:secret@127.0.0.1:6379/first"])
        .arg(&file)
        .output()
        .unwrap();
    let error = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(error.contains("--redis") && error.contains("database") && !error.contains("secret"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_limits_what_two_sidecars_admit_together() {
    let mut service = Service::start(&SHOP.replace('2', "4"), &[], &[]);
    let mesh = Limited::start(&[service.address]);
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
