//! HTTP/2 upstreams that break a rule, or say nothing, in frames made by hand.

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use outrigger_core::error::Reached;
use outrigger_core::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::frames::*;
use super::support::{Uncounted, get, http2_to, run, whole};
use crate::codec::answer::{Answer, Payload};
use crate::codec::body::Body;
use crate::codec::h2::client::ClientConnection;
use crate::codec::head::RequestHead;
use crate::codec::limits::Limits;
use crate::socket::stream::Stream;

/// A connection of ours to an upstream that says `frames`, and whether the upstream is asked for signs of life.
async fn to_upstream(frames: Vec<Vec<u8>>, asked: bool) -> (ClientConnection, DuplexStream) {
    let (ours, mut theirs) = duplex(256 * 1024);
    theirs.write_all(&[frame(SETTINGS, 0, 0, &[]), frames.concat()].concat()).await.unwrap();
    let usage = Rc::new(Uncounted);
    (ClientConnection::start_asking(Stream::Memory(ours), &Limits::default(), usage, asked), theirs)
}

/// What the proxy above asks of a connection when it is in doubt whether its host is there.
#[test]
fn a_peer_that_does_not_answer_a_ping_for_a_second_is_quiet_until_it_does() {
    for of_proxy in [true, false] {
        run(async {
            let (connection, mut upstream) = to_upstream(vec![], of_proxy).await;
            sleep(Duration::from_secs(5)).await;
            assert!(!connection.is_quiet(), "no PING was sent");
            connection.ask();
            connection.ask();
            sleep(Duration::from_millis(999)).await;
            assert!(!connection.is_quiet());
            sleep(Duration::from_millis(2)).await;
            assert!(connection.is_quiet() && connection.is_open());
            let mut preface = [0; 24];
            upstream.read_exact(&mut preface).await.unwrap();
            let asked = frames(&mut upstream).await;
            let pings: Vec<_> = asked.into_iter().filter(|(kind, ..)| *kind == PING).collect();
            assert_eq!(pings.len(), 1, "one question, though it was asked for twice");
            upstream.write_all(&frame(PING, ACK, 0, &pings[0].3)).await.unwrap();
            sleep(Duration::from_millis(2)).await;
            assert!(!connection.is_quiet(), "late is early enough");
        });
    }
}

#[test]
fn an_upstream_that_breaks_the_rules_of_answers_fails_its_request() {
    let status = |status: &[u8], flags| frame(HEADERS, END_HEADERS | flags, 1, &field(b":status", status));
    for (name, frames) in [
        ("a 101", vec![status(b"101", 0), status(b"200", END_STREAM)]),
        ("endless 1xx", vec![status(b"103", 0).repeat(20)]),
        (
            "a value with a space behind it",
            vec![frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &[field(b":status", b"200"), field(b"x", b"1 ")].concat(),
            )],
        ),
        (
            "an interim response with a tab before a value",
            vec![
                frame(HEADERS, END_HEADERS, 1, &[field(b":status", b"103"), field(b"x", b"\t1")].concat()),
                status(b"200", END_STREAM),
            ],
        ),
        (
            "trailers with a space before a value",
            vec![status(b"200", 0), frame(HEADERS, END_HEADERS | END_STREAM, 1, &field(b"x", b" 1"))],
        ),
        ("no status", vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, &field(b"x", b"1"))]),
        (
            "a body that is shorter than it says",
            vec![
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &[field(b":status", b"200"), field(b"content-length", b"9")].concat(),
                ),
                frame(DATA, END_STREAM, 1, b"ab"),
            ],
        ),
        (
            "a body that stops",
            vec![status(b"200", 0), frame(DATA, 0, 1, b"ab"), frame(RST_STREAM, 0, 1, &[0; 4])],
        ),
    ] {
        run(async {
            let (connection, mut upstream) = to_upstream(vec![], false).await;
            let mut exchange = connection.send(&get("/"), Body::empty());
            let script = async {
                sleep(Duration::from_millis(1)).await;
                upstream.write_all(&frames.concat()).await.unwrap();
            };
            let answered = async {
                loop {
                    match exchange.answer().await? {
                        Answer::Interim(head) => {
                            assert_ne!(head.status, StatusCode::SWITCHING_PROTOCOLS, "{name}")
                        }
                        Answer::Final(_, Payload::Body(mut body)) => break whole(&mut body).await,
                        Answer::Final(_, Payload::Tunnel(_)) => panic!("{name}: switched"),
                    }
                }
            };
            let (answered, ()) = tokio::join!(answered, script);
            let failure = answered.expect_err(name);
            assert!(
                matches!(failure.reason, Reason::UpstreamProtocolError | Reason::UpstreamRemoteReset),
                "{name}: {failure}"
            );
        });
    }
}

