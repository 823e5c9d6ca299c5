//! HTTP/2 on both sides: our client against our server, and strangers against it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use outrigger_core::error::Reached;
use outrigger_core::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;

use super::support::{Served, echo, get, http2_to, run, serving, upstream, whole};
use crate::codec::answer::{Answer, Payload};
use crate::codec::body::Body;
use crate::codec::client::{Exchange, Http2Connection};
use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::limits::Limits;
use crate::codec::server::{Protocol, Responder};

/// A connection of ours to a server of ours.
async fn connected(served: &mut Served) -> Http2Connection {
    let (stand_in, _) = tokio::io::duplex(1);
    let client = std::mem::replace(&mut served.client, stand_in);
    http2_to(client, &Limits::default()).await
}

/// A connection of a stranger, by h2 itself, to a server of ours.
async fn stranger(served: &mut Served) -> h2::client::SendRequest<Bytes> {
    let (stand_in, _) = tokio::io::duplex(1);
    let client = std::mem::replace(&mut served.client, stand_in);
    let (send, connection) = h2::client::handshake(client).await.unwrap();
    spawn_local(async move {
        let _ = connection.await;
    });
    send.ready().await.unwrap()
}

async fn answer(exchange: &mut Exchange) -> (ResponseHead, Body) {
    match exchange.answer().await.unwrap() {
        Answer::Final(head, Payload::Body(body)) => (head, body),
        other => panic!("{other:?}"),
    }
}

fn post() -> RequestHead {
    RequestHead { method: Method::POST, ..get("/p?q") }
}

#[test]
fn many_requests_share_a_connection_and_give_their_streams_back() {
    run(async {
        let mut served = serving(Protocol::Detect, echo);
        let connection = connected(&mut served).await;
        let mut exchanges: Vec<Exchange> =
            (0..3).map(|_| connection.send(&post(), Body::full(Bytes::from_static(b"hello")))).collect();
        assert_eq!(connection.streams(), 3);
        for exchange in &mut exchanges {
            let (head, mut body) = answer(exchange).await;
            assert_eq!((head.status, body.length()), (StatusCode::OK, Some(29)));
            assert!(head.headers.contains_key("date"));
            assert_eq!(whole(&mut body).await.unwrap().0, "POST http://cart:80/p?q hello");
        }
        assert_eq!((connection.streams(), connection.capacity()), (0, 256));
    });
}

#[test]
fn a_large_body_passes_windows_far_smaller_than_itself() {
    run(async {
        let mut served = serving(Protocol::Http2, |_, body, responder| async {
            let _ = responder.respond(ResponseHead::new(StatusCode::OK), body).await;
        });
        let connection = connected(&mut served).await;
        let sent = Bytes::from(vec![b'x'; 5 * 1024 * 1024]);
        let mut exchange = connection.send(&post(), Body::full(sent.clone()));
        let (_, mut body) = answer(&mut exchange).await;
        assert_eq!(whole(&mut body).await.unwrap().0.len(), sent.len());
    });
}

#[test]
fn trailers_and_interim_heads_pass_from_http_1_to_http_2() {
    run(async {
        let (connection, mut application, _) = upstream();
        let connection = Cell::new(Some(connection));
        let mut served = serving(Protocol::Http2, move |head, body, mut responder: Responder| {
            let connection = connection.take().unwrap();
            async move {
                let mut exchange = Exchange::from(connection.send(&head, body));
                loop {
                    match exchange.answer().await.unwrap() {
                        Answer::Interim(head) => responder.interim(head).await.unwrap(),
                        Answer::Final(head, Payload::Body(body)) => {
                            break drop(responder.respond(head, body).await);
                        }
                        Answer::Final(_, Payload::Tunnel(_)) => panic!("a tunnel"),
                    }
                }
            }
        });
        application
            .write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\ngrpc-status: 0\r\n\r\n")
            .await
            .unwrap();
        let client = connected(&mut served).await;
        let mut exchange = client.send(&get("/"), Body::empty());
        let Answer::Interim(hints) = exchange.answer().await.unwrap() else { panic!("no hints") };
        assert_eq!((hints.status.as_u16(), &hints.headers["link"]), (103, &HeaderValue::from_static("</a>")));
        let (_, mut body) = answer(&mut exchange).await;
        let (text, trailers) = whole(&mut body).await.unwrap();
        assert_eq!((text.as_str(), &trailers["grpc-status"]), ("a", &HeaderValue::from_static("0")));
    });
}

