//! Messages from one side to the other, complete and incomplete.

use http::{HeaderMap, Method, StatusCode};

use super::support::*;
use crate::codec::h2::connection::{Incoming, Refusal};
use crate::codec::h2::frame::Code;
use crate::codec::h2::hpack::Pseudo;
use std::task::Poll;

#[test]
fn a_request_and_its_response_pass_with_bodies_and_trailers() {
    let mut pair = Pair::new(config(), config());
    let (ours, theirs) = pair.post(&HeaderMap::new());
    pair.client.send_data(ours, data(100), false).unwrap();
    pair.client.send_trailers(ours, fields(&[("x-sum", "1")])).unwrap();
    let interim = Pseudo::Response(StatusCode::EARLY_HINTS);
    pair.server.send_head(theirs, interim, &HeaderMap::new(), false).unwrap();
    respond(&mut pair.server, theirs, false).unwrap();
    pair.server.send_data(theirs, data(50_000), true).unwrap();
    pair.run();
    let received: Vec<_> = (0..3).map(|_| receive(&mut pair.server, theirs)).collect();
    assert_eq!(received, ["data 100", "trailers 1", "end"]);
    for status in [103, 200] {
        let Poll::Ready(Ok(head)) = pair.client.poll_head(ours, &noop()) else { panic!("{status}") };
        assert_eq!((head.section.status.unwrap().as_u16(), head.ended), (status, false));
    }
    let mut length = 0;
    loop {
        match &receive(&mut pair.client, ours)[..] {
            "end" => break,
            text => length += text.strip_prefix("data ").unwrap().parse::<usize>().unwrap(),
        }
    }
    assert_eq!((length, pair.client.active_streams(), pair.server.active_streams()), (50_000, 0, 0));
    pair.client.release(ours);
    pair.server.release(theirs);
    assert!(pair.run().is_empty() && pair.client.end().is_none() && pair.server.end().is_none());
}

#[test]
fn the_length_of_a_response_that_opens_a_tunnel_has_no_meaning() {
    for (status, received) in [(OK, "data 5"), (&[0x8d][..], "violation PROTOCOL_ERROR")] {
        let mut client = Tested::client(&[]);
        let key = client.open(&Method::CONNECT, false);
        let head = [status, &field(b"content-length", b"0")].concat();
        client.send(&[frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, 0, 1, b"bytes")].concat());
        assert_eq!(client.receive(key), received);
    }
}

/// A stream that ended short of its length once made both sides hang.
#[test]
fn a_body_that_is_not_as_long_as_announced_resets_its_stream_on_both_sides() {
    for (announced, sent) in [("10", 9), ("10", 11), ("1", 0), ("0", 1)] {
        for with_trailers in [false, true] {
            let mut pair = Pair::new(config(), config());
            let (ours, theirs) = pair.post(&fields(&[("content-length", announced)]));
            if sent > 0 || !with_trailers {
                pair.client.send_data(ours, data(sent), !with_trailers).unwrap();
            }
            if with_trailers {
                pair.client.send_trailers(ours, HeaderMap::new()).unwrap();
            }
            pair.run();
            let mut received = receive(&mut pair.server, theirs);
            if received.starts_with("data") {
                received = receive(&mut pair.server, theirs);
            }
            let case = format!("{sent} of {announced}, trailers: {with_trailers}");
            assert_eq!(received, "violation PROTOCOL_ERROR", "{case}");
            let Poll::Ready(Err(error)) = pair.client.poll_head(ours, &noop()) else { panic!("{case}") };
            assert_eq!(failed(&error), "Reset(PROTOCOL_ERROR)", "{case}");
            assert!(pair.server.end().is_none() && pair.client.end().is_none(), "{case}");
        }
    }
    // At once with the head.
    let mut server = Tested::server(config());
    server.send(&frame(HEADERS, WHOLE, 1, &[POST, &field(b"content-length", b"5")].concat()));
    assert!(matches!(server.accepted()[..], [Incoming::Refused(Refusal::Malformed(_))]));
    assert_eq!(server.written(), ["RST 1 PROTOCOL_ERROR"]);
}

#[test]
fn a_response_that_is_not_as_long_as_announced_resets_its_stream_on_both_sides() {
    for (frames, ends_with_head) in [
        (vec![frame(HEADERS, WHOLE, 1, &[OK, &field(b"content-length", b"5")].concat())], true),
        (
            vec![
                frame(HEADERS, END_HEADERS, 1, &[OK, &field(b"content-length", b"5")].concat()),
                frame(DATA, END_STREAM, 1, b"four"),
            ],
            false,
        ),
    ] {
        let mut client = Tested::client(&[]);
        let key = client.open(&Method::GET, true);
        client.written();
        client.send(&frames.concat());
        let head = client.connection.poll_head(key, &noop());
        assert_eq!(matches!(head, Poll::Ready(Err(_))), ends_with_head, "{head:?}");
        assert_eq!(client.written(), ["RST 1 PROTOCOL_ERROR"]);
        assert_eq!(client.receive(key), "violation PROTOCOL_ERROR");
    }
    // HEAD and 304 announce what they do not contain.
    for (method, status) in [(Method::HEAD, &b"200"[..]), (Method::GET, b"304")] {
        let mut client = Tested::client(&[]);
        let key = client.open(&method, true);
        let head = [field(b":status", status), field(b"content-length", b"5")].concat();
        client.send(&frame(HEADERS, WHOLE, 1, &head));
        let Poll::Ready(Ok(head)) = client.connection.poll_head(key, &noop()) else { panic!("{method}") };
        assert!(head.ended);
    }
}

