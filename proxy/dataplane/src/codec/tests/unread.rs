//! Streams of one HTTP/2 connection whose bytes are not read: none blocks another.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::frames::{DATA, END_HEADERS, HEADERS, POST, WINDOW_UPDATE, frame, frames, opening};
use super::support::{echo, get, http2_to, run, serving_within, whole};
use crate::codec::answer::{Answer, Payload};
use crate::codec::body::{Body, Frame, Source};
use crate::codec::client::{Exchange, Http2Connection};
use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::limits::Limits;
use crate::codec::server::{Protocol, Responder};
use crate::codec::upgrade::Upgraded;

const LARGE: usize = 512 * 1024;

/// Answers `/large` with a large body, and reads nothing of what is sent to `/still`.
pub(super) async fn answers(head: RequestHead, body: Body, responder: Responder) {
    match head.path.path() {
        "/large" => {
            let body = Body::full(Bytes::from(vec![b'x'; LARGE]));
            let _ = responder.respond(ResponseHead::new(StatusCode::OK), body).await;
        }
        "/watch" => {
            let body = Body::streamed(Rc::new(Quiet), 0, None);
            let _ = responder.respond(ResponseHead::new(StatusCode::OK), body).await;
        }
        "/chat" => {
            let mut tunnel = responder.upgrade(ResponseHead::new(StatusCode::OK)).await.unwrap().stream;
            let _ = tunnel.write_all(&[b'x'; LARGE]).await;
            std::future::pending::<()>().await;
        }
        "/still" => {
            std::future::pending::<()>().await;
            drop((body, responder));
        }
        _ => echo(head, body, responder).await,
    }
}

/// A body without news.
struct Quiet;

impl Source for Quiet {
    fn poll_frame(&self, _: u64, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        Poll::Pending
    }
}

async fn connected(limits: &Limits) -> Http2Connection {
    let mut served = serving_within(limits.clone(), Protocol::Http2, answers);
    let client = std::mem::replace(&mut served.client, duplex(1).0);
    // Dropping the drain would end the connection.
    spawn_local(async move { served.done.await.map(|_| drop(served.drain)) });
    http2_to(client, limits).await
}

pub(super) async fn body_of(exchange: &mut Exchange) -> Body {
    match exchange.answer().await.unwrap() {
        Answer::Final(_, Payload::Body(body)) => body,
        other => panic!("{other:?}"),
    }
}

pub(super) fn post(path: &'static str) -> RequestHead {
    RequestHead { method: Method::POST, ..get(path) }
}

fn large() -> Body {
    Body::full(Bytes::from(vec![b'x'; LARGE]))
}

#[test]
fn unread_downloads_block_no_other_stream() {
    run(async {
        let connection = connected(&Limits::default()).await;
        let mut unread = Vec::new();
        for _ in 0..50 {
            unread.push(body_of(&mut connection.send(&get("/large"), Body::empty())).await);
        }
        let mut other = connection.send(&get("/large"), Body::empty());
        let began = Instant::now();
        let (text, _) = whole(&mut body_of(&mut other).await).await.unwrap();
        assert_eq!((text.len(), began.elapsed().as_millis()), (LARGE, 0));
        assert!(!connection.is_crowded());
    });
}

