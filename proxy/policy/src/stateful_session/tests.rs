use http::{HeaderMap, Method};
use outrigger_proto::xds::protobuf;
use outrigger_proto::xds::protobuf::Any;
use proptest::prelude::*;
use prost::Message;

use super::*;

const NOW: Duration = Duration::from_secs(1_800_000_000);

fn at(since_1970: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + since_1970
}

fn wire(type_url: &str, state: &impl Message) -> stateful_session::StatefulSession {
    let typed_config = Some(Any { type_url: type_url.into(), value: state.encode_to_vec() });
    let session_state = Some(core::TypedExtensionConfig { name: String::new(), typed_config });
    stateful_session::StatefulSession { session_state, ..Default::default() }
}

fn cookie(of: http_types::Cookie) -> stateful_session::StatefulSession {
    wire(type_url::COOKIE_SESSION, &cookie_session::CookieBasedSessionState { cookie: Some(of) })
}

fn header(name: &str) -> stateful_session::StatefulSession {
    wire(type_url::HEADER_SESSION, &header_session::HeaderBasedSessionState { name: name.into() })
}

fn named(ttl: i64, path: &str) -> http_types::Cookie {
    let ttl = Some(protobuf::Duration { seconds: ttl, nanos: 1 });
    http_types::Cookie { name: "at".into(), ttl, path: path.into(), attributes: Vec::new() }
}

fn decoded(wire: stateful_session::StatefulSession) -> StatefulSession {
    StatefulSession::decode(wire).unwrap().unwrap()
}

