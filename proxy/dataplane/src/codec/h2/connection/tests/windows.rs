//! Flow control (RFC 9113 section 5.2): what may be sent, what is granted, and streams that nobody reads.

use std::task::Poll;
use std::time::Duration;

use http::{HeaderMap, Method};

use super::support::*;
use crate::codec::h2::connection::Config;

#[test]
fn data_is_sent_as_far_as_both_windows_allow() {
    // 1000 bytes for each stream.
    let mut client = Tested::client(&[0, 4, 0, 0, 0x03, 0xe8]);
    let key = client.open(&Method::POST, false);
    client.connection.send_data(key, data(2500), true).unwrap();
    assert_eq!(client.written(), ["HEADERS 1", "DATA 1 1000"]);
    assert_eq!(client.connection.queued(key), 1500);
    client.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]));
    assert_eq!(client.written(), ["DATA 1 1"]);
    // A smaller initial window makes it negative.
    client.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    client.send(&frame(WINDOW_UPDATE, 0, 1, &1000_u32.to_be_bytes()));
    assert_eq!(client.written(), ["SETTINGS ACK"]);
    client.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]));
    assert_eq!(client.written(), ["SETTINGS ACK", "DATA 1 1499 end"]);
    // The connection's window.
    let key = client.open(&Method::POST, false);
    client.connection.send_data(key, data(65_000), false).unwrap();
    let sent = 65_535 - 2500;
    let rest = sent - 3 * 16_384;
    let expected = ["HEADERS 3", "DATA 3 16384", "DATA 3 16384", "DATA 3 16384", &format!("DATA 3 {rest}")];
    assert_eq!(client.written(), expected);
    assert!(client.connection.exhausted_since().is_some());
    // What has no payload needs no window.
    let other = client.open(&Method::POST, false);
    client.connection.send_trailers(other, HeaderMap::new()).unwrap();
    assert_eq!(client.written(), ["HEADERS 5", "HEADERS 5 end"]);
    client.send(&frame(WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]));
    assert_eq!(client.written(), [format!("DATA 3 {}", 65_000 - sent)]);
    assert!(client.connection.exhausted_since().is_none());
}

#[test]
fn streams_send_in_turns_and_the_urgent_ones_first() {
    let mut server = Tested::server(config());
    let mut keys = Vec::new();
    for (stream, priority) in [(1, &b"u=5"[..]), (3, b""), (5, b""), (7, b"u=1")] {
        let head = [GET, &field(b"priority", priority)].concat();
        server.send(&frame(HEADERS, WHOLE, stream, &head));
        keys.push(server.request());
    }
    // PRIORITY_UPDATE of stream 5 (RFC 9218 section 7.1) makes it the least urgent.
    server.send(&frame(16, 0, 0, &[&[0, 0, 0, 5], &b"u=7"[..]].concat()));
    server.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    server.written();
    for key in &keys {
        respond(&mut server.connection, *key, false).unwrap();
        server.connection.send_data(*key, data(20_000), true).unwrap();
    }
    server.written();
    server.send(&frame(WINDOW_UPDATE, 0, 0, &[0, 0x7f, 0, 0]));
    server.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]));
    let order: Vec<_> = server
        .written()
        .iter()
        .filter_map(|text| Some(text.strip_prefix("DATA ")?.split(' ').next()?.to_owned()))
        .collect();
    assert_eq!(order, ["7", "7", "3", "3", "1", "1", "5", "5"]);
    // Of equal urgency, frame by frame.
    let mut pair = Pair::new(config(), config());
    let ours = [pair.post(&HeaderMap::new()).0, pair.post(&HeaderMap::new()).0];
    // The connection's window is used up by the first.
    for key in ours {
        pair.client.send_data(key, data(100_000), true).unwrap();
    }
    let order: Vec<_> = texts(&written(&mut pair.client, pair.now));
    let first: Vec<_> = order.iter().map(|text| &text[..6]).take(8).collect();
    assert_eq!(first, ["DATA 1", "DATA 1", "DATA 1", "DATA 1", "DATA 1", "DATA 3", "DATA 1", "DATA 3"]);
}

#[test]
fn little_is_queued_for_a_peer_that_accepts_nothing() {
    let mut client = Tested::client(&[0, 4, 0, 0, 0, 0]);
    let key = client.open(&Method::POST, false);
    assert!(client.connection.poll_capacity(key, &noop()).is_ready());
    client.connection.send_data(key, data(10), false).unwrap();
    assert!(client.connection.poll_capacity(key, &noop()).is_pending());
    assert!(client.connection.poll_sent(key, &noop()).is_pending());
    client.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]));
    client.written();
    assert!(client.connection.poll_capacity(key, &noop()).is_pending());
    client.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]));
    client.written();
    assert!(client.connection.poll_capacity(key, &noop()).is_ready());
    assert!(matches!(client.connection.poll_sent(key, &noop()), Poll::Ready(Ok(()))));
}

