use super::*;
use crate::telemetry::access_log::entry::tests::record;

fn local() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap()
}

fn spans(record: &RequestRecord) -> Vec<SpanData> {
    let mut spans = Vec::new();
    spans_of(record, Some(&local()), &mut spans);
    spans
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key)?;
    Some(found.value.as_str().into_owned())
}

#[test]
fn the_server_span_is_a_child_of_the_clients_and_each_attempt_a_child_of_it() {
    let spans = spans(&record());
    let [server, first, second] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(server.span_kind, SpanKind::Server);
    assert_eq!((server.parent_span_id, server.parent_span_is_remote), (SpanId::from(0x1), true));
    for (attempt, id) in [(first, 0x20), (second, 0x25)] {
        assert_eq!(attempt.span_kind, SpanKind::Client);
        assert_eq!(attempt.span_context.span_id(), SpanId::from(id));
        assert_eq!((attempt.parent_span_id, attempt.parent_span_is_remote), (SpanId::from(0x10), false));
        assert_eq!(attempt.span_context.trace_id(), TraceId::from(0xabc));
    }
}

#[test]
fn a_first_span_has_no_parent() {
    let mut first = record();
    first.trace.as_mut().unwrap().parent = None;
    let server = &spans(&first)[0];
    assert_eq!((server.parent_span_id, server.parent_span_is_remote), (SpanId::INVALID, false));
}

#[test]
fn attributes_follow_the_http_conventions() {
    let spans = spans(&record());
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("url.path", "/items"),
        ("url.query", "q=1"),
        ("url.scheme", "http"),
        ("server.address", "cart.shop"),
        ("server.port", "80"),
        ("network.protocol.version", "1.1"),
        ("client.address", "127.0.0.1"),
        ("user_agent.original", "curl/8"),
        ("outrigger.source.spiffe_id", "spiffe://cluster.local/ns/shop/sa/web"),
        ("outrigger.destination.spiffe_id", "spiffe://cluster.local/ns/shop/sa/cart"),
        ("outrigger.instance", "cart-1"),
        ("outrigger.route", "httproute/shop/cart/0/0"),
    ] {
        assert_eq!(attribute(&spans[0], key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(spans[0].name, "GET cart.shop.svc.cluster.local:80");
    for (key, value) in [
        ("url.full", "http://cart.shop:80/items?q=1"),
        ("http.request.resend_count", "1"),
        ("network.peer.address", "10.0.0.5"),
        ("network.peer.port", "9080"),
    ] {
        assert_eq!(attribute(&spans[2], key).as_deref(), Some(value), "{key}");
    }
}

#[test]
fn a_failed_attempt_is_an_error_with_its_flag_and_the_request_is_not() {
    let spans = spans(&record());
    assert_eq!(spans[0].status, Status::Unset);
    assert_eq!(spans[1].status, Status::error("upstream_connection_failure"));
    assert_eq!(attribute(&spans[1], "outrigger.flag").as_deref(), Some("UF"));
    assert_eq!(attribute(&spans[1], "error.type").as_deref(), Some("upstream_connection_failure"));
    assert_eq!(attribute(&spans[1], "http.request.resend_count"), None);
    assert_eq!(spans[2].status, Status::Unset);
}

#[test]
fn grpc_follows_the_rpc_conventions() {
    let mut call = record();
    call.protocol = Protocol::Grpc;
    call.grpc_status = Some(5);
    call.attempts[1].grpc_status = Some(5);
    let text = call.text.as_mut().unwrap();
    (text.grpc, text.path) = (true, "/shop.Payments/Charge".into());
    let spans = spans(&call);
    for (key, value) in [
        ("rpc.system.name", "grpc"),
        ("rpc.system", "grpc"),
        ("rpc.method", "Charge"),
        ("rpc.service", "shop.Payments"),
        ("rpc.response.status_code", "NOT_FOUND"),
        ("rpc.grpc.status_code", "5"),
    ] {
        assert_eq!(attribute(&spans[0], key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(spans[0].name, "shop.Payments/Charge");
    assert_eq!(spans[0].status, Status::Unset, "NOT_FOUND is no error of the server");
    assert_eq!(spans[2].status, Status::error(""), "but it is one for the client");
}

#[test]
fn inbound_the_destination_is_this_workload() {
    let mut inbound = record();
    inbound.direction = Direction::Inbound;
    inbound.source = Some(SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/front").unwrap());
    let server = &spans(&inbound)[0];
    let id = |key| attribute(server, key).unwrap();
    assert_eq!(id("outrigger.source.spiffe_id"), "spiffe://cluster.local/ns/shop/sa/front");
    assert_eq!(id("outrigger.destination.spiffe_id"), local().as_str());
}

#[test]
fn an_unknown_method_is_other() {
    let mut odd = record();
    odd.text.as_mut().unwrap().method = "BREW".into();
    let server = &spans(&odd)[0];
    assert_eq!(attribute(server, "http.request.method").as_deref(), Some("_OTHER"));
    assert_eq!(attribute(server, "http.request.method_original").as_deref(), Some("BREW"));
    assert_eq!(server.name, "HTTP cart.shop.svc.cluster.local:80");
}

#[test]
fn what_is_not_sampled_makes_no_span() {
    let mut unsampled = record();
    unsampled.trace.as_mut().unwrap().sampled = false;
    assert!(spans(&unsampled).is_empty());
    unsampled.trace = None;
    assert!(spans(&unsampled).is_empty());
}
