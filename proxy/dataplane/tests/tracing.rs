//! The span IDs that upstreams receive and records have: one span for each attempt outbound, one for each request inbound.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;

use bytes::Bytes;
use outrigger_config::listener::{Handler, Listener, NetworkFilter};
use outrigger_core::reason::Reason;
use outrigger_core::record::{Direction, Protocol, RequestRecord};
use outrigger_core::trace::SpanId;
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::{Request, ok, status};
use outrigger_test_support::http2;
use support::{Proxy, World, forward, listener, manager};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.split_once(": ").filter(|(field, _)| *field == name))
        .map(|(_, value)| value)
}

/// Returns trace and span of a traceparent.
fn ids(head: &str) -> (String, String) {
    let mut fields = field(head, "traceparent").expect("a traceparent").split('-').skip(1).map(str::to_owned);
    (fields.next().unwrap(), fields.next().unwrap())
}

fn parent() -> String {
    format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n")
}

/// A sidecar's outbound side, from which `app:80` is called.
fn outbound(endpoints: &[SocketAddr]) -> World {
    World::new().proxy().cluster("app", endpoints).http("app:80", forward("app"))
}

/// A listener of that direction in front of an application.
fn in_front_of(application: SocketAddr, direction: Direction) -> World {
    let http = NetworkFilter::Handle(Handler::Http(manager("app:80", forward("app"))));
    World::new().own(Listener { direction, ..listener("in-front", http) }).cluster("app", &[application])
}

async fn get(proxy: &Proxy, fields: &str) -> String {
    Client::connect(proxy.address(0)).await.request("GET", "app", "/", fields).await.body
}

/// Fails each first attempt, and answers the next with the IDs that both received.
async fn failing_once() -> Application {
    let before = std::sync::Mutex::new(None);
    Application::http(move |request: &Request| {
        let received = ids(&request.head).1;
        let mut before = before.lock().unwrap();
        match before.take() {
            None => {
                *before = Some(received);
                status(503)
            }
            Some(first) => ok(&format!("{first} {received}")),
        }
    })
    .await
}

fn attempt_spans(record: &RequestRecord) -> Vec<String> {
    record.attempts.iter().map(|attempt| attempt.span.unwrap().to_string()).collect()
}

fn span(of: Option<SpanId>) -> Option<String> {
    of.map(|span| span.to_string())
}

#[tokio::test]
async fn outbound_each_attempt_sends_its_own_span_and_the_callers_is_the_parent_of_all() {
    let application = failing_once().await;
    let mut proxy = outbound(&[application.address]).traced().start();
    let sent = get(&proxy, &parent()).await;
    let record = proxy.record().await;
    let spans = attempt_spans(&record);
    assert_eq!(spans.join(" "), sent);
    assert_ne!(spans[0], spans[1]);
    assert_eq!(record.attempts.iter().map(|attempt| attempt.resend_count).collect::<Vec<_>>(), [0, 1]);
    let trace = record.trace.unwrap();
    assert_eq!((trace.trace.to_string().as_str(), span(trace.parent).as_deref()), (TRACE, Some(SPAN)));
    assert!(!spans.contains(&SPAN.to_owned()));
}

#[tokio::test]
async fn attempts_of_an_untraced_client_share_a_trace() {
    let application = failing_once().await;
    let mut proxy = outbound(&[application.address]).traced().start();
    get(&proxy, "").await;
    let record = proxy.record().await;
    assert_eq!((record.attempts.len(), record.trace.unwrap().parent), (2, None));
}

#[tokio::test]
async fn inbound_the_application_receives_the_server_span_in_every_attempt() {
    let application = failing_once().await;
    let mut proxy = in_front_of(application.address, Direction::Inbound).traced().start();
    let sent = get(&proxy, &parent()).await;
    let record = proxy.record().await;
    let trace = record.trace.unwrap();
    assert_eq!(sent, format!("{0} {0}", trace.span));
    assert_eq!(span(trace.parent).as_deref(), Some(SPAN));
}

#[tokio::test]
async fn at_a_gateway_each_attempt_has_a_span_beside_the_server_span() {
    let application = failing_once().await;
    let mut proxy = in_front_of(application.address, Direction::Unspecified).traced().start();
    let sent = get(&proxy, &parent()).await;
    let record = proxy.record().await;
    let spans = attempt_spans(&record);
    assert_eq!(spans.join(" "), sent);
    assert!(!spans.contains(&record.trace.unwrap().span.to_string()) && spans[0] != spans[1]);
}

#[tokio::test]
async fn a_proxy_without_an_exporter_forwards_the_callers_span() {
    let application = Application::echo("app").await;
    let mut proxy = outbound(&[application.address]).start();
    assert_eq!(ids(&get(&proxy, &parent()).await), (TRACE.to_owned(), SPAN.to_owned()));
    assert_eq!(proxy.record().await.trace.unwrap().span.to_string(), SPAN);
}

