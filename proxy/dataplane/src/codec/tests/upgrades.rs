//! Which upgrades a client may ask for over HTTP/1.

use http::{HeaderValue, StatusCode};
use tokio::io::AsyncWriteExt;

use super::support::{read_for_a_while, run, serving};
use crate::codec::body::Body;
use crate::codec::head::ResponseHead;
use crate::codec::server::Protocol;

/// What the server takes for the protocol that these fields ask for.
fn asked(fields: &str) -> Option<String> {
    let request = format!("GET / HTTP/1.1\r\nHost: cart\r\n{fields}\r\n");
    let answer = run(async move {
        let mut served = serving(Protocol::Http1, |head, _, responder| async move {
            let mut answer = ResponseHead::new(StatusCode::OK);
            if let Some(protocol) = head.upgrade {
                answer.headers.insert("x-asked", protocol);
            } else {
                answer.headers.insert("x-asked", HeaderValue::from_static(""));
            }
            let _ = responder.respond(answer, Body::empty()).await;
        });
        served.client.write_all(request.as_bytes()).await.unwrap();
        read_for_a_while(&mut served.client).await
    });
    let protocol = answer.lines().find_map(|line| line.strip_prefix("x-asked: "));
    protocol.filter(|protocol| !protocol.is_empty()).map(str::to_owned)
}

#[test]
fn an_upgrade_is_requested_by_two_fields() {
    assert_eq!(asked("Connection: Upgrade\r\nUpgrade: websocket\r\n").as_deref(), Some("websocket"));
    assert_eq!(asked("Connection: x, upgrade\r\nUpgrade: SPDY/3.1\r\n").as_deref(), Some("SPDY/3.1"));
    assert_eq!(asked("Upgrade: websocket\r\n"), None);
}

#[test]
fn a_tunnel_of_requests_past_every_policy_is_not_offered_to_the_application() {
    for (upgrade, left) in [
        ("h2c", None),
        ("H2C", None),
        ("TLS/1.2", None),
        ("websocket, h2c", Some("websocket")),
        ("h2c,websocket", Some("websocket")),
        ("a,\th2c/1 , b", Some("a, b")),
        ("h2c\r\nUpgrade: websocket", Some("websocket")),
        ("websocket\r\nUpgrade: TLS/1.3, h2c", Some("websocket")),
    ] {
        let fields = format!("Connection: upgrade\r\nUpgrade: {upgrade}\r\n");
        assert_eq!(asked(&fields).as_deref(), left, "{upgrade}");
    }
}