#[test]
fn a_refused_stream_says_that_another_try_is_safe() {
    run(async {
        let mut served = serving(Protocol::Http2, |_, _, responder| async {
            responder.refuse().unwrap();
        });
        let connection = connected(&mut served).await;
        let failure = connection.send(&post(), Body::empty()).answer().await.unwrap_err();
        assert_eq!((failure.reason, failure.reached), (Reason::UpstreamRemoteReset, Reached::NotProcessed));
    });
}

#[test]
fn drain_sends_goaway_finishes_running_requests_and_accepts_no_new_ones() {
    run(async {
        let mut served = serving(Protocol::Http2, |head, body, responder| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            echo(head, body, responder).await;
        });
        let connection = connected(&mut served).await;
        let mut exchange = connection.send(&get("/"), Body::empty());
        let requests = async {
            let (head, _) = answer(&mut exchange).await;
            assert_eq!(head.status, StatusCode::OK);
            assert!(!connection.is_open() && connection.capacity() == 0);
            let failure = connection.send(&get("/"), Body::empty()).answer().await.unwrap_err();
            assert_eq!(failure.reached, Reached::NotWritten);
        };
        let drain = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            served.drain.drain(Duration::from_secs(9)).await
        };
        tokio::join!(requests, drain);
        assert!(served.done.await.unwrap().is_ok());
    });
}

#[test]
fn a_connection_that_breaks_fails_its_requests_as_maybe_processed() {
    run(async {
        let mut served = serving(Protocol::Http2, |_, _, responder| async {
            std::future::pending::<()>().await;
            drop(responder);
        });
        let connection = connected(&mut served).await;
        let mut exchange = connection.send(&get("/"), Body::empty());
        let broken = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            served.done.abort();
        };
        let (answer, ()) = tokio::join!(exchange.answer(), broken);
        let failure = answer.map(drop).unwrap_err();
        assert_eq!(
            (failure.reason, failure.reached),
            (Reason::UpstreamConnectionTermination, Reached::Maybe)
        );
        assert!(!connection.is_open());
    });
}

#[test]
fn a_handler_is_dropped_when_its_client_resets_the_stream() {
    struct Told(Rc<Cell<bool>>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    run(async {
        let dropped = Rc::new(Cell::new(false));
        let tell = dropped.clone();
        let mut served = serving(Protocol::Http2, move |_, _, responder| {
            let told = Told(tell.clone());
            async move {
                std::future::pending::<()>().await;
                drop((told, responder));
            }
        });
        let connection = connected(&mut served).await;
        let mut exchange = connection.send(&get("/"), Body::empty());
        assert!(tokio::time::timeout(Duration::from_millis(5), exchange.answer()).await.is_err());
        assert!(!dropped.get());
        drop(exchange);
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(dropped.get());
        assert!(connection.is_open());
    });
}

#[test]
fn a_body_that_fails_resets_the_stream_and_not_the_connection() {
    run(async {
        let (upstream, mut application, _) = upstream();
        let upstream = Cell::new(Some(upstream));
        let mut served = serving(Protocol::Http2, move |head: RequestHead, body, responder: Responder| {
            let upstream = upstream.take();
            async move {
                let Some(upstream) = upstream else { return echo(head, body, responder).await };
                let mut exchange = Exchange::from(upstream.send(&head, body));
                let (head, body) = answer(&mut exchange).await;
                let delivery = responder.respond(head, body).await;
                assert_eq!(delivery.unwrap_err().reason, Reason::UpstreamConnectionTermination);
            }
        });
        application.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab").await.unwrap();
        let connection = connected(&mut served).await;
        let mut exchange = connection.send(&get("/"), Body::empty());
        let (_, mut body) = answer(&mut exchange).await;
        application.shutdown().await.unwrap();
        let failure = whole(&mut body).await.unwrap_err();
        assert_eq!(
            (failure.reason, failure.reached),
            (Reason::UpstreamRemoteReset, Reached::ResponseStarted)
        );
        let (head, _) = answer(&mut connection.send(&get("/"), Body::empty())).await;
        assert_eq!(head.status, StatusCode::OK);
    });
}

#[test]
fn what_breaks_a_rule_is_refused_and_nothing_is_handed_up() {
    fn request(edit: impl FnOnce(&mut HeaderMap)) -> Request<()> {
        let mut request = Request::get("http://cart/").body(()).unwrap();
        edit(request.headers_mut());
        request
    }
    let table: Vec<(Request<()>, u16)> = vec![
        (request(|headers| drop(headers.insert(header::HOST, HeaderValue::from_static("evil")))), 400),
        (Request::get("http://u@cart/").body(()).unwrap(), 400),
        (Request::get("http://cart/a%00").body(()).unwrap(), 400),
        (Request::get(format!("http://cart/{}", "x".repeat(9000))).body(()).unwrap(), 414),
        (
            request(|headers| {
                for _ in 0..101 {
                    headers.append("a", HeaderValue::from_static("b"));
                }
            }),
            431,
        ),
        (
            request(|headers| drop(headers.insert("a", HeaderValue::from_str(&"b".repeat(61_440)).unwrap()))),
            431,
        ),
    ];
    for (request, status) in table {
        run(async move {
            let seen = Rc::new(Cell::new(0));
            let count = seen.clone();
            let mut served = serving(Protocol::Http2, move |head, body, responder| {
                count.set(count.get() + 1);
                echo(head, body, responder)
            });
            let mut client = stranger(&mut served).await;
            let shown = format!("{:.80}", request.uri());
            let (response, _) = client.send_request(request, true).unwrap();
            assert_eq!(response.await.unwrap().status().as_u16(), status, "{shown}");
            assert_eq!(seen.get(), 0, "{shown}");
        });
    }
}

#[test]
fn a_path_is_normalized_to_one_form() {
    run(async {
        let mut served = serving(Protocol::Http2, |head: RequestHead, _, responder: Responder| async move {
            assert_eq!(head.path, "/admin?q=/..");
            let _ = responder.respond(ResponseHead::new(StatusCode::NO_CONTENT), Body::empty()).await;
        });
        let mut client = stranger(&mut served).await;
        let request = Request::get("http://cart/a/%2E%2e/%61dmin?q=/..").body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::NO_CONTENT);
    });
}