/// Returns the endpoint that the session of a request to `path` with this field is bound to; the outer `None` is no session.
fn pinned(
    of: &StatefulSession,
    path: &str,
    field: (&'static str, &str),
    now: Duration,
) -> Option<Option<String>> {
    let headers =
        HeaderMap::from_iter([(HeaderName::from_static(field.0), HeaderValue::try_from(field.1).unwrap())]);
    let head = Head { method: &Method::GET, scheme: "http", authority: "cart", path, headers: &headers };
    let session = of.of_request(&head, at(now))?;
    Some(session.pinned().map(|pinned| pinned.address.to_string()))
}

/// Returns the fields of the response to a request with this field, which an endpoint of `cart` has answered.
fn answered(of: &StatefulSession, field: (&'static str, &str), by: &str) -> HeaderMap {
    let headers =
        HeaderMap::from_iter([(HeaderName::from_static(field.0), HeaderValue::try_from(field.1).unwrap())]);
    let head = Head { method: &Method::GET, scheme: "http", authority: "cart", path: "/", headers: &headers };
    let mut changes = ResponseChanges::default();
    let session = of.of_request(&head, at(NOW)).unwrap();
    session.answered_by(by.parse().unwrap(), "cart", at(NOW), &mut changes);
    let mut response = HeaderMap::new();
    changes.apply(&mut response);
    response
}

#[test]
fn a_client_that_repeats_its_cookie_is_bound_to_the_endpoint_that_answered() {
    for address in ["10.0.0.1:80", "[fd00::1]:8080"] {
        for (ttl, attributes) in [(0, "; Path=/; HttpOnly"), (60, "; Max-Age=60; Path=/; HttpOnly")] {
            let of = decoded(cookie(named(ttl, "/")));
            let response = answered(&of, ("a", "b"), address);
            let line = response[SET_COOKIE].to_str().unwrap();
            let (pair, rest) = line.split_at(line.find("; ").unwrap());
            assert_eq!(rest, attributes);
            let sent = format!("a=b; {pair}");
            let field = ("cookie", &*sent);
            assert_eq!(pinned(&of, "/a?b", field, NOW), Some(Some(address.to_owned())));
            assert!(answered(&of, field, address).is_empty(), "the client has it already");
            let moved = answered(&of, field, "10.0.0.9:80");
            assert_ne!(moved[SET_COOKIE], line);
            let later =
                [60, 61].map(|after| pinned(&of, "/", field, NOW + Duration::from_secs(after)).unwrap());
            let expected = if ttl == 0 { Some(address.to_owned()) } else { None };
            assert_eq!(later, [Some(address.to_owned()), expected], "{ttl}");
        }
    }
}

#[test]
fn a_header_is_replaced_when_the_endpoint_changes() {
    let of = decoded(header("X-Session"));
    // As in the documentation of Envoy's message.
    let first = answered(&of, ("a", "b"), "1.2.3.4:80");
    assert_eq!(first["x-session"], "MS4yLjMuNDo4MA==");
    let field = ("x-session", "MS4yLjMuNDo4MA==");
    assert_eq!(pinned(&of, "/", field, NOW), Some(Some("1.2.3.4:80".into())));
    assert!(answered(&of, field, "1.2.3.4:80").is_empty());
    assert_eq!(answered(&of, field, "1.2.3.5:80")["x-session"], "MS4yLjMuNTo4MA==");
}

#[test]
fn the_cookies_of_envoy_are_read() {
    // Made by Envoy for 127.0.0.1:9001: the message with and without an expiry by the clock of its machine, and the older form.
    let of = decoded(cookie(named(60, "/")));
    let expiring = b"\x0a\x0e127.0.0.1:9001\x10\xe8\x07";
    let (expiring, plain, older) = (&expiring[..], &expiring[..16], &expiring[2..16]);
    for value in [expiring, plain, older] {
        use base64::Engine;
        let field = format!("at=\"{}\"", base64::engine::general_purpose::STANDARD.encode(value));
        assert_eq!(pinned(&of, "/", ("cookie", &field), NOW), Some(Some("127.0.0.1:9001".into())));
    }
}

#[test]
fn a_cookie_names_its_cluster_and_what_envoy_makes_does_not() {
    let of = decoded(cookie(named(0, "/")));
    let response = answered(&of, ("a", "b"), "10.0.0.1:80");
    let is_of = |value: &str, cluster: &str| {
        let headers = HeaderMap::from_iter([(http::header::COOKIE, HeaderValue::try_from(value).unwrap())]);
        let head = Head { method: &Method::GET, scheme: "http", authority: "", path: "/", headers: &headers };
        of.of_request(&head, at(NOW)).unwrap().is_of(cluster)
    };
    let line = response[SET_COOKIE].to_str().unwrap();
    assert_eq!((is_of(line, "cart"), is_of(line, "other")), (Some(true), Some(false)));
    assert_eq!(is_of("at=MS4yLjMuNDo4MA==", "cart"), None);
}

#[test]
fn a_request_outside_of_the_path_of_the_cookie_has_no_session() {
    for (path, request, has) in [
        ("", "/a", true),
        ("/", "/a", true),
        ("/a", "/a", true),
        ("/a", "/a?b", true),
        ("/a", "/a/b", true),
        ("/a", "/ab", false),
        ("/a/", "/a", false),
        ("/a/", "/a/b", true),
        ("/a", "/", false),
    ] {
        let of = decoded(cookie(named(0, path)));
        assert_eq!(pinned(&of, request, ("a", "b"), NOW).is_some(), has, "{path} {request}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_its_field() {
    let refused = |wire| StatefulSession::decode(wire).unwrap_err().field;
    let attributes = vec![http_types::CookieAttribute { name: "a=b".into(), value: String::new() }];
    for (wire, field) in [
        (cookie(http_types::Cookie { name: "a b".into(), ..named(0, "/") }), ".cookie.name"),
        (cookie(named(0, "/;b")), ".cookie.path"),
        (cookie(named(-1, "/")), ".cookie.ttl"),
        (cookie(http_types::Cookie { attributes, ..named(0, "/") }), ".cookie.attributes[0].name"),
        (header(""), ".name"),
        (header(":path"), ".name"),
        (header("Connection"), ".name"),
        (wire("type.googleapis.com/other", &()), ""),
    ] {
        assert_eq!(refused(wire), format!("session_state.typed_config{field}"));
    }
    let strict = stateful_session::StatefulSession {
        strict: true,
        status_on_strict_destination_not_found: 404,
        ..header("a")
    };
    assert_eq!(refused(strict), "status_on_strict_destination_not_found");
    let none = StatefulSession::decode(Default::default());
    assert!(none.unwrap().is_none());
    let of_route =
        |of| StatefulSession::decode_for_route(stateful_session::StatefulSessionPerRoute { r#override: of });
    assert!(of_route(Some(Override::Disabled(true))).unwrap().is_none());
    assert!(of_route(Some(Override::StatefulSession(header("a")))).unwrap().is_some());
    assert_eq!(of_route(Some(Override::Disabled(false))).unwrap_err().field, "disabled");
    assert_eq!(of_route(None).unwrap_err().field, "override");
    let within = of_route(Some(Override::StatefulSession(header("")))).unwrap_err().field;
    assert_eq!(within, "stateful_session.session_state.typed_config.name");
}

proptest! {
    #[test]
    fn any_value_is_read_without_a_panic(value in proptest::collection::vec(any::<u8>(), 0..400), encoded: bool) {
        use base64::Engine;
        let value = if encoded { base64::engine::general_purpose::STANDARD.encode(&value).into_bytes() } else { value };
        let (cookie, header) = (Token::of_cookie(&value), Token::of_header(&value));
        prop_assert!(header.is_none() || header == cookie);
    }

    #[test]
    fn what_is_written_is_read_again(ip: std::net::IpAddr, port: u16, cluster: u64, expires in 1_000_000_000..u64::MAX) {
        let address = SocketAddr::new(ip, port);
        let token = Token { address, cluster: Some(cluster), expires: Some(expires) };
        prop_assert_eq!(Token::of_cookie(token.for_cookie().as_bytes()), Some(token));
        let header = Token { address, cluster: None, expires: None };
        prop_assert_eq!(Token::of_header(token::for_header(address).as_bytes()), Some(header));
    }
}
