//! How connections end: drained, told to by the peer, broken.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Method};

use super::support::*;
use crate::codec::h2::frame::Code;

#[test]
fn a_graceful_end_serves_what_is_on_its_way_and_nothing_later() {
    let mut server = Tested::server(config());
    server.send(&frame(HEADERS, WHOLE, 1, GET));
    let first = server.request();
    server.connection.shut_down_gracefully();
    server.connection.shut_down_gracefully();
    assert_eq!(server.written(), ["GOAWAY 2147483647 NO_ERROR", "PING"]);
    server.send(&frame(HEADERS, WHOLE, 3, GET));
    let second = server.request();
    server.send(&frame(PING, 1, 0, b"\0leaving"));
    assert_eq!(server.written(), ["GOAWAY 3 NO_ERROR"]);
    server.send(
        &[frame(HEADERS, END_HEADERS, 5, POST), frame(DATA, 0, 5, b"x"), frame(RST_STREAM, 0, 5, &[0; 4])]
            .concat(),
    );
    assert!(server.accepted().is_empty() && server.end() == "open");
    for key in [first, second] {
        assert!(!server.connection.is_drained());
        respond(&mut server.connection, key, true).unwrap();
        server.connection.release(key);
    }
    assert!(server.connection.is_drained());
}

#[test]
fn requests_that_a_leaving_server_has_not_processed_say_so() {
    let mut client = Tested::client(&[]);
    let (first, second) = (client.open(&Method::GET, true), client.open(&Method::POST, false));
    client.send(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
    assert!(!client.connection.is_open());
    let Poll::Ready(Err(error)) = client.connection.poll_head(second, &noop()) else { panic!("it waits") };
    assert_eq!(failed(&error), "NotProcessed");
    client.send(&frame(HEADERS, WHOLE, 1, OK));
    assert!(matches!(client.connection.poll_head(first, &noop()), Poll::Ready(Ok(_))));
}

#[test]
fn the_end_of_the_transport_ends_every_stream_behind_what_it_has_received() {
    for (goaway, broken, text) in [
        (false, false, "connection Closed"),
        (true, false, "connection GoAway(INTERNAL_ERROR)"),
        (false, true, "connection Io("),
    ] {
        let mut client = Tested::client(&[]);
        let key = client.open(&Method::GET, true);
        client.send(&[frame(HEADERS, END_HEADERS, 1, OK), frame(DATA, 0, 1, b"part")].concat());
        if goaway {
            client.send(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 2]));
        }
        if broken {
            client.connection.fail(io::ErrorKind::ConnectionReset.into());
        } else {
            client.connection.end_of_input();
        }
        assert!(matches!(client.connection.poll_head(key, &noop()), Poll::Ready(Ok(_))));
        assert_eq!(client.receive(key), "data 4");
        assert!(client.receive(key).starts_with(text), "{}", client.receive(key));
        assert!(!client.connection.is_open() && !client.connection.may_read());
    }
}

#[test]
fn a_released_stream_is_reset_unless_it_is_complete() {
    // The handler is gone before it has responded.
    let mut server = Tested::server(config());
    server.send(&frame(HEADERS, WHOLE, 1, GET));
    let key = server.request();
    server.connection.release(key);
    assert_eq!(server.written(), ["RST 1 CANCEL"]);
    // It has responded, and does not read the rest.
    server.send(&frame(HEADERS, END_HEADERS, 3, POST));
    let key = server.request();
    respond(&mut server.connection, key, true).unwrap();
    server.connection.release(key);
    assert_eq!(server.written(), ["HEADERS 3 end", "RST 3 NO_ERROR"]);
    // What is queued is still sent.
    server.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 5]));
    server.send(&frame(HEADERS, WHOLE, 5, GET));
    let key = server.request();
    respond(&mut server.connection, key, false).unwrap();
    server.connection.send_data(key, data(9), false).unwrap();
    server.connection.send_trailers(key, HeaderMap::new()).unwrap();
    server.connection.release(key);
    assert_eq!(server.written(), ["SETTINGS ACK", "HEADERS 5", "DATA 5 5"]);
    server.send(&frame(WINDOW_UPDATE, 0, 5, &[0, 0, 1, 0]));
    assert_eq!(server.written(), ["DATA 5 4", "HEADERS 5 end"]);
    assert_eq!(server.connection.active_streams(), 0);
    // A client that is no longer interested.
    let mut client = Tested::client(&[]);
    let key = client.open(&Method::GET, true);
    client.connection.cancel(key, Code::INTERNAL_ERROR);
    client.connection.release(key);
    assert_eq!(client.written(), ["HEADERS 1 end", "RST 1 INTERNAL_ERROR"]);
    let key = client.open(&Method::GET, true);
    client.send(&frame(HEADERS, WHOLE, 3, OK));
    client.connection.release(key);
    assert_eq!(client.written(), ["HEADERS 3 end"]);
}

