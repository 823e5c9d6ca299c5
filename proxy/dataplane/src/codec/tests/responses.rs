//! What an HTTP/1 upstream may answer, when its connection is used again, and what another attempt may rely on.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::support::{Kept, get, read_for_a_while, run, upstream, whole};
use crate::codec::answer::{Answer, Payload};
use crate::codec::body::{Body, Frame, Source};
use crate::codec::client::{Exchange, Http1Connection};
use crate::codec::head::ResponseHead;
use crate::codec::limits::Limits;
use crate::socket::stream::Stream;

/// What a GET gets from an upstream that says `bytes` and closes: the head and body, and whether the connection was kept.
async fn get_from(method: Method, bytes: &[u8]) -> (Result<(ResponseHead, String), Failure>, bool) {
    let (connection, mut application, kept) = upstream();
    let mut head = get("/");
    head.method = method;
    let mut exchange = Exchange::from(connection.send(&head, Body::empty()));
    application.write_all(bytes).await.unwrap();
    let script = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        application.shutdown().await.unwrap();
    };
    let answered = async {
        match exchange.answer().await? {
            Answer::Final(head, Payload::Body(mut body)) => Ok((head, whole(&mut body).await?.0)),
            answer => panic!("{answer:?}"),
        }
    };
    let (answer, ()) = tokio::join!(answered, script);
    let kept = kept.0.borrow().len() == 1;
    (answer, kept)
}

