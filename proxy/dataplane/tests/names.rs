//! Clusters of a name in DNS: a name server that is slow, silent or failing delays requests within their time limits only.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::http_manager::HttpConnectionManager;
use outrigger_config::listener::{Handler, NetworkFilter};
use outrigger_config::route::RouteAction;
use outrigger_config::snapshot::Snapshot;
use outrigger_core::reason::Reason;
use outrigger_policy::filter::{FilterConfig, HttpFilter};
use outrigger_proto::xds::core::{self, grpc_service, http_uri::HttpUpstreamType};
use outrigger_proto::xds::ext_authz::{self, ExtAuthz};
use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::ratelimit::RateLimit;
use outrigger_proto::xds::ratelimit_config::RateLimitServiceConfig;
use outrigger_proto::xds::route::rate_limit::{self, action, action::ActionSpecifier};
use outrigger_proto::xds::{route, type_url};
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use outrigger_test_support::wait::eventually;
use prost::Message;

use support::names::{HOUR, NameServer, Says, named, port};
use support::{Proxy, World, forward, listener, manager, tcp_proxy, to};

const SHORT: Duration = Duration::from_millis(100);
const LOCAL: Says = Says::Address("127.0.0.1", HOUR);
/// Valid for the lookup that it answers only.
const NO_LONGER_VALID: Says = Says::Address("127.0.0.1", Duration::ZERO);

async fn application() -> Application {
    Application::http(|_| ok("served")).await
}

/// A proxy to `app`, an application at the address of a name.
fn start(app: &Application, names: &NameServer, connect_timeout: Duration) -> Proxy {
    let cluster = named("app", port(app.address), connect_timeout);
    let world = World::new().resolving(names);
    world.proxy().cluster_of(cluster).http("app:80", forward("app")).start()
}

async fn get(proxy: &Proxy) -> (u16, String) {
    let answer = Client::connect(proxy.address(0)).await.get("app", "/").await;
    (answer.status, answer.reason().to_owned())
}

fn served() -> (u16, String) {
    (200, String::new())
}

#[tokio::test]
async fn a_silent_name_server_is_waited_for_as_long_as_for_a_connection() {
    let (app, names) = (application().await, NameServer::new(Says::Nothing));
    let mut proxy = start(&app, &names, SHORT);
    assert_eq!(get(&proxy).await, (503, "no_healthy_upstream".into()));
    let record = proxy.record().await;
    assert_eq!(record.reason, Some(Reason::NoHealthyUpstream));
    assert_eq!(record.text.as_ref().unwrap().detail, "app.example: no answer of DNS in time");
    assert_eq!(get(&proxy).await.0, 503);
    assert_eq!(names.asked(), 1, "the lookup goes on");
    names.says.send_replace(LOCAL);
    eventually("an answer", async || (get(&proxy).await == served()).then_some(())).await;
    assert_eq!(names.asked(), 1);
}

#[tokio::test]
async fn a_silent_name_server_is_waited_for_within_the_timeout_of_the_request() {
    let (app, names) = (application().await, NameServer::new(Says::Nothing));
    let mut action = to("app");
    action.timeouts.request = Some(SHORT);
    let cluster = named("app", port(app.address), HOUR);
    let world = World::new().resolving(&names);
    let world = world.proxy().cluster_of(cluster);
    let mut proxy = world.http("app:80", RouteAction::Forward(Box::new(action))).start();
    assert_eq!(get(&proxy).await, (504, "upstream_request_timeout".into()));
    assert_eq!(proxy.record().await.reason, Some(Reason::UpstreamRequestTimeout));
}

