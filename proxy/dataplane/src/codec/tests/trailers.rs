//! What HTTP/2 may carry behind and around a message, and what the h2 crate would hide of it: nothing is lost in silence.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::frames::{POST, frame};
use super::support::{Served, echo, get, http2_to, run, serving, whole};
use crate::codec::answer::{Answer, Payload};
use crate::codec::body::Body;
use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::limits::Limits;
use crate::codec::server::{Protocol, Responder};

async fn stranger(served: &mut Served) -> h2::client::SendRequest<Bytes> {
    let client = std::mem::replace(&mut served.client, duplex(1).0);
    let (send, connection) = h2::client::handshake(client).await.unwrap();
    spawn_local(connection);
    send.ready().await.unwrap()
}

/// A field of so many bytes, of characters that take 5, 7 or 8 bits in Huffman's code.
fn field(character: char, length: usize) -> HeaderMap {
    let value = HeaderValue::try_from(character.to_string().repeat(length)).unwrap();
    HeaderMap::from_iter([(HeaderName::from_static("x-sum"), value)])
}

/// Large fields, and whether they may pass.
const FIELDS: [(char, usize, bool); 8] = [
    ('a', 33_000, true),
    ('v', 61_000, true),
    ('a', 61_440, false),
    ('v', 80_000, false),
    ('v', 130_000, false),
    ('a', 142_000, false),
    ('v', 150_000, false),
    ('&', 150_000, false),
];

#[test]
fn trailers_of_a_request_pass_whole_or_fail_it() {
    for (character, length, passes) in FIELDS {
        run(async {
            let mut served = serving(Protocol::Http2, echo);
            let mut client = stranger(&mut served).await;
            let request = Request::post("http://cart/").body(()).unwrap();
            let (response, mut stream) = client.send_request(request, false).unwrap();
            stream.send_data(Bytes::from_static(b"body"), false).unwrap();
            stream.send_trailers(field(character, length)).unwrap();
            let response = response.await.unwrap();
            if passes {
                assert_eq!(response.status(), 200, "{character} {length}");
                let said: usize =
                    response.headers()[header::CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
                assert!(said > length, "{character} {length}: {said}");
            } else {
                assert_eq!(response.status(), 431, "{character} {length}");
                assert_eq!(response.headers()["x-outrigger-reason"], "headers_too_large");
            }
        });
    }
}

#[test]
fn trailers_of_a_response_pass_whole_or_fail_it() {
    for (character, length, passes) in FIELDS {
        run(async {
            let (ours, application) = duplex(256 * 1024);
            spawn_local(async move {
                let mut server = h2::server::handshake(application).await.unwrap();
                while let Some(Ok((_, mut respond))) = server.accept().await {
                    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(b"body"), false).unwrap();
                    body.send_trailers(field(character, length)).unwrap();
                }
            });
            let connection = http2_to(ours, &Limits::default()).await;
            let Ok(Answer::Final(_, Payload::Body(mut body))) =
                connection.send(&get("/"), Body::empty()).answer().await
            else {
                panic!("no answer");
            };
            match whole(&mut body).await {
                Ok((_, trailers)) => {
                    assert!(passes && trailers == field(character, length), "{character} {length}");
                }
                Err(failure) => {
                    assert!(!passes, "{character} {length}: {failure}");
                    assert_eq!(failure.reason, Reason::UpstreamHeadersTooLarge);
                    assert!(failure.detail.contains("too large"), "{failure}");
                }
            }
            assert!(connection.is_open());
        });
    }
}

/// Frames of stream 1, one behind the other.
fn frames(frames: &[(u8, u8, &[u8])]) -> Vec<u8> {
    frames.iter().flat_map(|(kind, flags, payload)| frame(*kind, *flags, 1, payload)).collect()
}

