//! What RFC 9113 sections 5 and 6 forbid, and whether it ends the stream or the connection.

use http::Method;

use super::support::*;
use crate::codec::h2::connection::Incoming;
use crate::codec::h2::frame::{Code, PREFACE};

/// Frames of a client, and what a server writes because of them last.
#[test]
fn a_client_that_breaks_a_rule_loses_its_stream_or_its_connection() {
    let open = || frame(HEADERS, END_HEADERS, 1, POST);
    let whole = || frame(HEADERS, WHOLE, 1, GET);
    let cancel = || frame(RST_STREAM, 0, 1, &reset(Code::CANCEL));
    let large = [0x7f, 0xff, 0xff, 0xff];
    for (rule, frames, last) in [
        ("5.1 idle: DATA", vec![frame(DATA, 0, 1, b"x")], "GOAWAY 0 PROTOCOL_ERROR"),
        ("5.1 idle: RST_STREAM", vec![cancel()], "GOAWAY 0 PROTOCOL_ERROR"),
        (
            "5.1 idle: WINDOW_UPDATE",
            vec![frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9])],
            "GOAWAY 0 PROTOCOL_ERROR",
        ),
        ("5.1 half-closed: DATA", vec![whole(), frame(DATA, 0, 1, b"x")], "RST 1 STREAM_CLOSED"),
        ("5.1 half-closed: HEADERS", vec![whole(), whole()], "RST 1 STREAM_CLOSED"),
        ("5.1 closed: DATA", vec![open(), cancel(), frame(DATA, 0, 1, b"x")], "RST 1 STREAM_CLOSED"),
        ("5.1 closed: HEADERS", vec![open(), cancel(), whole()], "RST 1 STREAM_CLOSED"),
        ("5.1.1 even", vec![frame(HEADERS, WHOLE, 2, GET)], "GOAWAY 0 PROTOCOL_ERROR"),
        (
            "5.1.1 lower",
            vec![frame(HEADERS, WHOLE, 5, GET), frame(HEADERS, WHOLE, 3, GET)],
            "GOAWAY 5 PROTOCOL_ERROR",
        ),
        (
            "5.3.1 (RFC 7540)",
            vec![frame(HEADERS, 0x20 | WHOLE, 1, &[&[0, 0, 0, 1, 9], GET].concat())],
            "RST 1 PROTOCOL_ERROR",
        ),
        (
            "6.1 window of the stream",
            vec![open(), frame(DATA, 0, 1, &[0; 16_384]).repeat(17)],
            "RST 1 FLOW_CONTROL_ERROR",
        ),
        (
            "6.8 increased",
            vec![frame(GOAWAY, 0, 0, &[0; 8]), frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])],
            "GOAWAY 0 PROTOCOL_ERROR",
        ),
        ("6.9 zero, stream", vec![open(), frame(WINDOW_UPDATE, 0, 1, &[0; 4])], "RST 1 PROTOCOL_ERROR"),
        ("6.9 zero, connection", vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])], "GOAWAY 0 PROTOCOL_ERROR"),
        ("6.9.1 stream", vec![open(), frame(WINDOW_UPDATE, 0, 1, &large)], "RST 1 FLOW_CONTROL_ERROR"),
        ("6.9.1 connection", vec![frame(WINDOW_UPDATE, 0, 0, &large)], "GOAWAY 0 FLOW_CONTROL_ERROR"),
        (
            "6.9.2",
            vec![
                open(),
                frame(WINDOW_UPDATE, 0, 1, &[0, 1, 0, 0]),
                frame(SETTINGS, 0, 0, &[&[0, 4][..], &large].concat()),
            ],
            "GOAWAY 1 FLOW_CONTROL_ERROR",
        ),
        ("8.1 trailers without END_STREAM", vec![open(), open()], "RST 1 PROTOCOL_ERROR"),
        ("4.3", vec![frame(HEADERS, WHOLE, 1, &[0xff, 0xff, 0xff, 0xff])], "GOAWAY 0 COMPRESSION_ERROR"),
        ("4.2", vec![frame(DATA, 0, 1, &[0; 16_385])], "GOAWAY 0 FRAME_SIZE_ERROR"),
        ("6.10", vec![frame(HEADERS, 0, 1, GET), frame(PING, 0, 0, &[0; 8])], "GOAWAY 0 PROTOCOL_ERROR"),
        ("8.4", vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])], "GOAWAY 0 PROTOCOL_ERROR"),
        (
            "RFC 8441 3",
            vec![frame(SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 1]), frame(SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 0])],
            "GOAWAY 0 PROTOCOL_ERROR",
        ),
    ] {
        let mut server = Tested::server(config());
        // In one piece and in many.
        for piece in frames.concat().chunks(7) {
            server.send(piece);
        }
        let written = server.written();
        assert_eq!(written.last().map(String::as_str), Some(last), "{rule}: {written:?}");
        assert_eq!(server.end() == "open", last.starts_with("RST"), "{rule}: {}", server.end());
        if last.starts_with("RST") {
            server.send(&frame(HEADERS, WHOLE, 101, GET));
            let accepted = server.accepted();
            let other = matches!(accepted.last(), Some(Incoming::Request { key, .. }) if key.id() == 101);
            assert!(other, "{rule}: other streams go on");
        }
    }
}

