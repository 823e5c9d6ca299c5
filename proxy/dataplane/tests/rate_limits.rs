//! Rate limits: what clients see, that a local limit counts for all workers together, and a service that counts.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outrigger_config::cluster::{Cluster, UpstreamProtocol};
use outrigger_config::http_manager::HttpConnectionManager;
use outrigger_config::listener::Handler;
use outrigger_core::reason::Reason;
use outrigger_policy::filter::{FilterConfig, HttpFilter};
use outrigger_proto::xds::core::{self, grpc_service};
use outrigger_proto::xds::local_ratelimit::LocalRateLimit;
use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::ratelimit::RateLimit;
use outrigger_proto::xds::ratelimit_config::RateLimitServiceConfig;
use outrigger_proto::xds::ratelimit_service::{
    RateLimitRequest, RateLimitResponse, rate_limit_response::Code,
};
use outrigger_proto::xds::route::rate_limit::{self, action, action::ActionSpecifier};
use outrigger_proto::xds::{route, type_url, types};
use outrigger_test_support::application::{Application, closed_port};
use outrigger_test_support::client::Client;
use outrigger_test_support::grpc;
use outrigger_test_support::http1::ok;
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::Instant;

use support::{World, cluster, endpoint, forward, manager};

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
    filter_of(type_url::LOCAL_RATE_LIMIT, wire)
}

fn filter_of(type_url: &str, wire: &impl Message) -> HttpFilter {
    let any = Any { type_url: type_url.into(), value: wire.encode_to_vec() };
    let config = FilterConfig::of_listener(&any).unwrap().unwrap();
    HttpFilter { name: "limit".into(), config, disabled: false }
}

/// A limit that the service in the cluster `limits` counts, by the field `x-tenant`.
fn global() -> RateLimit {
    let target = grpc_service::EnvoyGrpc { cluster_name: "limits".into(), ..Default::default() };
    let service = core::GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(target)),
        ..Default::default()
    };
    let tenant = ActionSpecifier::RequestHeaders(action::RequestHeaders {
        header_name: "x-tenant".into(),
        descriptor_key: "tenant".into(),
        skip_if_absent: false,
    });
    let actions = vec![rate_limit::Action { action_specifier: Some(tenant) }];
    RateLimit {
        domain: "shop".into(),
        timeout: Some(protobuf::Duration { seconds: 5, nanos: 0 }),
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(service),
            ..Default::default()
        }),
        rate_limits: vec![route::RateLimit { actions, ..Default::default() }],
        ..Default::default()
    }
}

/// As [`world`], with the service of global limits at `limits`.
fn world_with(app: SocketAddr, limits: SocketAddr, wire: &RateLimit) -> World {
    let limits = Cluster { protocol: UpstreamProtocol::Http2, ..cluster("limits", [endpoint(limits)]) };
    world(app, &filter_of(type_url::RATE_LIMIT, wire)).cluster_of(limits)
}

fn world(app: SocketAddr, filter: &HttpFilter) -> World {
    let manager = HttpConnectionManager {
        filters: [filter.clone()].into(),
        ..HttpConnectionManager::clone(&manager("app:80", forward("app")))
    };
    World::new().cluster("app", &[app]).proxy().destination("app:80", Handler::Http(Arc::new(manager)))
}

#[tokio::test]
async fn a_request_beyond_the_limit_reaches_no_application() {
    let app = Application::http(|_| ok("app")).await;
    let mut proxy = world(app.address, &filter(&limit(1, 2))).start();
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
    /// What is not taken for up to a second, on a busy machine, is taken later.
    const AT_ONCE: f64 = 200.0;
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

#[tokio::test]
async fn a_service_limits_the_requests_of_all_proxies() {
    let app = Application::http(|_| ok("app")).await;
    let counted = AtomicU64::new(0);
    let limits = grpc::unary(
        "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
        move |request: RateLimitRequest| {
            let [descriptor] = &request.descriptors[..] else { panic!("{request:?}") };
            assert_eq!((request.domain.as_str(), descriptor.entries[0].value.as_str()), ("shop", "a"));
            let over = counted.fetch_add(1, Ordering::Relaxed) >= 3;
            let code = if over { Code::OverLimit } else { Code::Ok };
            RateLimitResponse { overall_code: code.into(), ..Default::default() }
        },
    );
    let limits = limits.await;
    let proxies = [(); 2].map(|()| world_with(app.address, limits.address, &global()).start());
    for (proxy, statuses) in proxies.iter().zip([[200, 200], [200, 429]]) {
        let mut client = Client::connect(proxy.address(0)).await;
        for status in statuses {
            assert_eq!(client.request("GET", "app", "/", "X-Tenant: a\r\n").await.status, status);
        }
        assert_eq!(client.get("app", "/").await.status, 200, "a request without a descriptor has no limit");
    }
    assert_eq!((app.requests(), limits.requests()), (5, 4));
}

#[tokio::test]
async fn without_the_service_there_is_no_limit_unless_there_must_be_one() {
    let (app, limits) = (Application::http(|_| ok("app")).await, closed_port().await);
    for (failure_mode_deny, status, open) in [(false, 200, 1), (true, 500, 0)] {
        let wire = RateLimit { failure_mode_deny, ..global() };
        let mut proxy = world_with(app.address, limits, &wire).start();
        let mut client = Client::connect(proxy.address(0)).await;
        assert_eq!(client.request("GET", "app", "/", "X-Tenant: a\r\n").await.status, status);
        let reason = failure_mode_deny.then_some(Reason::RateLimitServiceFailed);
        assert_eq!(proxy.record().await.reason, reason);
        assert_eq!(proxy.totals().process.filters_failed_open, open);
    }
}
