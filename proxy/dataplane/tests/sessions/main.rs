//! Sessions: which endpoint, and which cluster, the requests of a client stay with.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod envoy;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;

use outrigger_config::cluster::{Balancing, Cluster, EndpointsHandle, SessionStatuses};
use outrigger_config::endpoint::{Endpoint, HealthStatus};
use outrigger_config::http_manager::{HttpConnectionManager, RouteSource};
use outrigger_config::listener::Handler;
use outrigger_config::route::{Route, RouteAction, RouteMatcher, RouteTable};
use outrigger_policy::filter::overrides::FilterOverrides;
use outrigger_policy::filter::{FilterConfig, HttpFilter};
use outrigger_policy::weighted_cluster::WeightedClusters;
use outrigger_proto::xds::cookie_session::CookieBasedSessionState;
use outrigger_proto::xds::header_session::HeaderBasedSessionState;
use outrigger_proto::xds::http_types::Cookie;
use outrigger_proto::xds::protobuf::{Any, UInt32Value};
use outrigger_proto::xds::stateful_session::StatefulSession;
use outrigger_proto::xds::{core, route, type_url};
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::{Response, ok};
use prost::Message;

use support::{Proxy, World, cluster, endpoint, endpoints, forward_to, manager, to};

/// Applications, each of which answers with its number.
async fn applications(count: usize) -> Vec<Application> {
    let mut all = Vec::new();
    for number in 0..count {
        all.push(Application::http(move |_| ok(&number.to_string())).await);
    }
    all
}

fn list(applications: &[Application]) -> Vec<Endpoint> {
    applications.iter().map(|of| endpoint(of.address)).collect()
}

fn packed(type_url: &str, message: &impl Message) -> Any {
    Any { type_url: type_url.into(), value: message.encode_to_vec() }
}

fn sessions(state: Any, strict: bool) -> HttpFilter {
    let session_state = Some(core::TypedExtensionConfig { name: String::new(), typed_config: Some(state) });
    let wire = StatefulSession { session_state, strict, ..Default::default() };
    let config = FilterConfig::of_listener(&packed(type_url::STATEFUL_SESSION, &wire)).unwrap().unwrap();
    HttpFilter { name: "sessions".into(), config, disabled: false }
}

fn by_cookie(path: &str) -> Any {
    let cookie = Some(Cookie { name: "at".into(), path: path.into(), ..Default::default() });
    packed(type_url::COOKIE_SESSION, &CookieBasedSessionState { cookie })
}

fn by_header() -> Any {
    packed(type_url::HEADER_SESSION, &HeaderBasedSessionState { name: "x-at".into() })
}

fn proxy(clusters: impl IntoIterator<Item = Cluster>, filter: HttpFilter, action: RouteAction) -> Proxy {
    let route = Route {
        name: "route".into(),
        template: None,
        matcher: RouteMatcher::any(),
        action,
        request_headers: Default::default(),
        response_headers: Default::default(),
        filters: FilterOverrides::default(),
    };
    let table = RouteTable::for_any_host("app:80".into(), vec![Arc::new(route)]);
    let manager = HttpConnectionManager {
        routes: RouteSource::Inline(Arc::new(table)),
        filters: Box::new([filter]),
        ..HttpConnectionManager::clone(&manager("app:80", support::forward("app")))
    };
    let world = clusters.into_iter().fold(World::new(), World::cluster_of);
    world.proxy().destination("app:80", Handler::Http(Arc::new(manager))).start()
}

fn to_app() -> RouteAction {
    RouteAction::Forward(Box::new(to("app")))
}

/// A client that repeats what it was given.
#[derive(Default)]
struct Browser {
    fields: String,
}

impl Browser {
    async fn get(&mut self, proxy: &Proxy) -> Response {
        let mut client = Client::connect(proxy.address(0)).await;
        let response = client.request("GET", "app", "/", &self.fields).await;
        if let Some(line) = response.field("set-cookie") {
            self.fields = format!("Cookie: {}\r\n", line.split(';').next().unwrap());
        }
        if let Some(value) = response.field("x-at") {
            self.fields = format!("X-At: {value}\r\n");
        }
        response
    }
}

