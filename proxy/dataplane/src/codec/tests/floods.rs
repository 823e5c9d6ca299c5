//! What a hostile HTTP/2 client may send, in frames made by hand: each flood ends its connection or costs a bounded amount.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::frames::*;
use super::support::{echo, run, serving, serving_within};
use crate::codec::body::Body;
use crate::codec::head::ResponseHead;
use crate::codec::limits::Limits;
use crate::codec::server::Protocol;

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
    // It reads on for a while, lest what it said be lost.
    let ended = tokio::time::timeout(Duration::from_secs(15), served.done).await;
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
fn a_client_that_sends_requests_and_never_reads_is_not_read_further() {
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
fn a_client_that_sends_requests_and_reads_no_response_is_read_further_when_it_does() {
    run(async {
        let mut served = serving(Protocol::Http2, |_, _, responder| async {
            let _ = responder.respond(ResponseHead::new(StatusCode::OK), Body::empty()).await;
        });
        served.client.write_all(&opening(&[], &[])).await.unwrap();
        let (mut asked, mut taken) = (0, 0);
        let requests =
            |from: u32| (from..from + 200).map(|at| frame(HEADERS, 5, 1 + 2 * at, GET)).collect::<Vec<_>>();
        loop {
            let next = requests(asked).concat();
            let write = served.client.write_all(&next);
            // What is cut here is written below.
            if tokio::time::timeout(Duration::from_millis(100), write).await.is_err() {
                break;
            }
            asked += 200;
            taken += next.len();
            assert!(taken <= 2_000_000, "{taken} bytes and no end");
        }
        let answered: usize =
            frames(&mut served.client).await.iter().filter(|(kind, ..)| *kind == HEADERS).count();
        assert!(answered >= asked as usize, "{answered} of {asked}");
    });
}

#[test]
fn a_client_that_reads_the_answers_to_its_pings_is_read_further() {
    run(async {
        let mut served = serving(Protocol::Http2, echo);
        let get = frame(HEADERS, END_HEADERS | END_STREAM, 1, GET);
        let bytes = opening(&[], &[frame(PING, 0, 0, &[7; 8]).repeat(9000), get]);
        let (mut read, mut write) = tokio::io::split(&mut served.client);
        let mut answers = Vec::new();
        let reading = async {
            // The answers to PING, to SETTINGS and to the request.
            while answers.len() < 9000 * 17 + 100 {
                read.read_buf(&mut answers).await.unwrap();
            }
        };
        let both = async { tokio::join!(write.write_all(&bytes), reading).0.unwrap() };
        tokio::time::timeout(Duration::from_secs(5), both).await.expect("all is answered");
    });
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
        let failure = outcome.await.unwrap().unwrap_err();
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
