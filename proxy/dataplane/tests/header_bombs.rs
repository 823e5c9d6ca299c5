//! What field sections of a hostile server may hold in memory, that refer to the table for each of their fields (RFC 7541 section 6.1):
//! alone in its file, since the allocator counts for the whole process.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "support/counting.rs"]
mod counting;
mod support;

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::route::{Forward, RouteAction};
use outrigger_test_support::application::{Application, Connection};
use outrigger_test_support::http2;
use outrigger_test_support::wait::in_time;
use support::frames::*;
use support::{World, to};
use tokio::sync::{Notify, mpsc};

/// Requests at a time: as many as the cluster allows on a connection.
const REQUESTS: u32 = 100;
/// What a worker may hold for each byte of a field section, and regardless of how many there were.
const RATIO: i64 = 50;
const FREE: i64 = 8 * 1024 * 1024;

/// A field block that puts a field of these lengths into the table of the proxy's decoder, and refers to it `times` times.
fn bomb(name: usize, value: usize, times: usize) -> Vec<u8> {
    let length = |length: usize| match u8::try_from(length).unwrap_or(127) {
        short @ ..127 => vec![short],
        // An integer with a prefix of 7 bits (RFC 7541 section 5.1).
        _ => vec![127, 0x80 | ((length - 127) % 128) as u8, ((length - 127) / 128) as u8],
    };
    [&[0x40][..], &length(name), &vec![b'n'; name], &length(value), &vec![b'v'; value], &vec![0xbe; times]]
        .concat()
}

/// Reads [`REQUESTS`] requests, and sends `frames` for each once it may.
async fn play(
    mut connection: Connection,
    frames: impl Fn(u32) -> Vec<u8>,
    go: &Notify,
    sent: &mpsc::Sender<usize>,
) {
    preface(&mut connection).await;
    connection.send(frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..REQUESTS {
        streams.push(next_request(&mut connection).await.unwrap());
        connection.count_request();
    }
    go.notified().await;
    let bytes: Vec<u8> = streams.into_iter().flat_map(frames).collect();
    connection.send(&bytes).await.unwrap();
    sent.send(bytes.len()).await.unwrap();
    while next_frame(&mut connection).await.is_some() {}
}

/// Returns the bytes of such frames, and how many the worker held because of them at most.
async fn held(frames: impl Fn(u32) -> Vec<u8> + Clone + Send + Sync + 'static) -> (i64, i64) {
    let (go, (sent, mut bytes)) = (Arc::new(Notify::new()), mpsc::channel(1));
    let gone = Arc::clone(&go);
    let application = Application::raw(move |connection| {
        let (frames, go, sent) = (frames.clone(), Arc::clone(&gone), sent.clone());
        async move { play(connection, frames, &go, &sent).await }
    })
    .await;
    let action = RouteAction::Forward(Box::new(Forward { retry: None, ..to("app") }));
    let world = World::new().unlogged().proxy().cluster_of(http2("app", application.address));
    let proxy = world.http("app:80", action).start();
    let client = http2::connect(proxy.address(0)).await;
    let mut responses = Vec::new();
    for _ in 0..REQUESTS {
        let request = http::Request::get("http://app/").body(()).unwrap();
        let (response, _) = client.clone().ready().await.unwrap().send_request(request, true).unwrap();
        responses.push(tokio::spawn(response));
    }
    while application.requests() < REQUESTS as usize {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mark = counting::mark();
    go.notify_one();
    let bytes = in_time("the frames", bytes.recv()).await.unwrap();
    for response in responses {
        // Some are cut, and none waits without limit.
        let _ = in_time("a response", response).await.unwrap();
    }
    (i64::try_from(bytes).unwrap(), counting::growth(mark))
}

#[tokio::test]
async fn a_byte_of_a_field_section_holds_at_most_fifty() {
    counting::exclude_this_thread();
    let mut wrong = Vec::new();
    for (what, name, value, times) in
        [("short", 1, 0, 1900), ("middling", 10, 400, 130), ("long", 10, 4000, 14)]
    {
        let fields = bomb(name, value, times);
        let status = |status: &str| [field(":status", status), fields.clone()].concat();
        let (interim, last, trailers) = (status("103"), status("200"), fields.clone());
        let head = |stream, flags, block: &[u8]| frame(HEADERS, END_HEADERS | flags, stream, block);
        let (one, two, three) = (last.clone(), interim, trailers);
        for (kind, held) in [
            ("heads", held(move |stream| head(stream, END_STREAM, &one)).await),
            (
                "interim responses",
                held(move |stream| [head(stream, 0, &two).repeat(16), head(stream, END_STREAM, OK)].concat())
                    .await,
            ),
            (
                "trailers",
                held(move |stream| [head(stream, 0, OK), head(stream, END_STREAM, &three)].concat()).await,
            ),
        ] {
            let (bytes, held) = held;
            println!("{what} fields, {kind}: {held} bytes for {bytes}, {} each", held / bytes);
            if held > FREE + RATIO * bytes {
                wrong.push(format!("{what} fields, {kind}: {held} bytes for {bytes}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