#[test]
fn a_vanished_peer_is_detected_by_ping() {
    for asked in [true, false] {
        run(async {
            let (connection, upstream) = to_upstream(vec![], asked).await;
            let mut exchange = connection.send(&get("/"), Body::empty());
            let began = Instant::now();
            let answer = tokio::time::timeout(Duration::from_secs(60), exchange.answer()).await;
            assert_eq!(answer.is_ok(), asked, "an application may take its time");
            if let Ok(answer) = answer {
                let failure = answer.map(drop).unwrap_err();
                assert_eq!(failure.reached, Reached::Maybe, "{failure}");
                assert!(began.elapsed() <= Duration::from_secs(20) && !connection.is_open());
            }
            drop(upstream);
        });
    }
}

#[test]
fn a_peer_that_answers_its_pings_may_take_as_long_as_it_likes() {
    run(async {
        let (connection, mut upstream) = to_upstream(vec![], true).await;
        let mut exchange = connection.send(&get("/"), Body::empty());
        let pongs = async {
            let mut preface = [0; 24];
            upstream.read_exact(&mut preface).await.unwrap();
            loop {
                let mut head = [0; 9];
                upstream.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
                upstream.read_exact(&mut payload).await.unwrap();
                if head[3] == PING {
                    upstream.write_all(&frame(PING, ACK, 0, &payload)).await.unwrap();
                }
            }
        };
        tokio::select! {
            answer = exchange.answer() => panic!("{answer:?}"),
            () = pongs => {}
            () = sleep(Duration::from_secs(600)) => {}
        }
        assert!(connection.is_open());
    });
}

#[test]
fn a_tunnel_that_is_shut_and_dropped_sends_its_last_bytes() {
    run(async {
        let (ours, mut theirs) = duplex(64 * 1024);
        let connection = http2_to(ours, &Limits::default()).await;
        let sent = spawn_local(async move {
            let mut head = get("/");
            head.upgrade = Some(HeaderValue::from_static("websocket"));
            head.headers.insert("sec-websocket-key", HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
            let mut exchange = connection.send(&head, Body::empty());
            let Ok(Answer::Final(_, Payload::Tunnel(mut tunnel))) = exchange.answer().await else { panic!() };
            tunnel.stream.write_all(b"last").await.unwrap();
            tunnel.stream.shutdown().await.unwrap();
        });
        theirs.read_exact(&mut [0; 24]).await.unwrap();
        // Extended CONNECT is served, and the windows of streams are closed.
        let settings = [[0, 8, 0, 0, 0, 1], [0, 4, 0, 0, 0, 0]].concat();
        theirs.write_all(&frame(SETTINGS, 0, 0, &settings)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let answer = [frame(HEADERS, END_HEADERS, 1, &[0x88]), frame(DATA, END_STREAM, 1, b"")].concat();
        theirs.write_all(&answer).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        theirs.write_all(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 100])).await.unwrap();
        sent.await.unwrap();
        let all = frames(&mut theirs).await;
        let data: Vec<_> = all.iter().filter(|(kind, ..)| *kind == DATA).collect();
        let payload: Vec<u8> = data.iter().flat_map(|(.., payload)| payload.clone()).collect();
        assert_eq!((&payload[..], data.last().unwrap().1), (&b"last"[..], END_STREAM), "{all:?}");
        assert!(all.iter().all(|(kind, ..)| *kind != RST_STREAM), "{all:?}");
    });
}

#[test]
fn a_request_that_fails_when_it_is_its_turn_leaves_it_to_the_next() {
    let mut handshake = get("/a");
    handshake.upgrade = Some(HeaderValue::from_static("websocket"));
    handshake.headers.insert("sec-websocket-key", HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
    let without_authority = RequestHead { authority: None, ..get("/a") };
    for failing in [handshake, without_authority] {
        run(async {
            let one_at_a_time = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]);
            let (connection, mut upstream) = to_upstream(vec![one_at_a_time], false).await;
            sleep(Duration::from_millis(1)).await;
            let ask = |head| {
                let mut exchange = connection.send(&head, Body::empty());
                spawn_local(async move { exchange.answer().await.map(drop) })
            };
            let (first, failing, last) = (ask(get("/first")), ask(failing), ask(get("/last")));
            sleep(Duration::from_millis(1)).await;
            let response = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88]);
            upstream.write_all(&response(1)).await.unwrap();
            assert!(first.await.unwrap().is_ok() && failing.await.unwrap().is_err());
            let mut preface = [0; 24];
            upstream.read_exact(&mut preface).await.unwrap();
            let opened = frames(&mut upstream).await;
            assert!(opened.iter().any(|(kind, _, stream, _)| (*kind, *stream) == (HEADERS, 3)), "{opened:?}");
            upstream.write_all(&response(3)).await.unwrap();
            assert!(last.await.unwrap().is_ok());
        });
    }
}
