//! The HTTP filters of a listener: their order, their configuration by route, and their part in every response.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::http_manager::HttpConnectionManager;
use outrigger_config::http_manager::RouteSource;
use outrigger_config::listener::Handler;
use outrigger_config::route::{Route, RouteTable};
use outrigger_config::route::{RouteAction, RouteMatcher};
use outrigger_core::reason::Reason;
use outrigger_policy::filter::overrides::FilterOverrides;
use outrigger_policy::filter::{FilterConfig, HttpFilter};
use outrigger_policy::timeout::Timeouts;
use outrigger_policy::weighted_cluster::WeightedClusters;
use outrigger_proto::xds::common_fault::fault_delay::FaultDelaySecifier;
use outrigger_proto::xds::common_fault::fault_rate_limit::{FixedLimit, LimitType};
use outrigger_proto::xds::common_fault::{FaultDelay, FaultRateLimit};
use outrigger_proto::xds::fault::{FaultAbort, HttpFault, fault_abort::ErrorType};
use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::{cors, matcher, rbac, rbac_filter, route, type_url, types};
use outrigger_test_support::application::{Application, closed_port};
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use prost::Message;
use tokio::time::Instant;

use support::{Proxy, World, forward, forward_to, manager, to};

const ORIGIN: &str = "Origin: https://shop.example\r\n";

fn packed(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.into(), value: message.encode_to_vec() }
}

fn aborts(status: u32) -> Any {
    let abort = FaultAbort {
        percentage: Some(types::FractionalPercent { numerator: 100, denominator: 0 }),
        error_type: Some(ErrorType::HttpStatus(status)),
        ..Default::default()
    };
    packed(type_url::HTTP_FAULT, &HttpFault { abort: Some(abort), ..Default::default() })
}

fn delays(time: Duration) -> Any {
    packed(type_url::HTTP_FAULT, &HttpFault { delay: Some(delay(time)), ..Default::default() })
}

fn delay(time: Duration) -> FaultDelay {
    let time = protobuf::Duration { seconds: time.as_secs() as i64, nanos: time.subsec_nanos() as i32 };
    FaultDelay {
        percentage: Some(types::FractionalPercent { numerator: 100, denominator: 0 }),
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(time)),
    }
}

fn shop_may_call() -> Any {
    let exact = matcher::string_matcher::MatchPattern::Exact("https://shop.example".into());
    let policy = cors::CorsPolicy {
        allow_origin_string_match: vec![matcher::StringMatcher {
            match_pattern: Some(exact),
            ignore_case: false,
        }],
        ..Default::default()
    };
    packed(type_url::CORS_POLICY, &policy)
}

fn filter(name: &str, any: &Any) -> HttpFilter {
    let config = FilterConfig::of_listener(any).unwrap().unwrap();
    HttpFilter { name: name.into(), config, disabled: false }
}

fn cors_filter() -> HttpFilter {
    filter("cors", &Any { type_url: type_url::CORS.into(), value: Vec::new() })
}

fn overrides(of: &[(&str, Any)]) -> FilterOverrides {
    let wire = of.iter().map(|(name, any)| ((*name).to_owned(), any.clone())).collect();
    FilterOverrides::decode(wire, &FilterOverrides::default()).unwrap()
}

/// A proxy with the destination `app`, which has these filters, and one route.
fn proxy(world: World, filters: Vec<HttpFilter>, of_route: FilterOverrides, action: RouteAction) -> Proxy {
    let route = Route {
        name: "route".into(),
        template: None,
        matcher: RouteMatcher::any(),
        action,
        request_headers: Default::default(),
        response_headers: Default::default(),
        filters: of_route,
    };
    let table = RouteTable::for_any_host("app:80".into(), vec![Arc::new(route)]);
    let manager = HttpConnectionManager {
        routes: RouteSource::Inline(Arc::new(table)),
        filters: filters.into(),
        ..HttpConnectionManager::clone(&manager("app:80", forward("app")))
    };
    world.proxy().destination("app:80", Handler::Http(Arc::new(manager))).start()
}

#[tokio::test]
async fn an_aborted_request_reaches_no_application() {
    let app = Application::http(|_| ok("app")).await;
    let world = World::new().cluster("app", &[app.address]);
    let filters = vec![filter("fault", &aborts(418))];
    let mut proxy = proxy(world, filters, FilterOverrides::default(), forward("app"));
    let mut client = Client::connect(proxy.address(0)).await;
    let answer = client.get("app", "/").await;
    assert_eq!((answer.status, answer.reason()), (418, "fault_injected"));
    assert_eq!(proxy.record().await.reason, Some(Reason::FaultInjected));
    let answer = client.request("GET", "app", "/", "Content-Type: application/grpc\r\n").await;
    assert!(answer.status == 200 && answer.head.contains("grpc-status: 2\r\n"), "{answer:?}");
    assert_eq!(app.requests(), 0);
}

