//! External authorization, with services of our own: what is asked, what an answer does, and what happens without one.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::cluster::{Cluster, UpstreamProtocol};
use outrigger_config::http_manager::HttpConnectionManager;
use outrigger_config::listener::Handler;
use outrigger_core::reason::Reason;
use outrigger_policy::filter::{FilterConfig, HttpFilter};
use outrigger_policy::timeout::Timeouts;
use outrigger_proto::xds::auth_service::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse,
};
use outrigger_proto::xds::core::{self, grpc_service as wire, http_uri::HttpUpstreamType};
use outrigger_proto::xds::ext_authz::{self, BufferSettings, ExtAuthz};
use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::{rpc, type_url, types};
use outrigger_test_support::application::{Application, closed_port};
use outrigger_test_support::client::Client;
use outrigger_test_support::grpc;
use outrigger_test_support::http1::ok;
use prost::Message;
use tokio::time::Instant;

use support::{Proxy, World, cluster, endpoint, manager, to};

const ALICE: &str = "Authorization: alice\r\n";

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Allows the requests of alice, whose identity it tells the application.
fn only_alice(request: CheckRequest) -> CheckResponse {
    let http = request.attributes.unwrap().request.unwrap().http.unwrap();
    let field = |key: &str, value: &str| core::HeaderValueOption {
        header: Some(core::HeaderValue { key: key.into(), value: value.into(), ..Default::default() }),
        ..Default::default()
    };
    let (code, response) = match http.headers.get("authorization") {
        Some(who) if who == "alice" => {
            let headers = vec![field("x-user", "alice"), field("x-body", &http.body)];
            let headers_to_remove = vec!["authorization".to_owned()];
            let ok = OkHttpResponse { headers, headers_to_remove, ..Default::default() };
            (0, HttpResponse::OkResponse(ok))
        }
        _ => {
            let status = Some(types::HttpStatus { code: 401 });
            let headers = vec![field("www-authenticate", "Basic")];
            let denied = DeniedHttpResponse { status, headers, body: "who are you?".into() };
            (16, HttpResponse::DeniedResponse(denied))
        }
    };
    let status = Some(rpc::Status { code, ..Default::default() });
    CheckResponse { status, http_response: Some(response), ..Default::default() }
}

/// A service that never replies.
async fn silent() -> Application {
    Application::raw(|connection| async move {
        let _open = connection;
        std::future::pending().await
    })
    .await
}

fn milliseconds(time: u32) -> Option<protobuf::Duration> {
    Some(protobuf::Duration { seconds: 0, nanos: i32::try_from(time).unwrap() * 1_000_000 })
}

fn grpc_service() -> ExtAuthz {
    let target = wire::EnvoyGrpc { cluster_name: "authz".into(), ..Default::default() };
    let service = core::GrpcService {
        target_specifier: Some(wire::TargetSpecifier::EnvoyGrpc(target)),
        // Longer than any pause of a busy machine.
        timeout: Some(protobuf::Duration { seconds: 5, nanos: 0 }),
        ..Default::default()
    };
    ExtAuthz { services: Some(ext_authz::ext_authz::Services::GrpcService(service)), ..Default::default() }
}

fn http_service(timeout: Option<protobuf::Duration>) -> ExtAuthz {
    let uri = core::HttpUri {
        uri: "http://authz".into(),
        timeout,
        http_upstream_type: Some(HttpUpstreamType::Cluster("authz".into())),
    };
    let service = ext_authz::HttpService { server_uri: Some(uri), ..Default::default() };
    ExtAuthz { services: Some(ext_authz::ext_authz::Services::HttpService(service)), ..Default::default() }
}

fn body(max_request_bytes: u32, allow_partial_message: bool) -> Option<BufferSettings> {
    Some(BufferSettings { max_request_bytes, allow_partial_message, pack_as_bytes: false })
}

/// A proxy whose destination `app` asks the service at `authz`.
fn proxy(app: SocketAddr, authz: SocketAddr, protocol: UpstreamProtocol, filter: &ExtAuthz) -> Proxy {
    proxy_within(app, authz, protocol, filter, None)
}