#[test]
fn pseudo_fields_in_trailers_fail_the_message() {
    const PSEUDO: [&[u8]; 4] = [
        &[0x82],
        &[0x44, 2, b'/', b'x'],
        &[0x00, 7, b':', b's', b't', b'a', b't', b'u', b's', 3, b'2', b'0', b'0'],
        &[0x20, 0x82],
    ];
    for trailers in PSEUDO {
        run(async {
            let mut served = serving(Protocol::Http2, echo);
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
            // In one HEADERS frame, or beginning in its CONTINUATION.
            let split = [(1, 4, POST), (0, 0, b"body"), (1, 1, &[]), (9, 4, trailers)];
            let whole = [(1, 4, POST), (0, 0, b"body"), (1, 5, trailers)];
            bytes.extend(frames(if trailers.len() == 1 { &split } else { &whole }));
            served.client.write_all(&bytes).await.unwrap();
            let mut answer = vec![0; 4096];
            let mut read = 0;
            while let Ok(Ok(more @ 1..)) =
                tokio::time::timeout(Duration::from_millis(50), served.client.read(&mut answer[read..])).await
            {
                read += more;
            }
            // HEADERS of stream 1, which begin with the indexed :status 400.
            let bad_request = [0, 0, 0, 1, 0x8c];
            assert!(answer[..read].windows(5).any(|five| five == bad_request), "{trailers:x?}: {answer:x?}");
        });
        run(async {
            let (ours, mut application) = duplex(256 * 1024);
            application.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
            let connection = http2_to(ours, &Limits::default()).await;
            let mut exchange = connection.send(&get("/"), Body::empty());
            let said = async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let bytes = frames(&[(1, 4, &[0x88]), (0, 0, b"body"), (1, 5, trailers)]);
                application.write_all(&bytes).await.unwrap();
            };
            let (answer, ()) = tokio::join!(exchange.answer(), said);
            let Ok(Answer::Final(_, Payload::Body(mut body))) = answer else { panic!("{answer:?}") };
            let failure = whole(&mut body).await.unwrap_err();
            assert!(failure.detail.contains("pseudo-field"), "{trailers:x?}: {failure}");
        });
    }
}

#[test]
fn what_http_2_itself_refuses_is_recorded_like_anything_else() {
    run(async {
        let mut served = serving(Protocol::Http2, echo);
        let mut client = stranger(&mut served).await;
        let mut large = Request::get("http://cart/").body(()).unwrap();
        *large.headers_mut() = field('v', 150_000);
        let (response, _) = client.send_request(large, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 431);
        // A length without a body makes it malformed (RFC 9113 section 8.1.1).
        let request = Request::get("http://cart/").header("content-length", "1").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        assert!(response.await.unwrap_err().is_reset());
        let (response, _) =
            client.send_request(Request::get("http://cart/").body(()).unwrap(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), 200);
        assert_eq!(served.refusals.take(), [Reason::HeadersTooLarge, Reason::DownstreamProtocolError]);
    });
}

fn websocket() -> RequestHead {
    let mut head = RequestHead { upgrade: Some(HeaderValue::from_static("websocket")), ..get("/chat") };
    let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
    head.headers.insert(header::SEC_WEBSOCKET_KEY, key);
    head
}