/// Allows requests with `x-tenant: shop`.
fn only_the_shop() -> Any {
    use route::header_matcher::HeaderMatchSpecifier::StringMatch;
    let exact = matcher::string_matcher::MatchPattern::Exact("shop".into());
    let exact = matcher::StringMatcher { match_pattern: Some(exact), ignore_case: false };
    let tenant = route::HeaderMatcher {
        name: "x-tenant".into(),
        header_match_specifier: Some(StringMatch(exact)),
        ..Default::default()
    };
    let policy = rbac::Policy {
        permissions: vec![rbac::Permission { rule: Some(rbac::permission::Rule::Header(tenant)) }],
        principals: vec![rbac::Principal { identifier: Some(rbac::principal::Identifier::Any(true)) }],
        ..Default::default()
    };
    let rules = rbac::Rbac { policies: [("shop".to_owned(), policy)].into(), ..Default::default() };
    packed(type_url::RBAC, &rbac_filter::Rbac { rules: Some(rules), ..Default::default() })
}

#[tokio::test]
async fn a_request_that_is_not_allowed_reaches_no_application() {
    let app = Application::http(|_| ok("app")).await;
    let open = packed(type_url::RBAC_PER_ROUTE, &rbac_filter::RbacPerRoute::default());
    for (of_route, status) in [(overrides(&[]), 403), (overrides(&[("rbac", open)]), 200)] {
        let world = World::new().cluster("app", &[app.address]);
        let filters = vec![filter("rbac", &only_the_shop())];
        let proxy = proxy(world, filters, of_route, forward("app"));
        let mut client = Client::connect(proxy.address(0)).await;
        assert_eq!(client.request("GET", "app", "/", "X-Tenant: shop\r\n").await.status, 200);
        let before = app.requests();
        let answer = client.request("GET", "app", "/", "X-Tenant: other\r\n").await;
        assert_eq!(answer.status, status);
        assert_eq!(app.requests() > before, status == 200);
        if status == 403 {
            assert_eq!(answer.reason(), "access_denied");
            let answer = client.request("GET", "app", "/", "Content-Type: application/grpc\r\n").await;
            assert!(answer.head.contains("grpc-status: 7\r\n"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_delayed_request_is_forwarded_after_its_delay() {
    let app = Application::http(|_| ok("app")).await;
    let world = World::new().cluster("app", &[app.address]);
    let (delay, began) = (Duration::from_millis(60), Instant::now());
    let filters = vec![filter("fault", &delays(delay))];
    let proxy = proxy(world, filters, FilterOverrides::default(), forward("app"));
    let answer = Client::connect(proxy.address(0)).await.post("app", "/", "milk").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "app"));
    assert!(began.elapsed() >= delay);
}

#[tokio::test]
async fn a_delay_ends_at_the_deadline_of_its_request() {
    let app = Application::http(|_| ok("app")).await;
    let world = World::new().cluster("app", &[app.address]);
    let mut action = to("app");
    action.timeouts = Timeouts::DEFAULT;
    action.timeouts.request = Some(Duration::from_millis(50));
    let filters = vec![filter("fault", &delays(Duration::from_secs(3600)))];
    let proxy = proxy(world, filters, FilterOverrides::default(), RouteAction::Forward(Box::new(action)));
    let answer = Client::connect(proxy.address(0)).await.get("app", "/").await;
    assert_eq!((answer.status, answer.reason()), (504, "upstream_request_timeout"));
    assert_eq!(app.requests(), 0);
}

#[tokio::test]
async fn no_more_requests_have_faults_than_may_be_at_a_time() {
    let app = Application::http(|_| ok("app")).await;
    let world = World::new().cluster("app", &[app.address]);
    let hour = Duration::from_secs(3600);
    let fault = HttpFault {
        delay: Some(delay(hour)),
        max_active_faults: Some(protobuf::UInt32Value { value: 1 }),
        ..Default::default()
    };
    let filters = vec![filter("fault", &packed(type_url::HTTP_FAULT, &fault))];
    let proxy = proxy(world, filters, FilterOverrides::default(), forward("app"));
    for _ in 0..2 {
        let mut delayed = Client::connect(proxy.address(0)).await;
        let get = tokio::time::timeout(Duration::from_millis(300), delayed.get("app", "/"));
        assert!(get.await.is_err(), "it is delayed");
        assert_eq!(Client::connect(proxy.address(0)).await.get("app", "/").await.status, 200);
        // A client that leaves ends its fault.
        drop(delayed);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn the_body_of_a_response_passes_at_the_rate_of_its_fault() {
    let body = "0123456789abcdef".repeat(512);
    let response = ok(&body);
    let app = Application::http(move |_| response.clone()).await;
    let world = World::new().cluster("app", &[app.address]);
    let limit = FaultRateLimit {
        percentage: Some(types::FractionalPercent { numerator: 100, denominator: 0 }),
        limit_type: Some(LimitType::FixedLimit(FixedLimit { limit_kbps: 32 })),
    };
    let fault = HttpFault { response_rate_limit: Some(limit), ..Default::default() };
    let filters = vec![filter("fault", &packed(type_url::HTTP_FAULT, &fault))];
    let proxy = proxy(world, filters, FilterOverrides::default(), forward("app"));
    let began = Instant::now();
    let answer = Client::connect(proxy.address(0)).await.get("app", "/").await;
    assert_eq!((answer.status, answer.field("content-length")), (200, Some("8192")));
    assert!(answer.body == body);
    // A quarter of a second, less what may pass at once.
    assert!(began.elapsed() >= Duration::from_millis(130), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_route_disables_enables_and_replaces_filters() {
    let app = Application::http(|_| ok("app")).await;
    let disabled = route::FilterConfig { disabled: true, ..Default::default() };
    let disabled = packed(type_url::FILTER_CONFIG, &disabled);
    let enabled = packed(type_url::FILTER_CONFIG, &route::FilterConfig::default());
    for (off, of_route, status) in [
        (false, overrides(&[]), 418),
        (false, overrides(&[("fault", disabled)]), 200),
        (false, overrides(&[("fault", aborts(429))]), 429),
        (false, overrides(&[("other", aborts(429))]), 418),
        (true, overrides(&[]), 200),
        (true, overrides(&[("fault", enabled)]), 418),
    ] {
        let world = World::new().cluster("app", &[app.address]);
        let filters = vec![HttpFilter { disabled: off, ..filter("fault", &aborts(418)) }];
        let proxy = proxy(world, filters, of_route, forward("app"));
        let answer = Client::connect(proxy.address(0)).await.get("app", "/").await;
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn a_weighted_cluster_has_its_own_configuration() {
    let app = Application::http(|_| ok("app")).await;
    let share = route::weighted_cluster::ClusterWeight {
        name: "app".into(),
        typed_per_filter_config: [("fault".to_owned(), aborts(429))].into(),
        ..Default::default()
    };
    let of_route = overrides(&[("fault", aborts(418)), ("cors", shop_may_call())]);
    let wire = route::WeightedCluster { clusters: vec![share], ..Default::default() };
    let action = forward_to(WeightedClusters::decode(wire, &of_route).unwrap());
    let world = World::new().cluster("app", &[app.address]);
    let filters = vec![cors_filter(), filter("fault", &aborts(500))];
    let proxy = proxy(world, filters, of_route, RouteAction::Forward(Box::new(action)));
    let answer = Client::connect(proxy.address(0)).await.request("GET", "app", "/", ORIGIN).await;
    // The most specific configuration of each filter applies.
    let allowed = answer.field("access-control-allow-origin");
    assert_eq!((answer.status, allowed), (429, Some("https://shop.example")));
}

#[tokio::test]
async fn a_browser_may_read_the_responses_that_the_proxy_makes() {
    let of_route = || overrides(&[("cors", shop_may_call())]);
    let failing = World::new().cluster("app", &[closed_port().await]);
    let failing = proxy(failing, vec![cors_filter()], of_route(), forward("app"));
    let filters = vec![cors_filter(), filter("fault", &aborts(418))];
    let aborting = proxy(World::new().cluster("app", &[]), filters, of_route(), forward("app"));
    for (proxy, status) in [(failing, 503), (aborting, 418)] {
        let mut client = Client::connect(proxy.address(0)).await;
        let answer = client.request("GET", "app", "/", ORIGIN).await;
        let allowed = answer.field("access-control-allow-origin");
        assert_eq!((answer.status, allowed), (status, Some("https://shop.example")));
        let answer = client.request("GET", "app", "/", "Origin: https://evil.example\r\n").await;
        assert_eq!((answer.status, answer.field("access-control-allow-origin")), (status, None));
    }
}

#[tokio::test]
async fn filters_decide_in_the_order_of_the_listener() {
    let filters = vec![filter("first", &aborts(418)), filter("second", &aborts(429))];
    let world = World::new().cluster("app", &[]);
    let proxy = proxy(world, filters, FilterOverrides::default(), forward("app"));
    assert_eq!(Client::connect(proxy.address(0)).await.get("app", "/").await.status, 418);
}