#[tokio::test]
async fn a_client_stays_with_its_endpoint_while_others_come_and_go() {
    for state in [by_cookie("/"), by_header()] {
        let applications = applications(4).await;
        let all = list(&applications);
        let cluster = Cluster { balancing: Balancing::RoundRobin, ..cluster("app", all[..3].to_vec()) };
        let handle = EndpointsHandle::clone(&cluster.endpoints);
        let proxy = proxy([cluster], sessions(state, false), to_app());
        let mut browser = Browser::default();
        let first = browser.get(&proxy).await.body;
        let own = all[first.parse::<usize>().unwrap()].clone();
        for number in 0..50 {
            match number {
                15 => handle.store(endpoints(all.clone())),
                30 => handle.store(endpoints([own.clone(), all[3].clone()])),
                45 => handle.store(endpoints([own.clone()])),
                _ => {}
            }
            let before = browser.fields.clone();
            assert_eq!(browser.get(&proxy).await.body, first, "{number}");
            assert_eq!(browser.fields, before, "a client gets its endpoint once");
        }
        let mut others = std::collections::BTreeSet::new();
        handle.store(endpoints(all));
        for _ in 0..12 {
            others.insert(Browser::default().get(&proxy).await.body);
        }
        assert_eq!(others.len(), 4, "new clients go to all endpoints: {others:?}");
    }
}

#[tokio::test]
async fn a_client_whose_endpoint_fails_gets_another_one_and_no_error() {
    for state in [by_cookie("/"), by_header()] {
        let mut applications = applications(2).await;
        let all = list(&applications);
        let cluster = cluster("app", [all[0].clone()]);
        let handle = EndpointsHandle::clone(&cluster.endpoints);
        let proxy = proxy([cluster], sessions(state, false), to_app());
        let mut browser = Browser::default();
        assert_eq!(browser.get(&proxy).await.body, "0");
        let own = browser.fields.clone();
        drop(applications.remove(0));
        assert_eq!(browser.get(&proxy).await.status, 503);
        assert_eq!(browser.fields, own, "an endpoint that does not answer is no session's");
        handle.store(endpoints(all));
        let mut given = 0;
        for _ in 0..5 {
            let before = browser.fields.clone();
            let response = browser.get(&proxy).await;
            assert_eq!((response.status, response.body.as_str()), (200, "1"));
            given += usize::from(browser.fields != before);
        }
        assert_eq!(given, 1, "a client gets its new endpoint once");
    }
}

#[tokio::test]
async fn a_strict_session_fails_rather_than_go_elsewhere() {
    let applications = applications(2).await;
    let all = list(&applications);
    let cluster = cluster("app", [all[0].clone()]);
    let handle = EndpointsHandle::clone(&cluster.endpoints);
    let proxy = proxy([cluster], sessions(by_header(), true), to_app());
    let mut browser = Browser::default();
    assert_eq!(browser.get(&proxy).await.body, "0");
    handle.store(endpoints([all[1].clone()]));
    let response = browser.get(&proxy).await;
    assert_eq!((response.status, response.reason()), (503, "no_healthy_upstream"));
    handle.store(endpoints(all));
    assert_eq!(browser.get(&proxy).await.body, "0");
    assert_eq!(applications[1].requests(), 0);
}

#[tokio::test]
async fn a_draining_endpoint_keeps_its_sessions_if_the_cluster_says_so() {
    use core::HealthStatus as Wire;
    for (statuses, stays) in
        [(None, false), (Some(vec![Wire::Healthy, Wire::Draining]), true), (Some(vec![]), false)]
    {
        let applications = applications(2).await;
        let all = list(&applications);
        let mut cluster = cluster("app", [all[0].clone()]);
        if let Some(statuses) = statuses {
            cluster.session_statuses = SessionStatuses::decode(Some(set(statuses))).unwrap();
        }
        let handle = EndpointsHandle::clone(&cluster.endpoints);
        let proxy = proxy([cluster], sessions(by_cookie("/"), false), to_app());
        let mut browser = Browser::default();
        assert_eq!(browser.get(&proxy).await.body, "0");
        let draining = Endpoint { health: HealthStatus::Draining, ..all[0].clone() };
        handle.store(endpoints([draining, all[1].clone()]));
        assert_eq!(browser.get(&proxy).await.body == "0", stays, "{stays}");
        assert_eq!(Browser::default().get(&proxy).await.body, "1", "new sessions go elsewhere");
    }
}

