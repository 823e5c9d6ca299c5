//! A server and a client joined, as a proxy joins them: what comes in on one side goes out on the other.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use outrigger_core::drain::Drain;
use outrigger_core::error::{Failure, Reached, Side};
use outrigger_core::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::{get, handler, http2_to, read_for_a_while, run, serving, upstream};
use crate::codec::answer::{Answer, Payload};
use crate::codec::body::{Body, Frame, Source};
use crate::codec::client::Exchange;
use crate::codec::limits::Limits;
use crate::codec::server::{Protocol, serve};
use crate::socket::stream::Stream;

#[test]
fn a_body_of_unknown_length_streams_both_ways_through_both_sides() {
    run(async {
        let (connection, mut application, kept) = upstream();
        let connection = RefCell::new(Some(connection));
        let mut served = serving(Protocol::Http1, move |mut head, body, responder| {
            let connection = connection.take().unwrap();
            async move {
                head.headers.insert("x-added", HeaderValue::from_static("1"));
                let mut exchange = Exchange::from(connection.send(&head, body));
                let Answer::Final(head, Payload::Body(body)) = exchange.answer().await.unwrap() else {
                    panic!("an interim")
                };
                let delivery = responder.respond(head, body).await;
                assert!(delivery.is_ok(), "{delivery:?}");
            }
        });
        served.client.write_all(b"POST /x HTTP/1.1\r\nHost: cart\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n").await.unwrap();
        let text = read_for_a_while(&mut application).await;
        assert!(
            text.starts_with("POST /x HTTP/1.1\r\nhost: cart\r\nte: trailers\r\nx-added: 1\r\n"),
            "{text}"
        );
        assert!(text.ends_with("2\r\nab\r\n"), "{text}");
        application
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ncd\r\n")
            .await
            .unwrap();
        assert!(read_for_a_while(&mut served.client).await.ends_with("2\r\ncd\r\n"));
        served.client.write_all(b"1\r\nz\r\n0\r\nx-t: 1\r\n\r\n").await.unwrap();
        assert!(read_for_a_while(&mut application).await.ends_with("1\r\nz\r\n0\r\nx-t: 1\r\n\r\n"));
        application.write_all(b"2\r\nef\r\n0\r\nx-u: 2\r\n\r\n").await.unwrap();
        assert!(read_for_a_while(&mut served.client).await.ends_with("2\r\nef\r\n0\r\nx-u: 2\r\n\r\n"));
        assert_eq!(kept.0.borrow().len(), 1);
    });
}

#[test]
fn an_upgrade_hands_over_both_connections_with_what_was_read() {
    run(async {
        let (connection, mut application, _) = upstream();
        let mut head = get("/ws");
        head.upgrade = Some(HeaderValue::from_static("websocket"));
        let mut exchange = Exchange::from(connection.send(&head, Body::empty()));
        let answered = async {
            application
                .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\nhi")
                .await
                .unwrap();
        };
        let (answer, ()) = tokio::join!(exchange.answer(), answered);
        let Answer::Final(head, Payload::Tunnel(upstream)) = answer.unwrap() else { panic!("no tunnel") };
        assert_eq!((head.status, upstream.read.as_ref()), (StatusCode::SWITCHING_PROTOCOLS, &b"hi"[..]));

        let mut served = serving(Protocol::Http1, move |asked, _, responder| {
            assert_eq!(asked.upgrade.unwrap(), "websocket");
            let head = head.clone();
            async move {
                let mut upgraded = responder.upgrade(head).await.unwrap();
                assert_eq!(upgraded.read.as_ref(), b"early");
                upgraded.stream.write_all(b"raw").await.unwrap();
            }
        });
        served
            .client
            .write_all(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
            .await
            .unwrap();
        let text = read_for_a_while(&mut served.client).await;
        assert!(
            text.starts_with("HTTP/1.1 101 ") && text.ends_with("upgrade: WebSocket\r\n\r\nraw"),
            "{text}"
        );
    });
}

#[test]
fn an_answer_that_is_cut_off_reaches_an_old_client_as_a_reset_and_never_as_an_end() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let (connection, mut application, _) = upstream();
        application.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab").await.unwrap();
        let connection = Cell::new(Some(connection));
        let handler = handler(move |head, body, responder| {
            let connection = connection.take().unwrap();
            async move {
                let mut exchange = Exchange::from(connection.send(&head, body));
                let Answer::Final(head, Payload::Body(mut body)) = exchange.answer().await.unwrap() else {
                    panic!("an interim")
                };
                // Without a length, only the end of the connection could end it.
                let pieces = body.frame().await.unwrap().unwrap();
                let rest =
                    Body::streamed(Rc::new(Pieces(RefCell::new(vec![pieces]), RefCell::new(body))), 0, None);
                assert!(responder.respond(head, rest).await.is_err());
            }
        });
        let drain = Drain::new();
        let serving = serve(
            Stream::Plain(accepted),
            Bytes::new(),
            Protocol::Http1,
            Rc::new(Limits::default()),
            drain.guard(),
            &handler,
        );
        let reading = async {
            client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
            let mut text = vec![0; 1024];
            let got = client.read(&mut text).await.unwrap();
            assert!(String::from_utf8_lossy(&text[..got]).ends_with("\r\n\r\nab"));
            application.shutdown().await.unwrap();
            assert_eq!(client.read(&mut text).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        };
        let (served, ()) = tokio::join!(serving, reading);
        assert!(served.is_ok());
    });
}

/// Some frames, then those of a body.
struct Pieces(RefCell<Vec<Frame>>, RefCell<Body>);

impl Source for Pieces {
    fn poll_frame(&self, _: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        match self.0.borrow_mut().pop() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => self.1.borrow_mut().poll_frame(cx),
        }
    }
}

/// Some bytes, then the client is gone.
struct Broken(Cell<bool>);

impl Source for Broken {
    fn poll_frame(&self, _: u64, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        Poll::Ready(Some(if self.0.replace(true) {
            Err(Failure::downstream(Reason::DownstreamConnectionTermination, "gone"))
        } else {
            Ok(Frame::Data(Bytes::from(vec![b'x'; 100_000])))
        }))
    }
}

#[test]
fn a_request_whose_body_fails_halfway_may_have_been_processed() {
    run(async {
        let body = || Body::streamed(Rc::new(Broken(Cell::new(false))), 0, None);
        let (connection, _application, _) = upstream();
        let failure = Exchange::from(connection.send(&get("/"), body())).answer().await.unwrap_err();
        assert_eq!((failure.side, failure.reached), (Side::Downstream, Reached::Maybe));

        let served = serving(Protocol::Http2, |_, _, responder| async {
            std::future::pending::<()>().await;
            drop(responder);
        });
        let connection = http2_to(served.client, &Limits::default()).await;
        let failure = connection.send(&get("/"), body()).answer().await.unwrap_err();
        assert_eq!((failure.side, failure.reached), (Side::Downstream, Reached::Maybe));
    });
}
