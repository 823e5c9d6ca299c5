//! What a hostile HTTP/2 peer may send, in frames made by hand: each flood ends its connection or costs a bounded amount.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::Instant;

use super::support::{echo, get, run, serving, serving_within, whole};
use crate::codec::answer::{Answer, Payload};
use crate::codec::body::Body;
use crate::codec::h2::client::Connection;
use crate::codec::head::ResponseHead;
use crate::codec::limits::Limits;
use crate::codec::server::Protocol;
use crate::codec::usage::Uncounted;
use crate::socket::stream::Stream;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// GET http://a/ as indexed fields and a literal authority.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];
/// POST http://a/ alike.
const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 1, b'a'];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The preface and SETTINGS of a client, and then `frames`.
fn opening(settings: &[u8], frames: &[Vec<u8>]) -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, settings), frames.concat()].concat()
}

/// A literal field that is not indexed.
fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
    [&[0, length(name)], name, &[length(value)], value].concat()
}

/// What became of a connection to a server whose handler never reads: its end, and how many requests came through.
async fn ends(bytes: Vec<u8>) -> (Option<Failure>, usize) {
    let seen = Rc::new(Cell::new(0));
    let count = seen.clone();
    let mut served = serving(Protocol::Http2, move |_, body, responder| {
        count.set(count.get() + 1);
        async move {
            std::future::pending::<()>().await;
            drop((body, responder));
        }
    });
    let sent = async {
        // Fails when the server has hung up, which is what is wanted; reads, so that answers are no brake.
        let (mut read, mut write) = tokio::io::split(&mut served.client);
        let mut thrown_away = vec![0; 64 * 1024];
        tokio::join!(async { drop(write.write_all(&bytes).await) }, async {
            while let Ok(Ok(1..)) =
                tokio::time::timeout(Duration::from_millis(100), read.read(&mut thrown_away)).await
            {
            }
        });
    };
    sent.await;
    let ended = tokio::time::timeout(Duration::from_secs(1), served.done).await;
    (ended.ok().and_then(|ended| ended.unwrap().err()), seen.get())
}

#[test]
fn floods_end_the_connection() {
    let open = frame(HEADERS, END_HEADERS, 1, POST);
    let fields = field(b"x", &[b'y'; 100]).repeat(100);
    let mut continuations = vec![frame(HEADERS, 0, 1, GET)];
    continuations.extend(std::iter::repeat_n(frame(CONTINUATION, 0, 1, &[]), 10_000));
    let mut bomb = vec![frame(HEADERS, 0, 1, GET)];
    bomb.extend(std::iter::repeat_n(frame(CONTINUATION, 0, 1, &fields), 100));
    let mut nothings = vec![open.clone()];
    nothings.extend(std::iter::repeat_n(frame(DATA, 0, 1, &[]), 100_000));
    let mut crumbs = vec![open.clone()];
    crumbs.extend(std::iter::repeat_n(frame(DATA, 0, 1, b"x"), 60_000));
    let mut resets = Vec::new();
    let mut errors = Vec::new();
    for stream in (1..4001_u32).step_by(2) {
        resets.push(frame(HEADERS, END_HEADERS | END_STREAM, stream, GET));
        resets.push(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        // A zero increment is an error of the stream (RFC 9113 section 6.9): we are made to send the reset.
        errors.push(frame(HEADERS, END_HEADERS, stream, POST));
        errors.push(frame(WINDOW_UPDATE, 0, stream, &[0; 4]));
    }
    for (name, frames) in [
        ("CONTINUATION without end", continuations),
        ("a header bomb over CONTINUATION", bomb),
        ("empty DATA", nothings),
        ("DATA of one byte", crumbs),
        ("rapid reset", resets),
        ("resets that we are made to send", errors),
        ("a window over 2^31", vec![open.clone(), frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])]),
        ("more than the window", vec![open, frame(DATA, 0, 1, &[0; 32 * 1024]).repeat(10)]),
        ("a frame that is too large", vec![frame(DATA, 0, 1, &[0; 40 * 1024])]),
        ("a SETTINGS value that is none", vec![frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])]),
        (
            "a stream number that goes back",
            vec![
                frame(HEADERS, END_HEADERS | END_STREAM, 5, GET),
                frame(HEADERS, END_HEADERS | END_STREAM, 3, GET),
            ],
        ),
        (
            "a compressed index that is none",
            vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0xff, 0xff])],
        ),
    ] {
        let (ended, seen) = run(ends(opening(&[], &frames)));
        let ended = ended.unwrap_or_else(|| panic!("{name}: goes on"));
        assert_eq!(ended.reason, Reason::DownstreamProtocolError, "{name}: {ended}");
        assert!(seen <= 256, "{name}: {seen} requests");
    }
}

