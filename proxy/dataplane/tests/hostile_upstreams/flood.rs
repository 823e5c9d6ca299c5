//! Floods of what costs a server nothing, through a whole worker: the request ends with a clear error after a bounded number of frames,
//! and the requests to others go on meanwhile.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_config::route::{Forward, RouteAction};
use outrigger_policy::timeout::Timeouts;
use outrigger_proto::xds::protobuf;
use outrigger_test_support::application::{Application, Connection};
use outrigger_test_support::http1::ok;
use outrigger_test_support::wait::in_time;
use tokio::sync::oneshot;

use crate::row::{GET, LOST, MALFORMED, POST, ask, ask_of};
use crate::support::frames::*;
use crate::support::{Proxy, World, forward, to};

/// The stream of the request.
const STREAM: u32 = 1;
/// Frames that are sent before the application looks whether the connection still lives.
const AT_ONCE: usize = 500;
/// Far more than the limit on any kind of frame.
const MOST: usize = 40_000;
const FENCE: [u8; 8] = *b"a fence.";

/// A worker with `hostile` and another application. A request to `app` has `deadline`.
pub(crate) async fn beside(hostile: SocketAddr, deadline: Duration) -> (Proxy, Application) {
    let other = Application::http(|_| ok("other")).await;
    let wire = protobuf::Duration { seconds: 0, nanos: i32::try_from(deadline.as_nanos()).unwrap() };
    let timeouts = Timeouts::decode(Some(wire), None, None).unwrap();
    let once = RouteAction::Forward(Box::new(Forward { retry: None, timeouts, ..to("app") }));
    let proxy = World::new()
        .proxy()
        .cluster_of(http2("app", hostile))
        .http("app:80", once)
        .cluster("other", &[other.address])
        .http("other:80", forward("other"))
        .start();
    (proxy, other)
}

/// Asks the other application until `done`, and for the last answer after it. Panics at the first answer that is not whole.
/// Returns how many were whole before `done`.
pub(crate) async fn others<T>(proxy: &Proxy, done: impl Future<Output = T>) -> (T, usize) {
    let address = proxy.address(0);
    let (mut done, mut answers) = (std::pin::pin!(done), 0);
    loop {
        let mut asked =
            std::pin::pin!(async { in_time("another request", ask_of("other", address, GET)).await });
        tokio::select! {
            done = &mut done => {
                assert_eq!(asked.await, "200 whole");
                return (done, answers);
            }
            answer = &mut asked => assert_eq!(answer, "200 whole"),
        }
        answers += 1;
    }
}

/// A flood: what it consists of, and how it must end.
struct Flood {
    what: &'static str,
    request: &'static str,
    /// Sent before it.
    first: Vec<u8>,
    one: Vec<u8>,
    answer: &'static str,
    /// The most frames until the connection has ended.
    frames: usize,
}

/// Sends a flood on the first connection and returns how many frames were sent until it ended.
async fn send(mut connection: Connection, first: &[u8], one: &[u8]) -> usize {
    preface(&mut connection).await;
    connection.send(frame(SETTINGS, 0, 0, &[])).await.unwrap();
    next_request(&mut connection).await.unwrap();
    if connection.send(first).await.is_err() {
        return 0;
    }
    let mut sent = 0;
    while sent < MOST {
        let frames = [&one.repeat(AT_ONCE)[..], &frame(PING, 0, 0, &FENCE)].concat();
        if connection.send(frames).await.is_err() {
            return sent;
        }
        sent += AT_ONCE;
        loop {
            match next_frame(&mut connection).await {
                Some(frame) if (frame.kind, frame.flags, &frame.payload[..]) == (PING, ACK, &FENCE) => break,
                Some(_) => {}
                None => return sent,
            }
        }
    }
    sent
}