#[test]
fn a_complete_response_that_stops_the_upload_is_read_whole() {
    let mut client = Tested::client(&[0, 4, 0, 0, 0, 10]);
    let key = client.open(&Method::POST, false);
    client.connection.send_data(key, data(100), false).unwrap();
    let answer = [frame(HEADERS, END_HEADERS, 1, OK), frame(DATA, END_STREAM, 1, b"enough")];
    client.send(&answer.concat());
    client.send(&frame(RST_STREAM, 0, 1, &reset(Code::NO_ERROR)));
    let Poll::Ready(Ok(head)) = client.connection.poll_head(key, &noop()) else { panic!("no head") };
    assert!(!head.ended);
    assert_eq!((client.receive(key), client.receive(key)), ("data 6".to_owned(), "end".to_owned()));
    assert!(client.connection.send_data(key, data(1), false).is_err(), "no more is accepted");
    assert_eq!(client.connection.active_streams(), 0);
}

#[test]
fn what_was_received_before_a_reset_is_read_before_it() {
    let mut client = Tested::client(&[]);
    let key = client.open(&Method::GET, true);
    let part = [frame(HEADERS, END_HEADERS, 1, OK), frame(DATA, 0, 1, b"part")];
    client.send(&part.concat());
    client.send(&frame(RST_STREAM, 0, 1, &reset(Code::ENHANCE_YOUR_CALM)));
    assert!(matches!(client.connection.poll_head(key, &noop()), Poll::Ready(Ok(_))));
    assert_eq!(client.receive(key), "data 4");
    assert_eq!(client.receive(key), "Reset(ENHANCE_YOUR_CALM)");
}

#[test]
fn bad_trailers_fail_the_request_which_can_still_be_answered() {
    let pseudo = field(b":path", b"/");
    let large = field(b"x", &[b'y'; 100]).repeat(2000);
    for (block, error, written) in [
        (pseudo, "MalformedTrailers", vec!["HEADERS 1 end", "RST 1 PROTOCOL_ERROR"]),
        (large, "TooLarge", vec!["HEADERS 1 end"]),
    ] {
        let mut server = Tested::server(config());
        server.send(&frame(HEADERS, END_HEADERS, 1, POST));
        let key = server.request();
        let (first, rest) = block.split_at(block.len().min(1000));
        server.send(&frame(HEADERS, END_STREAM, 1, first));
        let pieces: Vec<_> = rest.chunks(16_000).collect();
        for piece in &pieces {
            server.send(&frame(CONTINUATION, 0, 1, piece));
        }
        server.send(&frame(CONTINUATION, END_HEADERS, 1, &[]));
        assert!(server.receive(key).starts_with(error), "{}", server.receive(key));
        respond(&mut server.connection, key, true).unwrap();
        server.connection.release(key);
        assert_eq!(server.written(), written);
        assert_eq!(server.end(), "open");
    }
}

#[test]
fn requests_wait_for_streams_in_the_order_in_which_they_came() {
    let mut client = Tested::client(&[0, 3, 0, 0, 0, 1]);
    let first = client.open(&Method::GET, true);
    let (mut second, mut third) = (0, 0);
    for _ in 0..2 {
        assert!(client.connection.poll_open(&mut second, &noop()).is_pending());
        assert!(client.connection.poll_open(&mut third, &noop()).is_pending());
    }
    client.connection.release(first);
    assert!(client.connection.poll_open(&mut third, &noop()).is_pending(), "it is not its turn");
    client.connection.cancel_open(second);
    assert!(client.connection.poll_open(&mut third, &noop()).is_ready());
    client.open(&Method::GET, true);
    assert!(client.connection.poll_open(&mut third, &noop()).is_pending());
    client.send(&frame(GOAWAY, 0, 0, &[0; 8]));
    assert!(matches!(client.connection.poll_open(&mut third, &noop()), Poll::Ready(Err(_))));
}

#[test]
fn extended_connect_is_known_when_the_settings_are() {
    for (settings, served) in [(&[0, 8, 0, 0, 0, 1][..], true), (&[], false)] {
        let now = tokio::time::Instant::now();
        let mut connection = crate::codec::h2::connection::Connection::client(config(), now);
        assert!(connection.poll_extended_connect(&noop()).is_pending());
        connection.receive(&mut frame(SETTINGS, 0, 0, settings)[..].into(), now);
        assert!(matches!(connection.poll_extended_connect(&noop()), Poll::Ready(Ok(is)) if is == served));
    }
}