#[test]
fn what_is_malformed_in_frames_alone_is_refused_and_not_handed_up() {
    let with = |extra: Vec<u8>| [GET.to_vec(), extra].concat();
    for (name, block) in [
        ("an upper-case name", with(field(b"X-Y", b"1"))),
        ("a name with a line end", with(field(b"x\r\ny", b"1"))),
        ("a value with a line end", with(field(b"x", b"1\r\nhost: evil"))),
        ("a value with NUL", with(field(b"x", b"1\0"))),
        ("connection", with(field(b"connection", b"close"))),
        ("transfer-encoding", with(field(b"transfer-encoding", b"chunked"))),
        ("upgrade", with(field(b"upgrade", b"websocket"))),
        ("te", with(field(b"te", b"gzip"))),
        ("two lengths", with([field(b"content-length", b"0"), field(b"content-length", b"1")].concat())),
        ("a signed length", with(field(b"content-length", b"+0"))),
        ("a pseudo-field behind fields", with([field(b"x", b"1"), field(b":path", b"/admin")].concat())),
        ("two paths", with(field(b":path", b"/admin"))),
        ("two authorities", with(field(b":authority", b"evil"))),
        ("a pseudo-field of responses", with(field(b":status", b"200"))),
        ("an unknown pseudo-field", with(field(b":x", b"1"))),
        ("no path", vec![0x82, 0x86, 0x41, 1, b'a']),
        ("an empty path", [&[0x82, 0x86, 0x41, 1, b'a'][..], &field(b":path", b"")].concat()),
        ("an absolute path", [&[0x82, 0x86, 0x41, 1, b'a'][..], &field(b":path", b"http://evil/")].concat()),
        (
            "a path with a space",
            [&[0x82, 0x86, 0x41, 1, b'a'][..], &field(b":path", b"/a HTTP/1.1")].concat(),
        ),
        ("the target * of a GET", [&[0x82, 0x86, 0x41, 1, b'a'][..], &field(b":path", b"*")].concat()),
        ("a query for a path", [&[0x82, 0x86, 0x41, 1, b'a'][..], &field(b":path", b"?a")].concat()),
        ("no authority", vec![0x82, 0x86, 0x84]),
        ("a method that is none", [&[0x86, 0x84, 0x41, 1, b'a'][..], &field(b":method", b"G T")].concat()),
    ] {
        run(async {
            let seen = Rc::new(Cell::new(0));
            let count = seen.clone();
            let mut served = serving(Protocol::Http2, move |head, body, responder| {
                count.set(count.get() + 1);
                echo(head, body, responder)
            });
            let bytes = opening(
                &[],
                &[
                    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block),
                    frame(HEADERS, END_HEADERS | END_STREAM, 3, GET),
                ],
            );
            served.client.write_all(&bytes).await.unwrap();
            let answers = frames(&mut served.client).await;
            let of = |stream| answers.iter().find(|(_, _, of, _)| *of == stream).map(|(kind, ..)| *kind);
            if answers.iter().any(|(kind, ..)| *kind == GOAWAY) {
                assert_eq!(seen.get(), 0, "{name}: {answers:?}");
            } else {
                // A reset, or an answer in the 400s by the codec; the other stream is served.
                assert!(matches!(of(1), Some(RST_STREAM | HEADERS)), "{name}: {answers:?}");
                assert_eq!((of(3), seen.get()), (Some(HEADERS), 1), "{name}: {answers:?}");
            }
        });
    }
}

/// The frames that come until nothing more does: kind, flags, stream, payload.
async fn frames(stream: &mut DuplexStream) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(500), stream.read_to_end(&mut bytes)).await;
    let (mut rest, mut frames) = (&bytes[..], Vec::new());
    while let [a, b, c, kind, flags, s0, s1, s2, s3, after @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let stream = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
        frames.push((*kind, *flags, stream, after[..length].to_vec()));
        rest = &after[length..];
    }
    frames
}