fn proxy_within(
    app: SocketAddr,
    authz: SocketAddr,
    protocol: UpstreamProtocol,
    filter: &ExtAuthz,
    timeout: Option<Duration>,
) -> Proxy {
    let any = Any { type_url: type_url::EXT_AUTHZ.into(), value: filter.encode_to_vec() };
    let config = FilterConfig::of_listener(&any).unwrap().unwrap();
    let filters = [HttpFilter { name: "ext_authz".into(), config, disabled: false }].into();
    let mut action = to("app");
    action.timeouts = Timeouts::DEFAULT;
    action.timeouts.request = timeout.or(action.timeouts.request);
    let action = outrigger_config::route::RouteAction::Forward(Box::new(action));
    let manager =
        HttpConnectionManager { filters, ..HttpConnectionManager::clone(&manager("app:80", action)) };
    let authz = Cluster { protocol, ..cluster("authz", [endpoint(authz)]) };
    let world = World::new().cluster("app", &[app]).cluster_of(authz);
    world.proxy().destination("app:80", Handler::Http(Arc::new(manager))).start()
}

#[tokio::test]
async fn a_request_reaches_the_application_only_if_the_service_allows_it() {
    let (app, authz) = (Application::echo("app").await, grpc::unary(CHECK, only_alice).await);
    let mut proxy = proxy(app.address, authz.address, UpstreamProtocol::Http2, &grpc_service());
    let mut client = Client::connect(proxy.address(0)).await;
    let answer = client.request("GET", "app", "/", &format!("{ALICE}X-User: mallory\r\n")).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("x-user: alice\r\n") && !answer.body.contains("mallory"), "{answer:?}");
    assert!(!answer.body.contains("authorization:"), "{answer:?}");
    assert_eq!(proxy.record().await.reason, None);
    let answer = client.request("GET", "app", "/", "").await;
    assert_eq!((answer.status, answer.reason()), (401, "external_authorization_denied"));
    assert_eq!((answer.field("www-authenticate"), answer.body.as_str()), (Some("Basic"), "who are you?"));
    assert_eq!(proxy.record().await.reason, Some(Reason::ExternalAuthorizationDenied));
    let answer = client.request("GET", "app", "/", "Content-Type: application/grpc\r\n").await;
    assert!(answer.status == 200 && answer.head.contains("grpc-status: 16\r\n"), "{answer:?}");
    assert_eq!((app.requests(), authz.requests()), (1, 3));
}