fn set(statuses: Vec<core::HealthStatus>) -> core::HealthStatusSet {
    core::HealthStatusSet { statuses: statuses.into_iter().map(|of| of as i32).collect() }
}

/// Requests of `app` go to these clusters by weight.
fn weighted(of: &[(&str, u32)]) -> RouteAction {
    let clusters = of.iter().map(|(name, weight)| route::weighted_cluster::ClusterWeight {
        name: (*name).into(),
        weight: Some(UInt32Value { value: *weight }),
        ..Default::default()
    });
    let wire = route::WeightedCluster { clusters: clusters.collect(), ..Default::default() };
    let clusters = WeightedClusters::decode(wire, &FilterOverrides::default()).unwrap();
    RouteAction::Forward(Box::new(forward_to(clusters)))
}

#[tokio::test]
async fn a_session_stays_with_its_cluster_whatever_its_weight_is() {
    for state in [by_cookie("/"), by_header()] {
        let applications = applications(3).await;
        let all = list(&applications);
        let one = || cluster("one", [all[0].clone()]);
        let two = || cluster("two", all[1..].to_vec());
        let before =
            proxy([one(), two()], sessions(state.clone(), false), weighted(&[("one", 1), ("two", 0)]));
        let mut browser = Browser::default();
        assert_eq!(browser.get(&before).await.body, "0");
        let after = proxy([one(), two()], sessions(state, false), weighted(&[("one", 0), ("two", 1)]));
        for _ in 0..10 {
            assert_eq!(browser.get(&after).await.body, "0");
        }
        assert_ne!(Browser::default().get(&after).await.body, "0", "a new session goes by weight");
    }
}

#[tokio::test]
async fn a_session_whose_endpoint_has_gone_stays_with_its_cluster_while_that_has_a_weight() {
    let applications = applications(3).await;
    let all = list(&applications);
    let (one, two) = (cluster("one", [all[0].clone()]), cluster("two", [all[2].clone()]));
    let handle = EndpointsHandle::clone(&one.endpoints);
    let cluster_of =
        |endpoints: &EndpointsHandle| Cluster { endpoints: endpoints.clone(), ..cluster("one", []) };
    let filter = || sessions(by_cookie("/"), false);
    let only_one = proxy([cluster_of(&handle), two.clone()], filter(), weighted(&[("one", 1), ("two", 0)]));
    let mut browser = Browser::default();
    assert_eq!(browser.get(&only_one).await.body, "0");
    handle.store(endpoints([all[1].clone()]));
    let rarely =
        proxy([cluster_of(&handle), two.clone()], filter(), weighted(&[("one", 1), ("two", 4_000_000_000)]));
    let own = browser.fields.clone();
    for _ in 0..10 {
        browser.fields.clone_from(&own);
        assert_eq!(browser.get(&rarely).await.body, "1");
    }
    let no_more = proxy([cluster_of(&handle), two], filter(), weighted(&[("one", 0), ("two", 1)]));
    browser.fields = own;
    assert_eq!(browser.get(&no_more).await.body, "2");
}

#[tokio::test]
async fn a_value_that_is_no_session_is_replaced() {
    let applications = applications(1).await;
    let proxy = proxy([cluster("app", list(&applications))], sessions(by_cookie("/"), false), to_app());
    for value in ["", "x", "AAAA", "MTI3LjAuMC4xOjE=", "\"unfinished", &"A".repeat(5000)] {
        let mut browser = Browser { fields: format!("Cookie: at={value}\r\n") };
        let response = browser.get(&proxy).await;
        assert_eq!((response.status, response.body.as_str()), (200, "0"), "{value}");
        assert!(response.field("set-cookie").is_some(), "{value}");
    }
    let elsewhere = sessions(by_cookie("/other"), false);
    let proxy = self::proxy([cluster("app", list(&applications))], elsewhere, to_app());
    assert_eq!(Browser::default().get(&proxy).await.field("set-cookie"), None);
}