#[test]
fn a_client_that_asks_and_never_reads_is_not_read_any_further() {
    for asked in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[])] {
        run(async {
            let mut served = serving(Protocol::Http2, echo);
            served.client.write_all(&opening(&[], &[])).await.unwrap();
            // Each wants an answer, and nobody takes the answers: what the server takes in ends with what it may keep.
            let flood = asked.repeat(1_000_000 / asked.len());
            let mut taken = 0;
            while let Ok(Ok(())) =
                tokio::time::timeout(Duration::from_millis(100), served.client.write_all(&flood)).await
            {
                taken += flood.len();
                assert!(taken <= 4_000_000, "{taken} bytes and no end");
            }
        });
    }
}

#[test]
fn an_answer_that_no_window_lets_through_ends_in_time() {
    run(async {
        let (told, outcome) = tokio::sync::oneshot::channel();
        let told = Cell::new(Some(told));
        let mut served = serving(Protocol::Http2, move |_, _, responder| {
            let told = told.take().unwrap();
            async move {
                let body = Body::full(Bytes::from(vec![b'x'; 1024 * 1024]));
                told.send(responder.respond(ResponseHead::new(StatusCode::OK), body).await).unwrap();
            }
        });
        // SETTINGS_INITIAL_WINDOW_SIZE 0.
        let bytes = opening(&[0, 4, 0, 0, 0, 0], &[frame(HEADERS, END_HEADERS | END_STREAM, 1, GET)]);
        served.client.write_all(&bytes).await.unwrap();
        let began = Instant::now();
        let failure = outcome.await.unwrap().outcome.unwrap_err();
        assert!(failure.detail.contains("reads nothing"), "{failure}");
        assert_eq!(began.elapsed(), Limits::default().write_timeout);
        let answers = frames(&mut served.client).await;
        assert!(answers.iter().any(|(kind, _, stream, _)| (*kind, *stream) == (RST_STREAM, 1)));
    });
}

#[test]
fn a_slow_preface_and_a_slow_head_end_in_time() {
    for (bytes, seconds) in [
        (&b"PRI * HT"[..], 10..=20),
        (&opening(&[], &[])[..24], 10..=11),
        (&opening(&[], &[])[..30], 10..=11),
        (&opening(&[], &[frame(HEADERS, END_HEADERS | END_STREAM, 1, GET)])[..45], 10..=11),
        (&opening(&[], &[frame(HEADERS, 0, 1, GET)])[..], 10..=11),
    ] {
        run(async {
            let mut served = serving(Protocol::Detect, echo);
            served.client.write_all(bytes).await.unwrap();
            let began = Instant::now();
            let mut all = Vec::new();
            let _ =
                tokio::time::timeout(Duration::from_secs(3600), served.client.read_to_end(&mut all)).await;
            assert!(seconds.contains(&began.elapsed().as_secs()), "{:?} after {bytes:?}", began.elapsed());
        });
    }
}

