//! Requests and connections whose hash decides about their endpoint.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;

use outrigger_config::cluster::{Balancing, Cluster, EndpointsHandle};
use outrigger_config::endpoint::Endpoints;
use outrigger_config::endpoint::hashing::Hashing;
use outrigger_config::route::RouteAction;
use outrigger_policy::hash_policy::HashPolicies;
use outrigger_proto::xds::protobuf;
use outrigger_proto::xds::route::route_action::HashPolicy;
use outrigger_proto::xds::route::route_action::hash_policy::{Cookie, Header, PolicySpecifier};
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::{Response, ok};

use support::{Proxy, World, cluster, endpoint, to};

fn policies(of: PolicySpecifier) -> HashPolicies {
    HashPolicies::decode(vec![HashPolicy { terminal: false, policy_specifier: Some(of) }]).unwrap()
}

fn by_user() -> HashPolicies {
    policies(PolicySpecifier::Header(Header { header_name: "x-user".into(), regex_rewrite: None }))
}

fn by_cookie() -> HashPolicies {
    let ttl = Some(protobuf::Duration { seconds: 60, nanos: 0 });
    policies(PolicySpecifier::Cookie(Cookie {
        name: "at".into(),
        ttl,
        path: "/".into(),
        ..Default::default()
    }))
}

/// A cluster of these applications with a Maglev table.
fn hashed(applications: &[Application]) -> Cluster {
    let hashing = Hashing::Maglev { size: 251 };
    let list = applications.iter().map(|of| std::sync::Arc::new(endpoint(of.address))).collect();
    let endpoints = EndpointsHandle::default();
    endpoints.store(Endpoints::new(1, list, 140, Some(hashing)));
    Cluster { balancing: Balancing::Hashing(hashing), endpoints, ..cluster("app", []) }
}

/// Applications, each of which answers with its number.
async fn applications() -> Vec<Application> {
    let mut all = Vec::new();
    for number in 0..4 {
        all.push(Application::http(move |_| ok(&number.to_string())).await);
    }
    all
}

fn proxy(cluster: Cluster, of_route: HashPolicies) -> Proxy {
    let mut forward = to("app");
    forward.hash_policies = of_route;
    World::new().proxy().cluster_of(cluster).http("app:80", RouteAction::Forward(Box::new(forward))).start()
}

/// Sends a request on a connection of its own.
async fn get(proxy: &Proxy, fields: &str) -> Response {
    Client::connect(proxy.address(0)).await.request("GET", "app", "/", fields).await
}

#[tokio::test]
async fn the_requests_of_a_user_go_to_one_endpoint_and_those_of_all_users_to_all() {
    let applications = applications().await;
    let proxy = proxy(hashed(&applications), by_user());
    let mut endpoints = BTreeMap::<String, usize>::new();
    for user in 0..40 {
        let fields = format!("x-user: {user}\r\n");
        let first = get(&proxy, &fields).await.body;
        let second = get(&proxy, &fields).await.body;
        assert_eq!(first, second);
        *endpoints.entry(first).or_default() += 1;
    }
    assert_eq!(endpoints.len(), 4, "{endpoints:?}");
}

#[tokio::test]
async fn the_policies_of_a_cluster_replace_those_of_the_route() {
    let applications = applications().await;
    let cluster = Cluster { hash_policies: by_user(), ..hashed(&applications) };
    let proxy = proxy(cluster, by_cookie());
    assert_eq!(get(&proxy, "x-user: anna\r\n").await.field("set-cookie"), None);
}

#[tokio::test]
async fn a_client_without_the_cookie_gets_one_that_leads_it_to_the_same_endpoint() {
    let applications = applications().await;
    let proxy = proxy(hashed(&applications), by_cookie());
    for _ in 0..10 {
        let response = get(&proxy, "").await;
        let line = response.field("set-cookie").unwrap();
        assert!(line.starts_with("at=\"") && line.ends_with("\"; Max-Age=60; Path=/; HttpOnly"), "{line}");
        let cookie = line.split(';').next().unwrap();
        let again = get(&proxy, &format!("cookie: {cookie}\r\n")).await;
        assert_eq!((again.body.as_str(), again.field("set-cookie")), (response.body.as_str(), None));
    }
}