#[tokio::test]
async fn an_opaque_connection_is_closed_if_the_name_server_is_silent() {
    let (app, names) = (application().await, NameServer::new(Says::Nothing));
    let world = World::new().resolving(&names);
    let own = listener("opaque", NetworkFilter::Handle(Handler::Tcp(tcp_proxy("app", "app"))));
    let mut proxy = world.own(own).cluster_of(named("app", port(app.address), SHORT)).start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    assert_eq!(proxy.record().await.reason, Some(Reason::NoHealthyUpstream));
    names.says.send_replace(LOCAL);
    eventually("an answer", async || {
        let mut client = Client::connect(proxy.address(0)).await;
        client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
        client.try_response().await.filter(|answer| answer.status == 200).map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_burst_of_requests_makes_one_lookup_for_as_long_as_its_answer_is_valid() {
    let (app, names) = (application().await, NameServer::new(Says::Nothing));
    let proxy = start(&app, &names, HOUR);
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(proxy.address(0)).await;
        client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
        clients.push(client);
    }
    eventually("a lookup", async || (names.asked() == 1).then_some(())).await;
    names.says.send_replace(LOCAL);
    for client in &mut clients {
        assert_eq!(client.response().await.status, 200);
        assert_eq!(client.get("app", "/").await.status, 200);
    }
    assert_eq!((names.asked(), app.requests()), (1, 40));
}

#[tokio::test]
async fn known_addresses_are_used_while_the_name_server_is_silent() {
    let (app, names) = (application().await, NameServer::new(NO_LONGER_VALID));
    let proxy = start(&app, &names, HOUR);
    assert_eq!(get(&proxy).await, served());
    names.says.send_replace(Says::Nothing);
    for _ in 0..3 {
        assert_eq!(get(&proxy).await, served());
    }
    assert_eq!((names.asked(), app.requests()), (2, 4));
    // Nothing listens there.
    names.says.send_replace(Says::Address("127.0.0.2", HOUR));
    eventually("the new address", async || (get(&proxy).await.0 == 503).then_some(())).await;
    assert_eq!(names.asked(), 2);
}

#[tokio::test]
async fn known_addresses_are_used_while_the_name_server_fails() {
    let (app, names) = (application().await, NameServer::new(NO_LONGER_VALID));
    let mut proxy = start(&app, &names, HOUR);
    assert_eq!(get(&proxy).await, served());
    names.says.send_replace(Says::Fails);
    for _ in 0..3 {
        assert_eq!(get(&proxy).await, served());
    }
    drop(proxy.record().await);

    let none = NameServer::new(Says::Fails);
    let mut proxy = start(&app, &none, HOUR);
    assert_eq!(get(&proxy).await.0, 503, "none is known");
    assert_eq!(proxy.record().await.text.as_ref().unwrap().detail, "app.example: SERVFAIL");
    none.says.send_replace(LOCAL);
    eventually("an answer", async || (get(&proxy).await == served()).then_some(())).await;
}

#[tokio::test]
async fn known_addresses_are_not_used_when_the_name_no_longer_exists() {
    let (app, names) = (application().await, NameServer::new(NO_LONGER_VALID));
    let mut proxy = start(&app, &names, HOUR);
    assert_eq!(get(&proxy).await, served());
    drop(proxy.record().await);
    names.says.send_replace(Says::Absent(Duration::ZERO));
    for _ in 0..2 {
        assert_eq!(get(&proxy).await, (503, "no_healthy_upstream".into()));
        assert_eq!(proxy.record().await.reason, Some(Reason::NoHealthyUpstream));
    }
    assert_eq!((names.asked(), app.requests()), (3, 1));
    names.says.send_replace(LOCAL);
    assert_eq!(get(&proxy).await, served());
}

#[tokio::test]
async fn a_request_that_waits_for_a_name_gets_the_endpoints_of_an_updated_cluster() {
    let (app, names) = (application().await, NameServer::new(Says::Nothing));
    let proxy = start(&app, &names, HOUR);
    let send = async || {
        let mut client = Client::connect(proxy.address(0)).await;
        client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
        client
    };
    let mut first = send().await;
    eventually("a lookup", async || (names.asked() == 1).then_some(())).await;
    let mut snapshot = Snapshot::clone(&proxy.published.load());
    snapshot.generation += 1;
    let updated = named("app", port(app.address), HOUR);
    snapshot.clusters.insert(updated.name.clone(), Arc::new(updated));
    proxy.published.publish(Arc::new(snapshot));
    let mut second = send().await;
    eventually("a lookup of the updated cluster", async || (names.asked() == 2).then_some(())).await;
    names.says.send_replace(Says::AddressTo(1));
    eventually("an answer", async || (names.says.receiver_count() == 1).then_some(())).await;
    names.says.send_replace(LOCAL);
    assert_eq!((first.response().await.status, second.response().await.status), (200, 200));
}

/// A proxy to an application, which has this filter. The filter asks the service in the cluster `asked`, at the address of a name.
fn asking(app: &Application, names: &NameServer, type_url: &str, filter: &impl Message) -> Proxy {
    let any = Any { type_url: type_url.into(), value: filter.encode_to_vec() };
    let config = FilterConfig::of_listener(&any).unwrap().unwrap();
    let filters = [HttpFilter { name: "asks".into(), config, disabled: false }].into();
    let manager =
        HttpConnectionManager { filters, ..HttpConnectionManager::clone(&manager("app:80", forward("app"))) };
    let world = World::new().resolving(names);
    let world = world.cluster("app", &[app.address]).cluster_of(named("asked", 9, HOUR));
    world.proxy().destination("app:80", Handler::Http(Arc::new(manager))).start()
}

fn short() -> Option<protobuf::Duration> {
    Some(protobuf::Duration { seconds: 0, nanos: 100_000_000 })
}

#[tokio::test]
async fn external_authorization_fails_in_time_if_the_name_server_is_silent() {
    let (app, names) = (application().await, NameServer::new(Says::Nothing));
    let uri = core::HttpUri {
        uri: "http://asked".into(),
        timeout: short(),
        http_upstream_type: Some(HttpUpstreamType::Cluster("asked".into())),
    };
    let service = ext_authz::HttpService { server_uri: Some(uri), ..Default::default() };
    let services = Some(ext_authz::ext_authz::Services::HttpService(service));
    for (failure_mode_allow, expected) in
        [(false, (403, "external_authorization_failed".to_owned())), (true, served())]
    {
        let filter = ExtAuthz { services: services.clone(), failure_mode_allow, ..Default::default() };
        let proxy = asking(&app, &names, type_url::EXT_AUTHZ, &filter);
        assert_eq!(get(&proxy).await, expected);
    }
    assert_eq!(app.requests(), 1);
}

#[tokio::test]
async fn a_global_rate_limit_fails_in_time_if_the_name_server_is_silent() {
    let (app, names) = (application().await, NameServer::new(Says::Nothing));
    let target = grpc_service::EnvoyGrpc { cluster_name: "asked".into(), ..Default::default() };
    let service = core::GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(target)),
        ..Default::default()
    };
    let key = action::GenericKey { descriptor_value: "all".into(), ..Default::default() };
    let actions = vec![rate_limit::Action { action_specifier: Some(ActionSpecifier::GenericKey(key)) }];
    let limit = RateLimit {
        domain: "shop".into(),
        timeout: short(),
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(service),
            ..Default::default()
        }),
        rate_limits: vec![route::RateLimit { actions, ..Default::default() }],
        ..Default::default()
    };
    for (failure_mode_deny, expected) in
        [(false, served()), (true, (500, "rate_limit_service_failed".to_owned()))]
    {
        let filter = RateLimit { failure_mode_deny, ..limit.clone() };
        let proxy = asking(&app, &names, type_url::RATE_LIMIT, &filter);
        assert_eq!(get(&proxy).await, expected);
    }
    assert_eq!(app.requests(), 1);
}