#[test]
fn bodies_of_every_framing_are_read_and_only_sound_connections_are_kept() {
    let table: &[(&str, &[u8], &str, bool)] = &[
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab", true),
        ("GET", b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", "ab", true),
        ("GET", b"HTTP/1.1 200 OK\r\n\r\nab", "ab", false),
        ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", "ab", false),
        ("GET", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab", "ab", true),
        ("GET", b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab", "ab", false),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\n\r\n", "ab", false),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", "", true),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "", false),
        ("GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "", false),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "", true),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "", true),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "", true),
    ];
    for (method, bytes, body, kept) in table {
        let (answer, was_kept) = run(get_from(method.parse().unwrap(), bytes));
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(answer.map(|(_, body)| body).unwrap(), *body, "{shown}");
        assert_eq!(was_kept, *kept, "{shown}");
    }
}

#[test]
fn what_a_server_names_in_connection_changes_neither_framing_nor_meaning() {
    for (connection, framing, kept) in [
        ("Transfer-Encoding", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", true),
        ("transfer-encoding, close", "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", false),
        ("Keep-Alive, Trailer, TE, Upgrade, Proxy-Connection", "Content-Length: 2\r\n\r\nab", true),
        ("Content-Length", "Content-Length: 2\r\n\r\nab", true),
        ("Set-Cookie, X-Hop", "Content-Length: 2\r\n\r\nab", true),
        ("keep-alive; timeout=5", "Content-Length: 2\r\n\r\nab", false),
    ] {
        let fields = "Set-Cookie: a=b\r\nX-Hop: 1\r\nTrailer: x\r\nKeep-Alive: timeout=9\r\nUpgrade: TLS/1.2";
        let text = format!("HTTP/1.1 200 OK\r\nConnection: {connection}\r\n{fields}\r\n{framing}");
        let (answer, was_kept) = run(get_from(Method::GET, text.as_bytes()));
        let (head, body) = answer.unwrap();
        assert_eq!((body.as_str(), was_kept), ("ab", kept), "{connection}");
        assert_eq!(head.headers["set-cookie"], "a=b", "{connection}");
        assert_eq!(head.headers.contains_key("x-hop"), !connection.contains("X-Hop"), "{connection}");
        assert_eq!(head.headers.contains_key("trailer"), !connection.contains("Trailer"), "{connection}");
        for of_hop in ["connection", "transfer-encoding", "keep-alive", "upgrade"] {
            assert!(!head.headers.contains_key(of_hop), "{connection}: {of_hop}");
        }
    }
}

#[test]
fn what_is_malformed_is_an_error_and_nothing_is_handed_up() {
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
    let large = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(61 * 1024));
    let endless = "HTTP/1.1 102 Processing\r\n\r\n".repeat(17);
    for bytes in [
        &b"SSH-2.0-OpenSSH\r\n"[..],
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        many.as_bytes(),
        large.as_bytes(),
    ] {
        let (answer, kept) = run(get_from(Method::GET, bytes));
        let failure = answer.map(drop).unwrap_err();
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
        let reason = match [many.as_bytes(), large.as_bytes()].contains(&bytes) {
            true => Reason::UpstreamHeadersTooLarge,
            false => Reason::UpstreamProtocolError,
        };
        assert_eq!((failure.reason, failure.reached), (reason, Reached::Maybe), "{shown}");
        assert!(!kept, "{shown}");
    }
    run(async {
        let (connection, mut application, _) = upstream();
        application.write_all(endless.as_bytes()).await.unwrap();
        let mut exchange = Exchange::from(connection.send(&get("/"), Body::empty()));
        for _ in 0..16 {
            assert!(matches!(exchange.answer().await, Ok(Answer::Interim(_))));
        }
        assert_eq!(exchange.answer().await.unwrap_err().reason, Reason::UpstreamProtocolError);
    });
}

#[test]
fn a_101_to_another_protocol_than_was_offered_is_refused() {
    run(async {
        let (connection, mut application, _) = upstream();
        application
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n")
            .await
            .unwrap();
        let mut head = get("/");
        head.upgrade = Some(HeaderValue::from_static("websocket"));
        let mut exchange = Exchange::from(connection.send(&head, Body::empty()));
        assert_eq!(exchange.answer().await.unwrap_err().reason, Reason::UpstreamProtocolError);
    });
}

#[test]
fn a_body_that_stops_early_is_an_error_and_no_end() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n",
    ] {
        let (answer, kept) = run(get_from(Method::GET, bytes));
        let failure = answer.map(drop).unwrap_err();
        assert_eq!(
            (failure.reason, failure.reached),
            (Reason::UpstreamConnectionTermination, Reached::ResponseStarted)
        );
        assert!(!kept);
    }
}

#[test]
fn an_end_before_the_response_tells_that_the_request_may_have_been_processed() {
    let (answer, _) = run(get_from(Method::GET, b""));
    let failure = answer.map(drop).unwrap_err();
    assert_eq!((failure.reason, failure.reached), (Reason::UpstreamConnectionTermination, Reached::Maybe));
}

#[test]
fn a_connection_that_was_closed_before_anything_was_written_allows_another_try() {
    run(async {
        let (connection, application, _) = upstream();
        drop(application);
        let mut exchange = Exchange::from(connection.send(&get("/"), Body::empty()));
        assert_eq!(exchange.answer().await.unwrap_err().reached, Reached::NotWritten);
    });
}

#[test]
fn a_kept_connection_serves_again_and_says_when_it_cannot() {
    run(async {
        let (connection, mut application, kept) = upstream();
        let mut exchange = Exchange::from(connection.send(&get("/1"), Body::empty()));
        application
            .write_all(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        exchange.answer().await.unwrap();
        let connection = kept.0.borrow_mut().pop().unwrap();
        assert!(connection.is_open(Instant::now()));
        let mut exchange = Exchange::from(connection.send(&get("/2"), Body::empty()));
        application
            .write_all(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        exchange.answer().await.unwrap();
        let sent = read_for_a_while(&mut application).await;
        assert_eq!(sent, "GET /1 HTTP/1.1\r\nhost: cart:80\r\n\r\nGET /2 HTTP/1.1\r\nhost: cart:80\r\n\r\n");
        let connection = kept.0.borrow_mut().pop().unwrap();
        assert!(connection.is_open(Instant::now()));
        // The upstream closes after 5 s; a second before, the connection is not trusted.
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(!connection.is_open(Instant::now()));
    });
}

#[test]
fn an_idle_connection_that_is_closed_or_sends_unrequested_bytes_is_not_open() {
    for bytes in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
        run(async {
            let (connection, mut application, _) = upstream();
            assert!(connection.is_open(Instant::now()));
            application.write_all(bytes).await.unwrap();
            application.shutdown().await.unwrap();
            assert!(!connection.is_open(Instant::now()));
        });
    }
}

#[test]
fn a_body_is_held_back_until_the_upstream_wants_it() {
    async fn post() -> (Exchange, DuplexStream) {
        let (connection, application, _) = upstream();
        let mut head = get("/");
        head.method = Method::POST;
        head.headers.insert("expect", HeaderValue::from_static("100-continue"));
        (connection.send(&head, Body::full(Bytes::from_static(b"body"))).into(), application)
    }
    run(async {
        let (mut exchange, mut application) = post().await;
        let script = async {
            let text = read_some(&mut application).await;
            assert!(text.ends_with("expect: 100-continue\r\ncontent-length: 4\r\n\r\n"), "{text}");
            application.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            assert_eq!(read_some(&mut application).await, "body");
            application.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        };
        let answers = async {
            assert!(matches!(exchange.answer().await.unwrap(), Answer::Interim(head) if head.status == 100));
            assert!(matches!(exchange.answer().await.unwrap(), Answer::Final(head, _) if head.status == 200));
        };
        tokio::join!(script, answers);
    });
    run(async {
        // Some servers never say it: after a second the body is sent all the same.
        let (mut exchange, mut application) = post().await;
        let script = async {
            read_some(&mut application).await;
            assert_eq!(read_some(&mut application).await, "body");
            application.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        };
        let (answer, ()) = tokio::join!(exchange.answer(), script);
        assert!(matches!(answer.unwrap(), Answer::Final(head, _) if head.status == 204));
    });
}

#[test]
fn an_early_answer_is_read_and_ends_the_connection() {
    run(async {
        let (connection, mut application, kept) = upstream();
        let (_never, endless) = endless_body();
        let mut exchange = Exchange::from(connection.send(&get("/"), endless));
        application.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let Answer::Final(head, _) = exchange.answer().await.unwrap() else { panic!("no answer") };
        assert_eq!(head.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(kept.0.borrow().is_empty());
        let mut rest = Vec::new();
        application.read_to_end(&mut rest).await.unwrap();
    });
}

#[test]
fn dropping_a_response_before_its_end_closes_the_connection() {
    run(async {
        let (connection, mut application, kept) = upstream();
        let mut exchange = Exchange::from(connection.send(&get("/"), Body::empty()));
        application.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab").await.unwrap();
        drop(exchange.answer().await.unwrap());
        let mut rest = Vec::new();
        application.read_to_end(&mut rest).await.unwrap();
        assert!(kept.0.borrow().is_empty());
    });
}

async fn read_some(stream: &mut DuplexStream) -> String {
    let mut bytes = vec![0; 4096];
    let got = stream.read(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes[..got]).into_owned()
}

/// A body that never ends: of a POST whose client waits.
fn endless_body() -> (Http1Connection, Body) {
    struct Endless;
    impl Source for Endless {
        fn poll_frame(&self, _: u64, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
            Poll::Pending
        }
    }
    (upstream().0, Body::streamed(Rc::new(Endless), 0, None))
}

#[test]
fn requests_go_out_as_http_1_1_whatever_they_came_in() {
    run(async {
        let (connection, mut application, _) = upstream();
        let mut head = get("/");
        head.version = Version::HTTP_2;
        let mut exchange = Exchange::from(connection.send(&head, Body::empty()));
        application.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        exchange.answer().await.unwrap();
        assert!(read_some(&mut application).await.starts_with("GET / HTTP/1.1\r\n"));
    });
}

#[test]
fn an_idle_connection_that_the_kernel_knows_to_be_closed_is_not_open() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let kept = Rc::new(Kept::default());
        let connection = Http1Connection::new(Stream::Plain(dialled), Rc::new(Limits::default()), kept);
        assert!(connection.is_open(Instant::now()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(connection.is_open(Instant::now()));
        drop(accepted);
        // The runtime has not looked since; the kernel is asked.
        assert!(!connection.is_open(Instant::now()));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn however_bytes_are_split_the_response_is_the_same(cuts in prop::collection::vec(0_usize..120, 0..8)) {
        let bytes = b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;e=f\r\nabc\r\n0\r\nx: y\r\n\r\n";
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        run(async {
            let (connection, mut application, kept) = upstream();
            let script = async {
                for cut in cuts.windows(2) {
                    application.write_all(&bytes[cut[0]..cut[1]]).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let reading = async {
                let mut exchange = Exchange::from(connection.send(&get("/"), Body::empty()));
                assert!(matches!(exchange.answer().await.unwrap(), Answer::Interim(head) if head.headers["a"] == "b"));
                let Answer::Final(_, Payload::Body(mut body)) = exchange.answer().await.unwrap() else { panic!("no answer") };
                let (text, trailers) = whole(&mut body).await.unwrap();
                assert_eq!((text.as_str(), &trailers["x"]), ("abc", &HeaderValue::from_static("y")));
            };
            tokio::join!(script, reading);
            assert_eq!(kept.0.borrow().len(), 1);
        });
    }
}