#[test]
fn a_head_that_drips_ends_in_time_and_so_do_others_of_its_connection() {
    run(async {
        let mut served = serving(Protocol::Http2, |_, _, _| std::future::pending());
        let bytes = opening(
            &[],
            &[frame(HEADERS, END_HEADERS | END_STREAM, 1, GET), frame(HEADERS, END_STREAM, 3, GET)],
        );
        served.client.write_all(&bytes).await.unwrap();
        let began = Instant::now();
        // A byte a second; where one frame ends, the next begins.
        let drip = [frame(CONTINUATION, 0, 3, &[]), frame(CONTINUATION, 0, 3, &[b'x'; 100])].concat();
        for byte in drip {
            if served.client.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!((10..=12).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        assert_eq!(*served.refusals.borrow(), [Reason::DownstreamTimeout]);
    });
}

#[test]
fn heads_that_come_in_many_pieces_one_after_another_are_no_slow_head() {
    run(async {
        let mut served = serving(Protocol::Http2, echo);
        served.client.write_all(&opening(&[], &[])).await.unwrap();
        for stream in 0..30 {
            // Each begins with the end of the one before.
            let head = frame(HEADERS, END_HEADERS | END_STREAM, stream * 2 + 1, GET);
            served.client.write_all(&head[..head.len() - 1]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            served.client.write_all(&head[head.len() - 1..]).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let answers = frames(&mut served.client).await;
        let heads = answers.iter().filter(|(kind, _, stream, _)| *kind == HEADERS && *stream > 0).count();
        assert_eq!(heads, 30);
    });
}

/// A connection of ours to an upstream that says `frames`, and whether the upstream is asked for signs of life.
async fn to_upstream(frames: Vec<Vec<u8>>, asked: bool) -> (Connection, DuplexStream) {
    let (ours, mut theirs) = duplex(256 * 1024);
    theirs.write_all(&[frame(SETTINGS, 0, 0, &[]), frames.concat()].concat()).await.unwrap();
    let usage = Rc::new(Uncounted);
    (Connection::start_asking(Stream::Memory(ours), &Limits::default(), usage, asked).await.unwrap(), theirs)
}

/// What the proxy above asks of a connection when it is in doubt whether its host is there.
#[test]
fn a_peer_that_is_asked_and_says_nothing_for_a_second_is_quiet_until_it_speaks() {
    for of_proxy in [true, false] {
        run(async {
            let (connection, mut upstream) = to_upstream(vec![], of_proxy).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(!connection.is_quiet(), "nobody asked");
            connection.ask();
            connection.ask();
            tokio::time::sleep(Duration::from_millis(999)).await;
            assert!(!connection.is_quiet());
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert!(connection.is_quiet() && connection.is_open());
            let mut preface = [0; 24];
            upstream.read_exact(&mut preface).await.unwrap();
            let asked = frames(&mut upstream).await;
            let pings: Vec<_> = asked.into_iter().filter(|(kind, ..)| *kind == PING).collect();
            assert_eq!(pings.len(), 1, "one question, though it was asked for twice");
            upstream.write_all(&frame(PING, ACK, 0, &pings[0].3)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
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
            let mut exchange = connection.send(get("/"), Body::empty());
            let script = async {
                tokio::time::sleep(Duration::from_millis(1)).await;
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
fn a_peer_that_vanished_without_a_word_is_given_up_by_ping() {
    for asked in [true, false] {
        run(async {
            let (connection, upstream) = to_upstream(vec![], asked).await;
            let mut exchange = connection.send(get("/"), Body::empty());
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
        let mut exchange = connection.send(get("/"), Body::empty());
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
            () = tokio::time::sleep(Duration::from_secs(600)) => {}
        }
        assert!(connection.is_open());
    });
}

#[test]
fn fields_that_are_repeated_by_reference_take_no_more_than_a_multiple_of_what_was_sent() {
    run(async {
        let seen = Rc::new(Cell::new(0));
        let count = seen.clone();
        let limits = Limits { concurrent_streams: 2000, ..Limits::default() };
        let mut served = serving_within(limits, Protocol::Http2, move |_, body, responder| {
            count.set(count.get() + 1);
            async move {
                std::future::pending::<()>().await;
                drop((body, responder));
            }
        });
        // x with a value of 580 bytes, to be indexed; then 97 references to it in each head: 60 KB of 103 bytes.
        let get = &[0x82, 0x86, 0x84, 0x01, 1, b'a'][..];
        let field = [&[0x40, 1, b'x', 127, 0xc5, 0x03][..], &[b'v'; 580]].concat();
        let mut frames = vec![frame(HEADERS, END_HEADERS | END_STREAM, 1, &[get, &field].concat())];
        for stream in (3..2003_u32).step_by(2) {
            frames.push(frame(HEADERS, END_HEADERS | END_STREAM, stream, &[get, &[0xbe; 97]].concat()));
        }
        let mut bytes = &opening(&[], &frames)[..];
        let (mut read, mut write) = tokio::io::split(&mut served.client);
        let mut refused = vec![0; 1024 * 1024];
        let sent = async { write.write_all(std::mem::take(&mut bytes)).await.unwrap() };
        let _ = tokio::join!(
            sent,
            tokio::time::timeout(Duration::from_millis(100), read.read_exact(&mut refused))
        );
        let of_refused = served.refusals.borrow().len();
        assert!(of_refused > 800 && seen.get() > 100, "{of_refused} of 1001, {} served", seen.get());
        assert_eq!(of_refused + seen.get(), 1001);
        assert!(served.refusals.borrow().iter().all(|reason| *reason == Reason::HeadersTooLarge));
    });
}