#[test]
fn unread_uploads_block_no_other_stream() {
    run(async {
        let connection = connected(&Limits::default()).await;
        for _ in 0..50 {
            let mut exchange = connection.send(&post("/still"), large());
            spawn_local(async move { exchange.answer().await.map(drop) });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        let began = Instant::now();
        let (text, _) = whole(&mut body_of(&mut connection.send(&post("/"), large())).await).await.unwrap();
        assert_eq!((text.len() > LARGE, began.elapsed().as_millis()), (true, 0));
    });
}

#[test]
fn stalled_bodies_in_both_directions_delay_no_small_request() {
    run(async {
        let connection = connected(&Limits::default()).await;
        let mut stalled = Vec::new();
        for _ in 0..16 {
            stalled.push(body_of(&mut connection.send(&get("/large"), Body::empty())).await);
            let mut exchange = connection.send(&post("/still"), large());
            spawn_local(async move { exchange.answer().await.map(drop) });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        let began = Instant::now();
        for _ in 0..100 {
            let body = Body::full(Bytes::from_static(b"small"));
            let (text, _) = whole(&mut body_of(&mut connection.send(&post("/"), body)).await).await.unwrap();
            assert_eq!(text, "POST http://cart:80/ small");
        }
        assert_eq!(began.elapsed().as_millis(), 0);
        assert!(!connection.is_crowded() && connection.streams() == 32);
    });
}

/// Windows that four streams use up.
fn narrow() -> Limits {
    Limits { connection_window: 1024 * 1024, ..Limits::default() }
}

/// So many unread downloads, on a connection with a narrow window.
async fn unread_downloads(connection: &Http2Connection, count: usize) -> Vec<Body> {
    let mut unread = Vec::new();
    for _ in 0..count {
        unread.push(body_of(&mut connection.send(&get("/large"), Body::empty())).await);
    }
    unread
}

/// Reads all of them. How many had been given up.
async fn lost(unread: &mut [Body]) -> usize {
    let mut lost = 0;
    for body in unread {
        match whole(body).await {
            Ok((text, _)) => assert_eq!(text.len(), LARGE),
            Err(failure) => {
                assert_eq!(failure.reason, Reason::UpstreamOverflow, "{failure}");
                lost += 1;
            }
        }
    }
    lost
}

#[test]
fn where_unread_downloads_hold_the_whole_window_another_gets_on_and_nothing_is_lost() {
    run(async {
        let connection = connected(&narrow()).await;
        let mut unread = unread_downloads(&connection, 4).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(connection.is_crowded(), "another connection is better for new requests");
        let mut other = body_of(&mut connection.send(&get("/large"), Body::empty())).await;
        let got = timeout(Duration::from_secs(5), whole(&mut other)).await.expect("it gets on").unwrap();
        assert_eq!((got.0.len(), lost(&mut unread).await), (LARGE, 0));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!connection.is_crowded());
    });
}

#[test]
fn if_unread_downloads_fill_the_window_the_fullest_are_reset_for_others() {
    run(async {
        let connection = connected(&narrow()).await;
        let mut unread = unread_downloads(&connection, 5).await;
        // Nobody else is there: all of them keep what they have.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(connection.is_crowded());
        let mut other = body_of(&mut connection.send(&get("/large"), Body::empty())).await;
        let got = timeout(Duration::from_secs(5), whole(&mut other)).await.expect("it gets on").unwrap();
        assert_eq!(got.0.len(), LARGE);
        let lost = lost(&mut unread).await;
        assert!((1..=3).contains(&lost), "{lost} of 5");
    });
}

#[test]
fn where_others_need_no_window_unread_downloads_are_kept() {
    run(async {
        let connection = connected(&narrow()).await;
        // A watch without news, and a request that is not answered.
        let watch = body_of(&mut connection.send(&get("/watch"), Body::empty())).await;
        let mut waits = connection.send(&get("/still"), Body::empty());
        let waits = spawn_local(async move { waits.answer().await.map(drop) });
        let mut unread = unread_downloads(&connection, 4).await;
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert_eq!(lost(&mut unread).await, 0);
        assert!(!waits.is_finished());
        drop(watch);
    });
}

#[test]
fn where_unread_uploads_hold_the_whole_window_others_get_on_too() {
    run(async {
        let connection = connected(&narrow()).await;
        for _ in 0..8 {
            let mut exchange = connection.send(&post("/still"), large());
            spawn_local(async move { exchange.answer().await.map(drop) });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut other = connection.send(&post("/"), large());
        let body = timeout(Duration::from_secs(10), body_of(&mut other)).await.expect("it gets on");
        assert!(body.length() > Some(LARGE as u64));
    });
}

/// So many WebSockets through which a server sends, and whose client reads nothing.
async fn unread_websockets(connection: &Http2Connection, count: usize) -> Vec<(Exchange, Upgraded)> {
    let mut unread = Vec::new();
    for _ in 0..count {
        let mut head = RequestHead { upgrade: Some(HeaderValue::from_static("websocket")), ..get("/chat") };
        head.headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        let mut exchange = connection.send(&head, Body::empty());
        let Answer::Final(_, Payload::Tunnel(tunnel)) = exchange.answer().await.unwrap() else {
            panic!("no tunnel")
        };
        unread.push((exchange, tunnel));
    }
    unread
}

#[test]
fn where_unread_websockets_hold_the_whole_window_others_get_on() {
    for (count, most_lost) in [(4, 0), (6, 3)] {
        run(async {
            let connection = connected(&narrow()).await;
            let unread = unread_websockets(&connection, count).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            let mut other = body_of(&mut connection.send(&get("/large"), Body::empty())).await;
            let got = timeout(Duration::from_secs(5), whole(&mut other)).await.expect("it gets on").unwrap();
            assert_eq!(got.0.len(), LARGE);
            let mut lost = 0;
            for (_, mut tunnel) in unread {
                let mut read = vec![0; LARGE];
                lost += usize::from(tunnel.stream.read_exact(&mut read).await.is_err());
            }
            assert!(lost <= most_lost, "{lost} of {count}");
        });
    }
}

/// WebSockets whose client sends what the application does not read.
#[test]
fn where_the_bytes_of_unread_websockets_hold_a_servers_window_others_get_on() {
    run(async {
        let connection = connected(&narrow()).await;
        for (exchange, mut tunnel) in unread_websockets(&connection, 6).await {
            spawn_local(async move {
                let written = tunnel.stream.write_all(&[b'x'; LARGE]).await;
                drop(exchange);
                written
            });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut other = connection.send(&post("/"), large());
        let body = timeout(Duration::from_secs(10), body_of(&mut other)).await.expect("it gets on");
        assert!(body.length() > Some(LARGE as u64));
    });
}

#[test]
fn a_body_that_is_read_slowly_is_not_reset() {
    run(async {
        let connection = connected(&narrow()).await;
        let mut slow = Vec::new();
        for _ in 0..4 {
            slow.push(body_of(&mut connection.send(&get("/large"), Body::empty())).await);
        }
        let mut other = connection.send(&get("/large"), Body::empty());
        let other =
            spawn_local(async move { whole(&mut body_of(&mut other).await).await.map(|got| got.0.len()) });
        let mut read = 0;
        while !slow.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            for body in &mut slow {
                if let Some(frame) = body.frame().await {
                    frame.expect("it goes on");
                    read += 1;
                }
            }
            slow.retain(|body| !body.is_ended());
        }
        assert!(read > 4 * 10);
        assert_eq!(other.await.unwrap().unwrap(), LARGE);
    });
}

/// However many reads it takes, and though nothing else wakes the task of the connection.
#[test]
fn an_exhausted_window_is_noticed_without_anything_else_happening() {
    for pieces in 4..12_u32 {
        run(async {
            let window = pieces * 16 * 1024;
            let limits = Limits { connection_window: window, stream_window: window, ..Limits::default() };
            let mut served = serving_within(limits, Protocol::Http2, |_, body, _| async move {
                std::future::pending::<()>().await;
                drop(body);
            });
            let whole_window = frame(DATA, 0, 1, &[0; 16 * 1024]).repeat(pieces as usize);
            let bytes = opening(&[], &[frame(HEADERS, END_HEADERS, 1, POST), whole_window]);
            served.client.write_all(&bytes).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3)).await;
            let granted = frames(&mut served.client).await;
            let more = (WINDOW_UPDATE, 0, 0, window.to_be_bytes().to_vec());
            assert!(granted.contains(&more), "{pieces} pieces: {granted:?}");
        });
    }
}
