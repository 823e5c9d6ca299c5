//! One case: what the application sends, and what is expected of the proxy.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use outrigger_config::route::{Forward, RouteAction};
use outrigger_test_support::application::{Application, Connection};
use outrigger_test_support::client::Client;
use outrigger_test_support::wait::in_time;
use tokio::sync::oneshot;

use crate::support::frames::*;
use crate::support::{World, to};

/// The stream of the request that is tested, and of the other one.
pub(crate) const TESTED: u32 = 3;
const OTHER: u32 = 1;
const FENCE: [u8; 8] = *b"a fence.";

pub(crate) const GET: &str = "GET / HTTP/1.1\r\nConnection: close\r\n";
pub(crate) const HEAD: &str = "HEAD / HTTP/1.1\r\nConnection: close\r\n";
/// A request whose body is never complete.
pub(crate) const POST: &str = "POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: 9\r\n";

/// What the client gets when the whole connection is lost.
pub(crate) const LOST: &str = "503 upstream_connection_termination";
/// What the client gets when its own response breaks a rule.
pub(crate) const MALFORMED: &str = "502 upstream_protocol_error";

pub(crate) struct Row {
    section: &'static str,
    what: &'static str,
    request: &'static str,
    frames: Vec<u8>,
    /// The RST_STREAM and GOAWAY that our side must write.
    wire: &'static str,
    answer: &'static str,
}

pub(crate) fn row(
    section: &'static str,
    what: &'static str,
    request: &'static str,
    frames: &[Vec<u8>],
    wire: &'static str,
    answer: &'static str,
) -> Row {
    Row { section, what, request, frames: frames.concat(), wire, answer }
}

/// A head of a response on the tested stream, with these fields behind `:status: 200`.
pub(crate) fn head(flags: u8, fields: &[Vec<u8>]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, TESTED, &[OK.to_vec(), fields.concat()].concat())
}

/// DATA on the tested stream.
pub(crate) fn data(flags: u8, data: &[u8]) -> Vec<u8> {
    frame(DATA, flags, TESTED, data)
}

/// Runs the rows, and panics with all that went wrong.
pub(crate) async fn check(rows: Vec<Row>) {
    let mut wrong = Vec::new();
    for row in rows {
        let Row { section, what, request, frames, wire, answer } = row;
        let (got, other, seen) = run(request, frames).await;
        let expected = if wire.starts_with("GOAWAY") { LOST } else { "200 whole" };
        if (seen.as_str(), got.as_str(), other.as_str()) != (wire, answer, expected) {
            wrong.push(format!("{section}, {what}: we wrote {seen:?} (not {wire:?}), the client got {got:?} (not {answer:?}), the other one {other:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Returns what the clients of both requests get and what our side writes.
async fn run(request: &'static str, frames: Vec<u8>) -> (String, String, String) {
    let (answered, waits) = oneshot::channel();
    let (wrote, written) = oneshot::channel();
    let turn = Arc::new(Mutex::new(Some((frames, waits, wrote))));
    let application = Application::raw(move |connection| {
        let turn = Arc::clone(&turn);
        async move {
            let first = turn.lock().unwrap().take();
            if let Some((frames, waits, wrote)) = first {
                let _ = wrote.send(serve(connection, &frames, waits).await);
            }
        }
    })
    .await;
    let once = RouteAction::Forward(Box::new(Forward { retry: None, ..to("app") }));
    let proxy =
        World::new().proxy().cluster_of(http2("app", application.address)).http("app:80", once).start();
    let address = proxy.address(0);
    let other = tokio::spawn(ask(address, GET));
    while application.requests() == 0 {
        tokio::task::yield_now().await;
    }
    let got = ask(address, request).await;
    let _ = answered.send(());
    let other = other.await.unwrap();
    (got, other, in_time("the application", written).await.unwrap())
}

/// Sends a request. Returns the status, and the reason of the proxy or whether the response arrived whole.
pub(crate) async fn ask(address: SocketAddr, request: &str) -> String {
    ask_of("app", address, request).await
}

/// The same, of another host.
pub(crate) async fn ask_of(host: &str, address: SocketAddr, request: &str) -> String {
    let mut client = Client::connect(address).await;
    client.send(format!("{request}Host: {host}\r\n\r\n")).await;
    let response = String::from_utf8_lossy(&client.rest().await).into_owned();
    let Some((head, body)) =
        response.rsplit_once("HTTP/1.1 ").and_then(|(_, last)| last.split_once("\r\n\r\n"))
    else {
        return "nothing".into();
    };
    let field =
        |name: &str| head.lines().find_map(|line| line.to_lowercase().strip_prefix(name).map(str::to_owned));
    let status = &head[..3];
    if let Some(reason) = field("x-outrigger-reason: ") {
        return format!("{status} {reason}");
    }
    let whole = match field("content-length: ") {
        _ if request.starts_with("HEAD") || matches!(status, "204" | "304") => body.is_empty(),
        Some(length) => length.parse() == Ok(body.len()),
        None => body.ends_with("0\r\n\r\n"),
    };
    format!("{status} {}", if whole { "whole" } else { "cut" })
}

/// Plays the application, up to the end of the connection. Returns what our side wrote of interest.
async fn serve(mut connection: Connection, frames: &[u8], waits: oneshot::Receiver<()>) -> String {
    preface(&mut connection).await;
    let mut seen = Vec::new();
    // Some rows are what a server sends first.
    connection.send(frame(SETTINGS, 0, 0, &[])).await.unwrap();
    for _ in 0..2 {
        next_request(&mut connection).await.unwrap();
        connection.count_request();
    }
    let _ = connection.send(frames).await;
    let _ = fence(&mut connection, &mut seen).await;
    // What the request's task writes because of it comes before the answer to the next PING.
    let _ = waits.await;
    if fence(&mut connection, &mut seen).await.is_some() {
        let _ = connection.send(frame(HEADERS, WHOLE, OTHER, OK)).await;
    } else if seen.last().is_some_and(|last| last.starts_with("GOAWAY")) {
        assert!(next_frame(&mut connection).await.is_none(), "the connection is closed behind GOAWAY");
    }
    seen.join(", ")
}

/// Collects what our side writes until it answers a PING. Returns None if the connection ends instead.
async fn fence(connection: &mut Connection, seen: &mut Vec<String>) -> Option<()> {
    let _ = connection.send(frame(PING, 0, 0, &FENCE)).await;
    loop {
        let frame = next_frame(connection).await?;
        match (frame.kind, &frame.payload[..]) {
            (PING, payload) if frame.flags == ACK && payload == FENCE => return Some(()),
            (RST_STREAM, code) => seen.push(format!("RST {} {}", frame.stream, code_name(code))),
            (GOAWAY, payload) => seen.push(format!("GOAWAY {}", code_name(&payload[4..8]))),
            _ => {}
        }
    }
}