#[tokio::test]
async fn a_request_without_an_attempt_has_a_span_all_the_same() {
    let mut proxy = outbound(&[]).traced().start();
    let mut client = Client::connect(proxy.address(0)).await;
    assert_eq!(client.request("GET", "nowhere", "/", &parent()).await.status, 502);
    let record = proxy.record().await;
    assert_eq!((record.attempts.len(), record.reason), (0, Some(Reason::NoDestination)));
    let trace = record.trace.unwrap();
    assert!(trace.sampled && span(trace.parent).as_deref() == Some(SPAN) && trace.span.to_string() != SPAN);
}

/// An application with an OpenTelemetry SDK: it answers a request within a SERVER span of its own, and calls `app` through its
/// sidecar at `outbound` within a CLIENT span.
async fn instrumented(outbound: SocketAddr) -> Application {
    Application::raw(move |mut connection| async move {
        while let Some(request) = connection.request().await {
            let (trace, server) = ids(&request.head);
            let call = format!("traceparent: 00-{trace}-{:016x}-01\r\n", 0xc11e);
            let callee = Client::connect(outbound).await.request("GET", "app", "/", &call).await.body;
            connection.send(ok(&format!("{server} {}", ids(&callee).1))).await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn the_spans_of_an_instrumented_application_are_between_those_of_its_sidecar() {
    let cart = Application::echo("cart").await;
    let mut cart = (in_front_of(cart.address, Direction::Inbound).traced().start(), cart);
    let mut outbound = outbound(&[cart.0.address(0)]).traced().start();
    let web = instrumented(outbound.address(0)).await;
    let mut inbound = in_front_of(web.address, Direction::Inbound).traced().start();

    let received = get(&inbound, &parent()).await;
    let (served, called, callee) = (inbound.record().await, outbound.record().await, cart.0.record().await);
    let trace = |record: &RequestRecord| record.trace.unwrap();
    for record in [&served, &called, &callee] {
        assert_eq!(trace(record).trace.to_string(), TRACE);
    }
    assert_eq!(span(trace(&served).parent).as_deref(), Some(SPAN));
    assert_eq!(trace(&called).parent.unwrap().get(), 0xc11e, "the CLIENT span of the SDK");
    assert_eq!(trace(&callee).parent, called.attempts[0].span, "the CLIENT span of the attempt");
    // What both applications received: the SERVER spans of their sidecars.
    assert_eq!(received, format!("{} {}", trace(&served).span, trace(&callee).span));
}

#[tokio::test]
async fn a_failed_grpc_call_has_the_status_of_its_trailers() {
    let payments = Application::http2(|_, mut respond| async move {
        let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        stream.send_data(Bytes::from_static(b"\0\0\0\0\0"), false).unwrap();
        let trailers = [(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("5"))];
        stream.send_trailers(trailers.into_iter().collect()).unwrap();
    })
    .await;
    let mut cluster = support::cluster("app", [support::endpoint(payments.address)]);
    cluster.protocol = outrigger_config::cluster::UpstreamProtocol::Http2;
    let world = World::new().proxy().cluster_of(cluster).http("app:80", forward("app"));
    let mut proxy = world.traced().start();
    let mut client = http2::connect(proxy.address(0)).await;
    let call =
        http::Request::post("http://app/shop.Payments/Charge").header("content-type", "application/grpc");
    let (answer, _) = client.send_request(call.body(()).unwrap(), true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    while let Some(data) = body.data().await {
        data.unwrap();
    }
    body.trailers().await.unwrap();
    let record = proxy.record().await;
    assert_eq!((record.protocol, record.status, record.grpc_status), (Protocol::Grpc, 200, Some(5)));
    let attempt = &record.attempts[0];
    assert_eq!((attempt.grpc_status, attempt.protocol), (Some(5), Some(Protocol::Http2)));
}

#[tokio::test]
async fn a_tunnel_of_opaque_bytes_has_one_span_and_its_endpoint() {
    let repeater = Application::repeater().await;
    let mut proxy = World::new()
        .proxy()
        .cluster("redis", &[repeater.address])
        .tcp("redis:6379", "redis")
        .traced()
        .start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("CONNECT redis:6379 HTTP/1.1\r\nHost: redis:6379\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    client.send("PING").await;
    client.finish().await;
    assert_eq!(client.rest().await, b"PING");
    let record = proxy.record().await;
    let trace = record.trace.unwrap();
    assert!(trace.sampled);
    let [attempt] = &record.attempts[..] else { panic!("{record:?}") };
    assert_eq!((attempt.endpoint, attempt.span), (Some(repeater.address), Some(trace.span)));
}

#[tokio::test]
async fn a_tunnel_that_carries_requests_has_no_span_of_its_own() {
    let application = Application::echo("app").await;
    let mut proxy = outbound(&[application.address]).traced().start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("CONNECT app:80 HTTP/1.1\r\nHost: app:80\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    assert_eq!(client.request("GET", "app", "/", &parent()).await.status, 200);
    let (tunnel, request) = (proxy.record().await, proxy.record().await);
    assert!(!tunnel.trace.unwrap().sampled && request.trace.unwrap().sampled);
    assert_eq!(request.attempts.len(), 1);
}
