//! What costs the peer nothing is bounded; what a starved peer does is not an attack.

use std::io::IoSlice;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use http::Method;

use super::support::*;
use crate::codec::h2::connection::{Config, Incoming, Refusal};
use crate::codec::h2::frame::Code;
use crate::codec::limits::ResetLimits;

#[test]
fn floods_end_the_connection() {
    let open = frame(HEADERS, END_HEADERS, 1, POST);
    for (name, one) in [
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("PING with ACK", frame(PING, 1, 0, &[0; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("SETTINGS with ACK", frame(SETTINGS, 1, 0, &[])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0; 5])),
        ("an unknown type", frame(0xbb, 0, 1, &[])),
        ("WINDOW_UPDATE by one", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("empty DATA", frame(DATA, 0, 1, &[])),
        ("DATA of padding", frame(DATA, 0x8, 1, &[0])),
        ("PRIORITY_UPDATE", frame(16, 0, 0, &[0, 0, 0, 1])),
    ] {
        let mut server = Tested::server(config());
        server.send(&open);
        let mut sent = 0;
        while server.end() == "open" && sent < 20_000 {
            server.send(&one);
            server.written();
            sent += 1;
        }
        assert!((9_900..=10_001).contains(&sent), "{name}: {sent}");
        assert!(server.end().contains("ENHANCE_YOUR_CALM"), "{name}");
        // At a lower rate, they may go on.
        let mut server = Tested::server(config());
        server.send(&open);
        for _ in 0..11_000 {
            server.now += Duration::from_millis(2);
            server.send(&one);
            server.written();
        }
        assert_eq!(server.end(), "open", "{name}");
    }
}

#[test]
fn tiny_unread_data_is_bounded() {
    let mut server = Tested::server(config());
    server.send(&frame(HEADERS, END_HEADERS, 1, POST));
    server.send(&frame(DATA, 0, 1, b"x").repeat(40_000));
    assert_eq!(
        (server.written(), server.end()),
        (vec!["RST 1 ENHANCE_YOUR_CALM".to_owned()], "open".to_owned())
    );
}

#[test]
fn tiny_data_of_a_reader_that_lags_behind_is_not_counted_for_ever() {
    let mut server = Tested::server(config());
    server.send(&frame(HEADERS, END_HEADERS, 1, POST));
    let key = server.request();
    let message = [frame(DATA, 0, 1, &[0; 1100]), frame(DATA, 0, 1, b"x")].concat();
    server.send(&message);
    for _ in 0..40_000 {
        server.send(&message);
        assert_eq!((server.receive(key), server.receive(key)), ("data 1100".to_owned(), "data 1".to_owned()));
        server.bytes();
    }
    assert_eq!(server.end(), "open");
}

#[test]
fn answers_that_the_peer_does_not_take_stop_the_reading() {
    let mut server = Tested::server(config());
    assert!(server.connection.may_read());
    for _ in 0..2 {
        server.send(&frame(PING, 0, 0, &[0; 8]).repeat(8_000));
        server.now += Duration::from_secs(10);
    }
    assert!(!server.connection.may_read() && server.end() == "open");
    server.written();
    assert!(server.connection.may_read());
}

#[test]
fn responses_that_the_client_does_not_read_stop_the_reading() {
    let mut server = Tested::server(config());
    let mut streams = (1..100_000).step_by(2);
    while server.connection.may_read() {
        server.send(&frame(HEADERS, WHOLE, streams.next().expect("an end"), GET));
        let key = server.request();
        respond(&mut server.connection, key, true).unwrap();
        server.connection.release(key);
    }
    // The rest of a frame is not outstanding while nothing is read, and then has all its time.
    server.send(&frame(PING, 0, 0, &[0; 8])[..5]);
    assert_eq!(server.connection.owed_since(), None);
    server.now += Duration::from_secs(100);
    assert!((256 * 1024..257 * 1024).contains(&server.bytes().len()));
    assert!(server.connection.may_read());
    assert_eq!(server.connection.owed_since(), Some(server.now));
}

/// A download keeps the output from ever being empty; what is read of it contains the answers.
#[test]
fn answers_that_the_client_reads_within_a_download_hold_back_nothing() {
    let mut server = Tested::server(config());
    server.send(&frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
    server.send(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0, 0, 0]));
    server.send(&frame(HEADERS, WHOLE, 1, GET));
    let key = server.request();
    respond(&mut server.connection, key, false).unwrap();
    server.connection.send_data(key, data(64 * 1024 * 1024), true).unwrap();
    for _ in 0..8000 {
        server.send(&frame(PING, 0, 0, &[0; 8]));
        let mut slices = [IoSlice::new(&[]); 8];
        let used = server.connection.transmit(&mut slices, server.now);
        let bytes = slices[..used].iter().map(|slice| slice.len()).sum::<usize>();
        assert!(bytes > 1000, "the download goes on");
        server.connection.transmitted(1000);
        assert!(server.connection.may_read());
    }
}

#[test]
fn requests_wait_for_a_server_that_does_not_read() {
    let mut client = Tested::client(&[]);
    let mut ticket = 0;
    let mut opened = 0;
    while client.connection.poll_open(&mut ticket, &noop()).is_ready() {
        client.open(&Method::GET, true);
        opened += 1;
        assert!(opened < 100_000, "no end");
    }
    // The answers to others are read all the same.
    assert!(client.connection.may_read());
    let woken = Arc::new(Woken::default());
    let waker = Arc::clone(&woken).into();
    assert!(client.connection.poll_open(&mut ticket, &Context::from_waker(&waker)).is_pending());
    client.bytes();
    assert!(woken.is_woken());
    assert!(client.connection.poll_open(&mut ticket, &noop()).is_ready());
}

/// Requests that are accepted and then reset, each within `age`; of every `answered`th, the response comes before the reset.
fn resets_of_accepted_requests(resets: ResetLimits, age: Duration, answered: u32) -> String {
    let mut server = Tested::server(Config { resets, ..config() });
    for at in 0..3000 {
        let stream = 1 + 2 * at;
        server.send(&frame(HEADERS, WHOLE, stream, GET));
        let key = server.request();
        server.now += age;
        if at % answered == 1 {
            respond(&mut server.connection, key, false).unwrap();
        }
        server.send(&frame(RST_STREAM, 0, stream, &reset(Code::CANCEL)));
        if server.end() != "open" {
            break;
        }
        server.connection.release(key);
        server.bytes();
    }
    server.end()
}

#[test]
fn requests_that_are_cancelled_right_after_they_were_accepted_end_the_connection_of_a_stranger() {
    let (stranger, soon) = (ResetLimits::STRANGER, Duration::from_millis(1));
    assert!(resets_of_accepted_requests(stranger, soon, u32::MAX).contains("ENHANCE_YOUR_CALM"));
    assert_eq!(resets_of_accepted_requests(ResetLimits::MEMBER, soon, u32::MAX), "open");
    // Timeouts, and requests that are sent twice.
    assert_eq!(resets_of_accepted_requests(stranger, Duration::from_millis(100), u32::MAX), "open");
    assert_eq!(resets_of_accepted_requests(stranger, soon, 2), "open");
}

#[test]
fn streams_that_are_reset_while_the_connection_s_window_is_closed_leave_nothing_behind() {
    let mut server = Tested::server(Config { resets: ResetLimits::MEMBER, ..config() });
    for stream in (1..20_000).step_by(2) {
        server.send(&frame(HEADERS, WHOLE, stream, GET));
        let key = server.request();
        respond(&mut server.connection, key, false).unwrap();
        // More than the window in the first one.
        server.connection.send_data(key, data(if stream == 1 { 70_000 } else { 1 }), true).unwrap();
        server.send(&frame(RST_STREAM, 0, stream, &reset(Code::CANCEL)));
        server.connection.release(key);
        server.bytes();
    }
    assert!(server.connection.schedule.len() < 100, "{}", server.connection.schedule.len());
}

/// A request and its cancellation, for so many streams at once.
fn cancelled(from: u32, count: u32) -> Vec<u8> {
    let cancel = reset(Code::CANCEL);
    (0..count)
        .flat_map(|at| {
            let stream = from + 2 * at;
            [frame(HEADERS, WHOLE, stream, GET), frame(RST_STREAM, 0, stream, &cancel)].concat()
        })
        .collect()
}

#[test]
fn requests_that_are_cancelled_unseen_end_the_connection_of_a_stranger_and_not_of_a_member() {
    for (resets, ends) in [(ResetLimits::STRANGER, true), (ResetLimits::MEMBER, false)] {
        let mut server = Tested::server(Config { resets, ..config() });
        server.send(&cancelled(1, 1000));
        assert_eq!(server.end(), "open");
        let unseen = |incoming: &Incoming| matches!(incoming, Incoming::Refused(Refusal::ResetUnseen));
        // A few were accepted just before their reset came.
        assert!(server.accepted().iter().filter(|incoming| unseen(incoming)).count() > 980);
        server.send(&cancelled(2001, 5000));
        assert_eq!(server.end().contains("ENHANCE_YOUR_CALM"), ends, "{}", server.end());
    }
}

#[test]
fn errors_of_streams_end_the_connection_of_a_stranger_in_the_end() {
    for (resets, ends) in [(ResetLimits::STRANGER, true), (ResetLimits::MEMBER, false)] {
        let mut server = Tested::server(Config { resets, ..config() });
        for stream in (1..4001).step_by(2) {
            server.send(&frame(HEADERS, END_HEADERS, stream, POST));
            server.send(&frame(WINDOW_UPDATE, 0, stream, &[0; 4]));
            for incoming in server.accepted() {
                if let Incoming::Request { key, .. } = incoming {
                    server.connection.release(key);
                }
            }
            server.written();
        }
        assert_eq!(server.end().contains("ENHANCE_YOUR_CALM"), ends, "{}", server.end());
    }
}

/// For the whole life of a connection: far more streams than are remembered, and all that the peer still sends on them.
#[test]
fn cancels_never_end_a_connection_of_either_role() {
    let mut client = Tested::client(&[]);
    let mut late = Vec::new();
    for _ in 0..20_000 {
        let key = client.open(&Method::GET, true);
        client.connection.release(key);
        late.push(key.id());
        client.written();
    }
    for stream in late {
        client.send(&frame(HEADERS, END_HEADERS, stream, OK));
        client.send(&frame(DATA, END_STREAM, stream, b"late"));
        client.send(&frame(WINDOW_UPDATE, 0, stream, &[0, 0, 1, 0]));
    }
    assert_eq!((client.end(), client.connection.active_streams()), ("open".to_owned(), 0));
    let mut server = Tested::server(config());
    for at in 0..20_000_u32 {
        server.send(&frame(HEADERS, END_HEADERS, 1 + 2 * at, POST));
        let key = server.request();
        server.connection.release(key);
        server.written();
    }
    for at in 0..20_000_u32 {
        server.send(&frame(DATA, 0, 1 + 2 * at, b"late"));
    }
    assert_eq!(server.end(), "open");
}

#[test]
fn more_streams_than_allowed_are_refused() {
    let mut server = Tested::server(Config { concurrent_streams: 2, ..config() });
    for stream in [1, 3, 5] {
        server.send(&frame(HEADERS, WHOLE, stream, GET));
    }
    assert_eq!(server.written(), ["RST 5 REFUSED_STREAM"]);
    let accepted = server.accepted();
    assert!(accepted.iter().any(|one| matches!(one, Incoming::Refused(Refusal::TooManyStreams))));
    let Incoming::Request { key, .. } = accepted[0] else { panic!("{accepted:?}") };
    respond(&mut server.connection, key, true).unwrap();
    server.send(&frame(HEADERS, WHOLE, 7, GET));
    assert!(matches!(server.accepted()[..], [Incoming::Request { .. }]));
}

#[test]
fn requests_that_wait_to_be_accepted_stop_the_reading() {
    let mut read =
        (0..1000_u32).flat_map(|at| frame(HEADERS, WHOLE, 1 + 2 * at, GET)).collect::<Vec<_>>()[..].into();
    let limits = Config { concurrent_streams: 1000, ..config() };
    let mut server = Tested::server(limits);
    let (mut accepted, mut pauses) = (0, 0);
    while server.connection.receive(&mut read, server.now) {
        assert!(!server.connection.may_read());
        let now: Vec<_> = std::iter::from_fn(|| server.connection.accept()).collect();
        assert!(now.len() <= 128);
        accepted += now.len();
        pauses += 1;
    }
    accepted += std::iter::from_fn(|| server.connection.accept()).count();
    assert_eq!((accepted, pauses), (1000, 7));
}