#[test]
fn windows_reopen_as_bytes_are_read() {
    let small = Config { stream_window: 40_000, connection_window: 100_000, ..config() };
    let mut server = Tested::server(small);
    server.send(&frame(HEADERS, END_HEADERS, 1, POST));
    let key = server.request();
    server.send(&frame(DATA, 0, 1, &[0; 15_000]).repeat(2));
    assert_eq!(server.written(), Vec::<String>::new());
    assert_eq!(server.receive(key), "data 15000");
    // Half of what it may still send is not worth a frame; more than that is.
    assert_eq!(server.written(), ["WINDOW_UPDATE 1 15000"]);
    assert_eq!(server.receive(key), "data 15000");
    assert_eq!(server.written(), Vec::<String>::new());
    // Padding counts, and is consumed at once.
    let padded = [&[200][..], &[1; 300], &[0; 200]].concat();
    server.send(&frame(DATA, 0x8, 1, &padded));
    assert_eq!(server.receive(key), "data 300");
    // At the end of the stream only the connection's window matters.
    server.send(&frame(DATA, END_STREAM, 1, &[0; 16_000]));
    assert_eq!((server.receive(key), server.receive(key)), ("data 16000".to_owned(), "end".to_owned()));
    assert_eq!(server.written(), Vec::<String>::new());
    // What nobody reads any more is consumed.
    server.connection.release(key);
    server.send(&frame(HEADERS, END_HEADERS, 3, POST));
    let key = server.request();
    server.send(&frame(DATA, 0, 3, &[0; 15_000]).repeat(2));
    server.connection.release(key);
    assert_eq!(server.written(), ["RST 1 CANCEL", "RST 3 CANCEL", "WINDOW_UPDATE 0 76501"]);
    server.send(&frame(DATA, 0, 3, &[0; 9_000]));
    assert_eq!((server.written(), server.end()), (vec![], "open".to_owned()));
}

/// Windows that two streams exhaust.
fn narrow() -> Config {
    Config { stream_window: 64 * 1024, connection_window: 128 * 1024, ..config() }
}

#[test]
fn unread_streams_that_exhaust_the_window_give_way_to_others_only() {
    for others in [false, true] {
        let mut server = Tested::server(narrow());
        let mut keys = Vec::new();
        for stream in [1, 3, 5] {
            server.send(&frame(HEADERS, END_HEADERS, stream, POST));
            keys.push(server.request());
        }
        for stream in [1, 3] {
            server.send(&frame(DATA, 0, stream, &[0; 16_384]).repeat(4));
        }
        let due = server.connection.relief_due().unwrap();
        assert_eq!(due - server.now, Duration::from_secs(1));
        server.connection.relieve(server.now);
        assert!(server.written().is_empty() && !server.connection.is_overdrawn());
        server.now = due;
        server.connection.relieve(due);
        assert_eq!(server.written(), ["WINDOW_UPDATE 0 65536"]);
        assert!(server.connection.is_overdrawn());
        if !others {
            // The peer does not use what it was granted.
            server.now += Duration::from_secs(60);
            server.connection.relieve(server.now);
            assert!(server.written().is_empty());
            assert_eq!(server.receive(keys[0]), "data 16384");
            continue;
        }
        // A fourth stream takes it, and a fifth has nothing.
        server.send(&frame(HEADERS, END_HEADERS, 7, POST));
        server.send(&frame(DATA, 0, 7, &[0; 16_384]).repeat(4));
        server.accepted();
        server.now += Duration::from_secs(1);
        server.connection.relieve(server.now);
        let written = server.written();
        assert_eq!(written, ["RST 1 CANCEL", "WINDOW_UPDATE 0 65536"], "a quarter is released");
        assert_eq!(server.receive(keys[0]), "GaveUp");
        assert_eq!(server.receive(keys[1]), "data 16384");
    }
}

#[tokio::test(start_paused = true)]
async fn a_window_that_was_just_used_up_is_not_exhausted_since_the_driver_last_ran() {
    let mut client = Tested::client(&[]);
    tokio::time::advance(Duration::from_secs(10)).await;
    let key = client.open(&Method::POST, false);
    client.connection.send_data(key, data(65_535), true).unwrap();
    assert_eq!(client.connection.exhausted_since(), Some(tokio::time::Instant::now()));
}

#[test]
fn small_payloads_that_wait_are_joined() {
    let mut server = Tested::server(config());
    server.send(&frame(HEADERS, END_HEADERS, 1, POST));
    let key = server.request();
    server.send(&frame(DATA, 0, 1, &[7; 50]).repeat(1000));
    let received: Vec<_> = (0..5).map(|_| server.receive(key)).collect();
    assert_eq!(received, ["data 50", "data 16384", "data 16384", "data 16384", "data 798"]);
}

#[test]
fn a_stream_that_was_reset_for_its_window_does_not_end_the_connection() {
    let mut server = Tested::server(config());
    server.send(&frame(HEADERS, END_HEADERS, 1, POST));
    server.send(&frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]));
    assert_eq!(server.written(), ["RST 1 FLOW_CONTROL_ERROR"]);
    server.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 9]));
    assert_eq!((server.written(), server.end()), (vec!["SETTINGS ACK".to_owned()], "open".to_owned()));
}