async fn run(flood: &Flood) -> (String, usize, usize) {
    let (ended, sent) = oneshot::channel();
    let turn = Arc::new(Mutex::new(Some((flood.first.clone(), flood.one.clone(), ended))));
    let application = Application::raw(move |connection| {
        let turn = turn.lock().unwrap().take();
        async move {
            if let Some((first, one, ended)) = turn {
                let _ = ended.send(send(connection, &first, &one).await);
            }
        }
    })
    .await;
    let (proxy, _other) = beside(application.address, Duration::from_millis(900)).await;
    let request = flood.request;
    let hostile = async { tokio::join!(ask(proxy.address(0), request), sent) };
    let ((answer, sent), others) = others(&proxy, hostile).await;
    (answer, sent.unwrap(), others)
}

#[tokio::test]
async fn floods_are_bounded_and_end_in_a_clear_error() {
    let head = |flags| frame(HEADERS, END_HEADERS | flags, STREAM, OK);
    let window = |stream, increment: u32| frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
    let flood = |what, request, first: &[u8], one, answer, frames| Flood {
        what,
        request,
        first: first.to_vec(),
        one,
        answer,
        frames,
    };
    // The limit on frames without effect, of which a tenth is restored per second: many seconds where tests share few cores.
    let idle = 25_000;
    let cut = "200 cut";
    let early = frame(HEADERS, END_HEADERS, STREAM, &field(":status", "103"));
    let begun = frame(HEADERS, 0, STREAM, OK);
    let part = |length| frame(CONTINUATION, 0, STREAM, &vec![0x88; length]);
    let reset = frame(RST_STREAM, 0, STREAM, &[0, 0, 0, 8]);
    let mut wrong = Vec::new();
    for flood in [
        flood("1xx", GET, &[], early, MALFORMED, idle),
        flood("SETTINGS", GET, &[], frame(SETTINGS, 0, 0, &[]), LOST, idle),
        flood("SETTINGS with a change", GET, &[], frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 9]), LOST, idle),
        flood("SETTINGS with ACK", GET, &[], frame(SETTINGS, ACK, 0, &[]), LOST, idle),
        flood("PING", GET, &[], frame(PING, 0, 0, &[0; 8]), LOST, idle),
        flood("PING with ACK", GET, &[], frame(PING, ACK, 0, &[0; 8]), LOST, idle),
        flood("empty DATA", GET, &head(0), frame(DATA, 0, STREAM, &[]), cut, idle),
        flood("DATA of padding", GET, &head(0), frame(DATA, PADDED, STREAM, &[0]), cut, idle),
        flood(
            "DATA on a stream that has ended",
            POST,
            &head(END_STREAM),
            frame(DATA, 0, STREAM, b""),
            "200 whole",
            idle,
        ),
        flood("empty CONTINUATION", GET, &begun, part(0), LOST, AT_ONCE),
        flood("CONTINUATION", GET, &begun, part(1000), LOST, AT_ONCE),
        flood("RST_STREAM", GET, &[], reset, "503 upstream_remote_reset", idle),
        flood("WINDOW_UPDATE of a stream by 0", GET, &[], window(STREAM, 0), MALFORMED, idle),
        flood("WINDOW_UPDATE by 0", GET, &[], window(0, 0), LOST, AT_ONCE),
        flood("WINDOW_UPDATE of a stream by 1", GET, &[], window(STREAM, 1), LOST, idle),
        flood("WINDOW_UPDATE by 1", GET, &[], window(0, 1), LOST, idle),
        flood("PRIORITY", GET, &[], frame(PRIORITY, 0, STREAM, &[0; 5]), LOST, idle),
        flood("GOAWAY", GET, &[], goaway(1, 0), LOST, idle),
        flood("an unknown type", GET, &[], frame(0xbb, 0, 0, &[]), LOST, idle),
    ] {
        let (answer, sent, others) = run(&flood).await;
        // A flood that ends with its first frames may end before the first answer to another.
        let least = if flood.frames > AT_ONCE { 2 } else { 0 };
        if answer != flood.answer || sent > flood.frames || others < least {
            let Flood { what, answer: expected, frames, .. } = flood;
            wrong.push(format!(
                "{what}: {answer:?} (not {expected:?}) after {sent} frames (not {frames}), {others} others"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