#[tokio::test]
async fn the_service_and_the_application_receive_the_same_body() {
    let (app, authz) = (Application::echo("app").await, grpc::unary(CHECK, only_alice).await);
    let filter = ExtAuthz { with_request_body: body(8, true), ..grpc_service() };
    let proxy = proxy(app.address, authz.address, UpstreamProtocol::Http2, &filter);
    let mut client = Client::connect(proxy.address(0)).await;
    let long = "0123456789".repeat(20_000);
    for (sent, seen) in [("milk", "milk"), ("", ""), ("12345678", "12345678"), (&long, "01234567")] {
        let length = sent.len();
        client
            .send(format!("POST / HTTP/1.1\r\nHost: app\r\n{ALICE}Content-Length: {length}\r\n\r\n{sent}"))
            .await;
        let answer = client.response().await;
        assert!(answer.status == 200 && answer.body.ends_with(sent), "{length}");
        assert!(answer.body.contains(&format!("x-body: {seen}\r\n")), "{length}");
    }
    client.send(format!("POST / HTTP/1.1\r\nHost: app\r\n{ALICE}Transfer-Encoding: chunked\r\n\r\n")).await;
    for part in ["3\r\nmil\r\n", "7\r\nk and b\r\n", "5\r\nutter\r\n0\r\n\r\n"] {
        client.send(part).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answer = client.response().await;
    assert!(
        answer.body.ends_with("milk and butter") && answer.body.contains("x-body: milk and\r\n"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_body_that_is_longer_than_the_service_may_see_is_refused() {
    let (app, authz) = (Application::echo("app").await, grpc::unary(CHECK, only_alice).await);
    let filter = ExtAuthz { with_request_body: body(8, false), ..grpc_service() };
    let proxy = proxy(app.address, authz.address, UpstreamProtocol::Http2, &filter);
    let answer = Client::connect(proxy.address(0)).await.post("app", "/", "123456789").await;
    assert_eq!((answer.status, answer.reason()), (413, "body_too_large"));
    assert_eq!((app.requests(), authz.requests()), (0, 0));
}

#[tokio::test]
async fn an_http_service_decides_by_its_status() {
    let app = Application::echo("app").await;
    let authz = Application::http(|request| match request.head.contains("authorization: alice\r\n") {
        true => ok("yes"),
        false => "HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n".to_owned(),
    });
    let authz = authz.await;
    let timeout = Some(protobuf::Duration { seconds: 5, nanos: 0 });
    let proxy = proxy(app.address, authz.address, UpstreamProtocol::Http1, &http_service(timeout));
    let mut client = Client::connect(proxy.address(0)).await;
    assert_eq!(client.request("GET", "app", "/", ALICE).await.status, 200);
    let answer = client.request("GET", "app", "/", "").await;
    assert_eq!((answer.status, answer.field("location")), (302, Some("/login")));
    assert_eq!(app.requests(), 1);
}

#[tokio::test]
async fn without_the_service_nothing_passes_unless_it_may() {
    let app = Application::echo("app").await;
    let silent = silent().await;
    for authz in [closed_port().await, silent.address] {
        for (failure_mode_allow, status) in [(false, 403), (true, 200)] {
            let filter = ExtAuthz { failure_mode_allow, ..http_service(milliseconds(100)) };
            let mut proxy = proxy(app.address, authz, UpstreamProtocol::Http1, &filter);
            let answer = Client::connect(proxy.address(0)).await.get("app", "/").await;
            assert_eq!(answer.status, status);
            let reason = (!failure_mode_allow).then_some(Reason::ExternalAuthorizationFailed);
            let record = proxy.record().await;
            assert_eq!(record.reason, reason);
            let detail = &record.text.as_ref().unwrap().detail;
            assert!(detail.starts_with("a filter's service: upstream_"), "{detail}");
            let open = proxy.totals().process.filters_failed_open;
            assert_eq!(open, u64::from(failure_mode_allow));
        }
    }
    assert_eq!(app.requests(), 2);
}

#[tokio::test]
async fn a_service_has_no_more_time_than_its_request() {
    let app = Application::echo("app").await;
    let silent = silent().await;
    let filter = ExtAuthz { failure_mode_allow: true, ..http_service(milliseconds(900)) };
    let (timeout, began) = (Some(Duration::from_millis(50)), Instant::now());
    let proxy = proxy_within(app.address, silent.address, UpstreamProtocol::Http1, &filter, timeout);
    let answer = Client::connect(proxy.address(0)).await.get("app", "/").await;
    assert_eq!((answer.status, answer.reason()), (504, "upstream_request_timeout"));
    assert!(began.elapsed() < Duration::from_millis(850), "{:?}", began.elapsed());
    assert_eq!(app.requests(), 0);
}

#[tokio::test]
async fn a_service_that_closed_its_idle_connection_is_asked_again() {
    let app = Application::echo("app").await;
    let authz = Application::raw(|mut connection| async move {
        connection.request().await;
        let _ = connection.send(ok("yes")).await;
    });
    let authz = authz.await;
    let timeout = Some(protobuf::Duration { seconds: 5, nanos: 0 });
    let proxy = proxy(app.address, authz.address, UpstreamProtocol::Http1, &http_service(timeout));
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..20 {
        assert_eq!(client.get("app", "/").await.status, 200);
    }
    assert_eq!((app.requests(), authz.requests()), (20, 20));
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_told_to_send_its_body() {
    let (app, authz) = (Application::echo("app").await, grpc::unary(CHECK, only_alice).await);
    let filter = ExtAuthz { with_request_body: body(8, false), ..grpc_service() };
    let proxy = proxy(app.address, authz.address, UpstreamProtocol::Http2, &filter);
    let mut client = Client::connect(proxy.address(0)).await;
    let fields = format!("{ALICE}Expect: 100-continue\r\nContent-Length: 4\r\n");
    client.send(format!("POST / HTTP/1.1\r\nHost: app\r\n{fields}\r\n")).await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    client.send("milk").await;
    let answer = client.response().await;
    assert!(answer.status == 200 && answer.body.contains("x-body: milk\r\n"), "{answer:?}");
}

#[tokio::test]
async fn a_reply_that_cannot_be_read_lets_nothing_through() {
    let app = Application::echo("app").await;
    let long = || format!("HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n{}", "x".repeat(2_000_000));
    let cut = || "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nyes".to_owned();
    let garbage = || "yes\r\n\r\n".to_owned();
    for reply in [long, cut, garbage] as [fn() -> String; 3] {
        let authz = Application::raw(move |mut connection| async move {
            connection.request().await;
            let _ = connection.send(reply()).await;
        });
        let authz = authz.await;
        let timeout = Some(protobuf::Duration { seconds: 5, nanos: 0 });
        let proxy = proxy(app.address, authz.address, UpstreamProtocol::Http1, &http_service(timeout));
        let answer = Client::connect(proxy.address(0)).await.get("app", "/").await;
        assert_eq!((answer.status, answer.reason()), (403, "external_authorization_failed"));
    }
    assert_eq!(app.requests(), 0);
}