#[test]
fn cookies_are_joined_and_te_is_cut_down() {
    run(async {
        let mut served = serving(Protocol::Http2, |head: RequestHead, _, responder: Responder| async move {
            assert_eq!(head.headers["cookie"], "a=1; b=2");
            assert!(head.accepts_trailers() && !head.headers.contains_key("host"));
            let _ = responder.respond(ResponseHead::new(StatusCode::NO_CONTENT), Body::empty()).await;
        });
        let mut client = stranger(&mut served).await;
        let request = Request::get("http://cart/")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("host", "cart:80")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::NO_CONTENT);
    });
}

#[test]
fn a_client_that_resets_what_it_begins_is_sent_away() {
    run(async {
        let mut served = serving(Protocol::Http2, echo);
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        for stream in (1..4001_u32).step_by(2) {
            // HEADERS: GET http://a/ by indexed fields and a literal authority; then RST_STREAM(CANCEL).
            bytes.extend_from_slice(&[0, 0, 6, 1, 5]);
            bytes.extend_from_slice(&stream.to_be_bytes());
            bytes.extend_from_slice(&[0x82, 0x86, 0x84, 0x41, 1, b'a']);
            bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
            bytes.extend_from_slice(&stream.to_be_bytes());
            bytes.extend_from_slice(&[0, 0, 0, 8]);
        }
        served.client.write_all(&bytes).await.unwrap();
        let failure = served.done.await.unwrap().unwrap_err();
        assert_eq!(failure.reason, Reason::DownstreamProtocolError, "{failure}");
    });
}

#[test]
fn the_version_is_detected_however_its_bytes_are_split() {
    for bytes in
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], b"POST / HTTP/1.1\r\nHost: a\r\n\r\n"]
    {
        run(async {
            let mut served = serving(Protocol::Detect, echo);
            for byte in bytes {
                served.client.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let mut first = [0; 5];
            served.client.read_exact(&mut first).await.unwrap();
            assert_eq!(&first == b"HTTP/", bytes[0] == b'P' && bytes[1] == b'O', "{first:?}");
        });
    }
}

#[test]
fn an_interim_response_announces_no_length() {
    run(async {
        let mut served = serving(Protocol::Http2, |_, _, mut responder: Responder| async move {
            let mut hints = ResponseHead::new(StatusCode::EARLY_HINTS);
            hints.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
            responder.interim(hints).await.unwrap();
            let _ = responder.respond(ResponseHead::new(StatusCode::NO_CONTENT), Body::empty()).await;
        });
        let mut client = stranger(&mut served).await;
        let (mut response, _) =
            client.send_request(Request::get("http://cart/").body(()).unwrap(), true).unwrap();
        let hints = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!((hints.status(), hints.headers().len()), (StatusCode::EARLY_HINTS, 0));
    });
}