#[test]
fn a_server_that_breaks_a_rule_loses_its_stream_or_its_connection() {
    let head = || frame(HEADERS, END_HEADERS, 1, OK);
    for (rule, frames, last) in [
        ("5.1 idle: HEADERS", vec![frame(HEADERS, WHOLE, 3, OK)], "GOAWAY 0 PROTOCOL_ERROR"),
        ("5.1 idle: DATA", vec![frame(DATA, 0, 5, b"x")], "GOAWAY 0 PROTOCOL_ERROR"),
        ("5.1 DATA first", vec![frame(DATA, 0, 1, b"x")], "RST 1 PROTOCOL_ERROR"),
        ("8.1 101 ends", vec![frame(HEADERS, WHOLE, 1, &field(b":status", b"103"))], "RST 1 PROTOCOL_ERROR"),
        (
            "8.1 no end of 1xx",
            vec![frame(HEADERS, END_HEADERS, 1, &field(b":status", b"103")).repeat(17)],
            "RST 1 ENHANCE_YOUR_CALM",
        ),
        ("8.1 two heads", vec![head(), head()], "RST 1 PROTOCOL_ERROR"),
        ("8.3.2", vec![frame(HEADERS, END_HEADERS, 1, &field(b"x", b"y"))], "RST 1 PROTOCOL_ERROR"),
        (
            "8.4",
            vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2], GET].concat())],
            "GOAWAY 0 PROTOCOL_ERROR",
        ),
        ("8.4 enabled", vec![frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 1])], "GOAWAY 0 PROTOCOL_ERROR"),
        ("RFC 9218 7.1", vec![frame(16, 0, 0, &[0, 0, 0, 1])], "GOAWAY 0 PROTOCOL_ERROR"),
    ] {
        let mut client = Tested::client(&[]);
        let key = client.open(&Method::POST, false);
        client.written();
        client.send(&frames.concat());
        let written = client.written();
        assert_eq!(written.last().map(String::as_str), Some(last), "{rule}: {written:?}");
        assert_eq!(client.end() == "open", last.starts_with("RST"), "{rule}: {}", client.end());
        assert!(client.connection.send_data(key, data(1), true).is_err(), "{rule}");
    }
}

#[test]
fn a_connection_begins_with_its_preface_and_settings() {
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nXX".to_vec(),
        [PREFACE, &frame(PING, 0, 0, &[0; 8])].concat(),
    ] {
        let now = tokio::time::Instant::now();
        let mut connection = crate::codec::h2::connection::Connection::server(config(), now);
        connection.receive(&mut bytes[..].into(), now);
        let last = texts(&written(&mut connection, now)).pop();
        assert_eq!(last.as_deref(), Some("GOAWAY 0 PROTOCOL_ERROR"), "{bytes:?}");
    }
}

#[test]
fn what_is_allowed_on_gone_streams_is_ignored() {
    let mut server = Tested::server(config());
    server.send(&frame(HEADERS, END_HEADERS, 1, POST));
    let key = server.request();
    // Reset here: the client does not know yet.
    server.connection.reset(key, Code::CANCEL);
    server.connection.release(key);
    assert_eq!(server.written(), ["RST 1 CANCEL"]);
    for late in [
        frame(DATA, 0, 1, b"late"),
        frame(WINDOW_UPDATE, 0, 1, &[0, 0, 1, 0]),
        frame(HEADERS, WHOLE, 1, &field(b"x", b"y")),
        frame(RST_STREAM, 0, 1, &reset(Code::CANCEL)),
        frame(PRIORITY, 0, 1, &[0; 5]),
        frame(PRIORITY, 0, 99, &[0; 5]),
    ] {
        server.send(&late);
        assert_eq!((server.written(), server.end()), (vec![], "open".to_owned()), "{late:?}");
    }
    // Complete on both sides.
    server.send(&frame(HEADERS, WHOLE, 3, GET));
    let key = server.request();
    respond(&mut server.connection, key, true).unwrap();
    server.connection.release(key);
    server.send(&frame(WINDOW_UPDATE, 0, 3, &[0, 0, 1, 0]));
    server.send(&frame(RST_STREAM, 0, 3, &reset(Code::CANCEL)));
    assert_eq!((server.written(), server.end()), (vec!["HEADERS 3 end".to_owned()], "open".to_owned()));
    server.send(&frame(PRIORITY, 0, 3, &[0; 4]));
    assert_eq!(
        (server.written(), server.end()),
        (vec!["RST 3 FRAME_SIZE_ERROR".to_owned()], "open".to_owned())
    );
    server.send(&frame(DATA, 0, 3, b"x"));
    assert_eq!(server.written(), ["GOAWAY 3 STREAM_CLOSED"]);
}
