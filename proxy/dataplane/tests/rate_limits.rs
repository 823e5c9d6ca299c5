//! Local rate limits: what clients see, and that a limit counts for all workers together.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outrigger_config::http_manager::HttpConnectionManager;
use outrigger_config::listener::Handler;
use outrigger_core::reason::Reason;
use outrigger_policy::filter::{FilterConfig, HttpFilter};
use outrigger_proto::xds::local_ratelimit::LocalRateLimit;
use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::{core, type_url, types};
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::Instant;

use support::{World, forward, manager};

/// A limit of `per_second` requests, and `at_once` of them at a time.
fn limit(per_second: u32, at_once: u32) -> LocalRateLimit {
    let all = core::RuntimeFractionalPercent {
        default_value: Some(types::FractionalPercent { numerator: 100, denominator: 0 }),
        ..Default::default()
    };
    let bucket = types::TokenBucket {
        max_tokens: at_once,
        tokens_per_fill: Some(protobuf::UInt32Value { value: per_second }),
        fill_interval: Some(protobuf::Duration { seconds: 1, nanos: 0 }),
    };
    LocalRateLimit {
        stat_prefix: "limit".into(),
        token_bucket: Some(bucket),
        filter_enabled: Some(all.clone()),
        filter_enforced: Some(all),
        enable_retry_after_header: true,
        rate_limited_as_resource_exhausted: true,
        ..Default::default()
    }
}

fn filter(wire: &LocalRateLimit) -> HttpFilter {
    let any = Any { type_url: type_url::LOCAL_RATE_LIMIT.into(), value: wire.encode_to_vec() };
    let config = FilterConfig::of_listener(&any).unwrap().unwrap();
    HttpFilter { name: "limit".into(), config, disabled: false }
}

fn world(app: SocketAddr, filter: &HttpFilter) -> World {
    let manager = HttpConnectionManager {
        filters: [filter.clone()].into(),
        ..HttpConnectionManager::clone(&manager("app:80", forward("app")))
    };
    World::new()
        .unlogged()
        .cluster("app", &[app])
        .proxy()
        .destination("app:80", Handler::Http(Arc::new(manager)))
}

#[tokio::test]
async fn a_request_beyond_the_limit_reaches_no_application() {
    let app = Application::http(|_| ok("app")).await;
    let mut proxy = World { logged: true, ..world(app.address, &filter(&limit(1, 2))) }.start();
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..2 {
        assert_eq!(client.get("app", "/").await.status, 200);
        assert_eq!(proxy.record().await.reason, None);
    }
    let answer = client.get("app", "/").await;
    assert_eq!(
        (answer.status, answer.reason(), answer.field("retry-after")),
        (429, "rate_limited", Some("1"))
    );
    assert_eq!(proxy.record().await.reason, Some(Reason::RateLimited));
    let answer = client.request("GET", "app", "/", "Content-Type: application/grpc\r\n").await;
    assert!(answer.status == 200 && answer.head.contains("grpc-status: 8\r\n"), "{answer:?}");
    assert_eq!(app.requests(), 2);
}

#[tokio::test]
async fn a_limit_holds_within_5_percent_over_several_workers() {
    const PER_SECOND: f64 = 200.0;
    const AT_ONCE: f64 = 20.0;
    let app = Application::http(|_| ok("app")).await;
    let filter = filter(&limit(PER_SECOND as u32, AT_ONCE as u32));
    let first = world(app.address, &filter).start();
    let others = [(); 2].map(|()| world(app.address, &filter).start_beside(&first));
    let (admitted, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for proxy in std::iter::once(&first).chain(&others) {
        for _ in 0..4 {
            let (address, admitted, refused) =
                (proxy.address(0), Arc::clone(&admitted), Arc::clone(&refused));
            clients.spawn(async move {
                let mut client = Client::connect(address).await;
                while began.elapsed() < Duration::from_secs(2) {
                    let count = if client.get("app", "/").await.status == 200 { &admitted } else { &refused };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    clients.join_all().await;
    let allowed = AT_ONCE + PER_SECOND * began.elapsed().as_secs_f64();
    let (admitted, refused) = (admitted.load(Ordering::Relaxed) as f64, refused.load(Ordering::Relaxed));
    assert!(
        refused > 0 && (0.95..=1.05).contains(&(admitted / allowed)),
        "{admitted} of {allowed}, {refused} refused"
    );
}