#[test]
fn the_reset_of_a_malformed_request_is_sent_at_once_by_any_release() {
    let mut server = Tested::server(config());
    server.send(&frame(HEADERS, END_HEADERS, 1, POST));
    let key = server.request();
    server.send(&frame(HEADERS, WHOLE, 1, &field(b"X", b"1")));
    respond(&mut server.connection, key, true).unwrap();
    assert_eq!(server.written(), ["HEADERS 1 end"]);
    let woken = Arc::new(Woken::default());
    server.connection.wait(&Context::from_waker(&Arc::clone(&woken).into()));
    server.connection.release(key);
    assert!(woken.is_woken());
    assert_eq!(server.written(), ["RST 1 PROTOCOL_ERROR"]);
}

#[test]
fn a_reset_overtakes_no_data_that_has_left_the_queue() {
    let mut pair = Pair::new(config(), config());
    let (ours, theirs) = pair.post(&HeaderMap::new());
    pair.client.send_data(ours, data(1000), false).unwrap();
    assert!(pair.client.poll_sent(ours, &noop()).is_ready());
    pair.client.reset(ours, Code::INTERNAL_ERROR);
    pair.run();
    assert!(matches!(pair.server.poll_reset(theirs, &noop()), Poll::Ready(_)));
    assert_eq!(receive(&mut pair.server, theirs), "data 1000");
    assert_eq!(receive(&mut pair.server, theirs), "Reset(INTERNAL_ERROR)");
}

#[test]
fn a_client_that_only_waits_for_responses_is_recognised() {
    let mut server = Tested::server(config());
    assert!(!server.connection.owes_only_responses(true));
    server.send(&frame(HEADERS, WHOLE, 1, GET));
    assert!(server.connection.owes_only_responses(true));
    server.send(&frame(HEADERS, END_HEADERS, 3, POST));
    assert!(!server.connection.owes_only_responses(true));
    server.send(&frame(DATA, END_STREAM, 3, b"x"));
    assert!(server.connection.owes_only_responses(true));
}

#[test]
fn the_rest_of_a_frame_is_outstanding_since_its_first_byte() {
    let mut server = Tested::server(config());
    assert_eq!(server.connection.owed_since(), None);
    let head = frame(HEADERS, END_HEADERS, 1, POST);
    let began = server.now;
    server.send(&head[..5]);
    server.now += Duration::from_secs(1);
    server.send(&head[5..head.len() - 1]);
    assert_eq!(server.connection.owed_since(), Some(began));
    // One that ends with the beginning of the next: that has its own time.
    server.now += Duration::from_secs(1);
    server.send(&[&head[head.len() - 1..], &frame(PING, 0, 0, &[0; 8])[..3]].concat());
    assert_eq!(server.connection.owed_since(), Some(server.now));
    server.send(&frame(PING, 0, 0, &[0; 8])[3..]);
    assert_eq!(server.connection.owed_since(), None);
    // The reader of the body waits for DATA.
    server.send(&frame(DATA, 0, 1, b"data")[..11]);
    assert_eq!(server.connection.owed_since(), None);
}

#[test]
fn a_ping_is_answered_and_its_answer_noticed() {
    let mut client = Tested::client(&[]);
    let now = client.now;
    assert!(client.connection.ping(now) && !client.connection.ping(now));
    assert_eq!(client.written(), ["PING"]);
    assert!(client.connection.poll_answered(&noop()).is_pending());
    client.send(&frame(PING, 1, 0, b"\0\0asking"));
    assert!(client.connection.poll_answered(&noop()).is_ready());
    client.send(&frame(PING, 0, 0, &[9; 8]));
    assert_eq!(client.written(), ["PONG"]);
}