#[test]
fn a_websocket_to_a_server_of_http_2_is_an_extended_connect() {
    run(async {
        let mut served = serving(Protocol::Http2, |head: RequestHead, _, responder: Responder| async move {
            assert_eq!(
                (head.method, head.path.path(), head.upgrade.unwrap()),
                (Method::GET, "/chat", "websocket".parse().unwrap())
            );
            let mut tunnel = responder.upgrade(ResponseHead::new(StatusCode::OK)).await.unwrap().stream;
            let mut said = [0; 4];
            tunnel.read_exact(&mut said).await.unwrap();
            tunnel.write_all(&said).await.unwrap();
            tunnel.shutdown().await.unwrap();
        });
        let client = std::mem::replace(&mut served.client, duplex(1).0);
        let connection = http2_to(client, &Limits::default()).await;
        let mut exchange = connection.send(&websocket(), Body::empty());
        let Answer::Final(head, Payload::Tunnel(mut tunnel)) = exchange.answer().await.unwrap() else {
            panic!("no tunnel")
        };
        assert_eq!(
            (head.status, head.upgrade.unwrap()),
            (StatusCode::SWITCHING_PROTOCOLS, HeaderValue::from_static("websocket"))
        );
        assert_eq!(head.headers[header::SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(connection.streams(), 1);
        tunnel.stream.write_all(b"ping").await.unwrap();
        let mut said = Vec::new();
        tunnel.stream.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"ping");
        drop((exchange, tunnel));
        assert_eq!(connection.streams(), 0);
    });
}

#[test]
fn what_is_no_handshake_of_a_websocket_is_a_normal_request_to_a_server_of_http_2() {
    run(async {
        let mut served = serving(Protocol::Http2, echo);
        let client = std::mem::replace(&mut served.client, duplex(1).0);
        let connection = http2_to(client, &Limits::default()).await;
        let mut without_key = websocket();
        without_key.headers.remove(header::SEC_WEBSOCKET_KEY);
        let hello = Body::full(Bytes::from_static(b"hello"));
        for (head, body, answer) in [
            (RequestHead { method: Method::POST, ..websocket() }, Body::empty(), "POST http://cart:80/chat "),
            (websocket(), hello, "GET http://cart:80/chat hello"),
            (without_key, Body::empty(), "GET http://cart:80/chat "),
        ] {
            match connection.send(&head, body).answer().await {
                Ok(Answer::Final(_, Payload::Body(mut body))) => {
                    assert_eq!(whole(&mut body).await.unwrap().0, answer)
                }
                other => panic!("{answer}: {other:?}"),
            }
        }
    });
}

#[test]
fn a_websocket_to_a_server_without_extended_connect_fails_with_the_reason() {
    run(async {
        let (ours, application) = duplex(256 * 1024);
        spawn_local(async move {
            let mut server = h2::server::handshake(application).await.unwrap();
            while let Some(Ok((_, mut respond))) = server.accept().await {
                respond.send_response(http::Response::new(()), true).unwrap();
            }
        });
        let connection = http2_to(ours, &Limits::default()).await;
        let failure = connection.send(&websocket(), Body::empty()).answer().await.unwrap_err();
        assert_eq!(failure.reason, Reason::UpgradeRefused);
        assert!(failure.detail.contains("extended CONNECT") && failure.never_processed(), "{failure}");
        let mut beside = connection.send(&get("/"), Body::empty());
        assert!(matches!(beside.answer().await, Ok(Answer::Final(..))));
    });
}

/// Takes one stream at a time, and answers the first when `gone` says so.
async fn crowded(application: DuplexStream, gone: oneshot::Receiver<()>) {
    let mut server = h2::server::Builder::new()
        .max_concurrent_streams(1)
        .handshake::<_, Bytes>(application)
        .await
        .unwrap();
    let (_, mut first) = server.accept().await.unwrap().unwrap();
    tokio::select! { _ = gone => {}, _ = server.accept() => panic!("a second stream") }
    first.send_response(http::Response::new(()), true).unwrap();
    while let Some(Ok((_, mut respond))) = server.accept().await {
        respond.send_response(http::Response::new(()), true).unwrap();
    }
}

/// A place in the queue that may be kept for so many seconds.
async fn kept(place: Rc<()>, seconds: u64) -> Failure {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    drop(place);
    Failure::upstream(Reason::UpstreamOverflow, Reached::NotWritten, "too long")
}

#[test]
fn a_request_that_waits_for_a_stream_keeps_its_queue_position_until_it_is_sent() {
    run(async {
        let (ours, application) = duplex(256 * 1024);
        let (go, gone) = oneshot::channel();
        spawn_local(crowded(application, gone));
        let connection = http2_to(ours, &Limits::default()).await;
        let place = Rc::new(());
        let mut first = connection.send(&get("/"), Body::empty());
        let _ = tokio::time::timeout(Duration::from_millis(10), first.answer()).await;
        let mut second = connection.send_queued(&get("/"), Body::empty(), kept(place.clone(), 3600));
        let _ = tokio::time::timeout(Duration::from_millis(10), second.answer()).await;
        assert_eq!(Rc::strong_count(&place), 2, "also without a body");
        let given_up = connection.send_queued(&get("/"), Body::empty(), kept(place.clone(), 1));
        drop(given_up);
        assert_eq!(Rc::strong_count(&place), 2);
        let mut late = connection.send_queued(&get("/"), Body::empty(), kept(place.clone(), 1));
        let waits = tokio::time::timeout(Duration::from_millis(900), late.answer()).await;
        assert!(waits.is_err() && Rc::strong_count(&place) == 3);
        let failure =
            tokio::time::timeout(Duration::from_millis(900), late.answer()).await.unwrap().unwrap_err();
        assert_eq!((failure.reason, failure.reached), (Reason::UpstreamOverflow, Reached::NotWritten));
        assert_eq!(Rc::strong_count(&place), 2);
        go.send(()).unwrap();
        let _ = first.answer().await.unwrap();
        let _ = second.answer().await.unwrap();
        assert_eq!(Rc::strong_count(&place), 1);
    });
}
