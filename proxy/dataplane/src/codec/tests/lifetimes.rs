//! Connections that end by themselves: after so long, or after so many requests, and never within one.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::frames::*;
use super::support::{Served, echo, read_for_a_while, run, serving_within};
use crate::codec::body::Body;
use crate::codec::head::ResponseHead;
use crate::codec::limits::Limits;
use crate::codec::server::Protocol;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n";

fn few_requests() -> Limits {
    Limits { requests: Some(2), ..Limits::default() }
}

fn short_life() -> Limits {
    Limits { longest_life: Some(Duration::from_secs(60)), ..Limits::default() }
}

#[test]
fn the_last_response_of_a_connection_says_close() {
    run(async {
        let mut served = serving_within(few_requests(), Protocol::Http1, echo);
        served.client.write_all(&REQUEST.repeat(3)).await.unwrap();
        let text = read_for_a_while(&mut served.client).await;
        assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
        assert_eq!(text.matches("connection: close").count(), 1, "{text}");
        assert!(served.done.await.unwrap().is_ok());
    });
}

#[test]
fn a_client_that_says_nothing_is_not_waited_for_as_long_as_one_between_two_requests() {
    for (protocol, seconds) in [(Protocol::Http1, 15), (Protocol::Detect, 15), (Protocol::Http2, 10)] {
        run(async {
            let mut served = serving_within(Limits::default(), protocol, echo);
            let began = Instant::now();
            let mut all = Vec::new();
            served.client.read_to_end(&mut all).await.unwrap();
            assert_eq!(began.elapsed().as_secs(), seconds, "{protocol:?}");
        });
    }
    run(async {
        let mut served = serving_within(Limits::default(), Protocol::Http1, echo);
        served.client.write_all(REQUEST).await.unwrap();
        let began = Instant::now();
        let mut all = Vec::new();
        served.client.read_to_end(&mut all).await.unwrap();
        assert_eq!(began.elapsed(), Limits::default().idle_timeout);
    });
}

#[test]
fn an_old_connection_ends_when_it_is_idle_and_answers_what_it_has_begun() {
    run(async {
        let began = Instant::now();
        let mut served = serving_within(short_life(), Protocol::Http1, echo);
        served.client.write_all(REQUEST).await.unwrap();
        assert!(served.done.await.unwrap().is_ok());
        assert_eq!(began.elapsed().as_secs(), 60);
        let mut served = serving_within(short_life(), Protocol::Http1, |_, _, responder| async move {
            sleep(Duration::from_secs(100)).await;
            let _ = responder
                .respond(ResponseHead::new(http::StatusCode::OK), Body::full(Bytes::from_static(b"late")))
                .await;
        });
        served.client.write_all(REQUEST).await.unwrap();
        sleep(Duration::from_secs(101)).await;
        let text = read_for_a_while(&mut served.client).await;
        assert!(text.contains("connection: close\r\n") && text.ends_with("late"), "{text}");
    });
}

/// How many requests, `pause` apart, an HTTP/2 client gets answered before it is told to go away.
async fn answered(served: Served, pause: Duration) -> usize {
    let (mut send, connection) = h2::client::handshake(served.client).await.unwrap();
    let connection = spawn_local(connection);
    let mut answered = 0;
    while let Ok(mut ready) = send.ready().await {
        let request = http::Request::get("http://cart/").body(()).unwrap();
        let Ok((response, _)) = ready.send_request(request, true) else { break };
        match response.await {
            Ok(_) => answered += 1,
            Err(_) => break,
        }
        sleep(pause).await;
        send = ready;
    }
    assert!(connection.await.unwrap().is_ok(), "it ended in order");
    answered
}

#[test]
fn an_http2_client_gets_goaway_in_time() {
    run(async {
        let served = serving_within(few_requests(), Protocol::Http2, echo);
        assert_eq!(answered(served, Duration::from_secs(1)).await, 2);
        let served = serving_within(short_life(), Protocol::Http2, echo);
        assert_eq!(answered(served, Duration::from_secs(25)).await, 3);
    });
}

/// What a handler does behind its response, such as recording it, is not lost.
#[test]
fn the_handler_of_the_last_response_of_a_connection_returns() {
    run(async {
        let returned = Rc::new(Cell::new(false));
        let flag = returned.clone();
        let limits = Limits { requests: Some(1), ..Limits::default() };
        let served = serving_within(limits, Protocol::Http2, move |_, _, responder| {
            let flag = flag.clone();
            async move {
                let body = Body::full(Bytes::from(vec![0; 1024 * 1024]));
                responder.respond(ResponseHead::new(http::StatusCode::OK), body).await.unwrap();
                flag.set(true);
            }
        });
        let (mut send, connection) = h2::client::handshake(served.client).await.unwrap();
        spawn_local(connection);
        let request = http::Request::get("http://cart/").body(()).unwrap();
        let (response, _) = send.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut bytes = 0;
        while let Some(data) = body.data().await {
            let length = data.unwrap().len();
            bytes += length;
            body.flow_control().release_capacity(length).unwrap();
        }
        assert!(served.done.await.unwrap().is_ok());
        assert_eq!((bytes, returned.get()), (1024 * 1024, true));
    });
}

#[test]
fn a_client_that_reads_slowly_gets_the_end_of_the_last_response() {
    const LENGTH: usize = 300 * 1024;
    run(async {
        let limits = Limits { requests: Some(1), ..Limits::default() };
        let mut served = serving_within(limits, Protocol::Http2, |_, _, responder| async move {
            let body = Body::full(Bytes::from(vec![0; LENGTH]));
            let _ = responder.respond(ResponseHead::new(http::StatusCode::OK), body).await;
        });
        // Windows of 1 MiB, and the answer to the PING between the two GOAWAYs.
        let window = 1_u32 << 20;
        let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
        let bytes = opening(
            &settings,
            &[
                frame(WINDOW_UPDATE, 0, 0, &window.to_be_bytes()),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, GET),
                frame(PING, ACK, 0, b"\0leaving"),
            ],
        );
        served.client.write_all(&bytes).await.unwrap();
        sleep(Duration::from_secs(60)).await;
        let all = frames(&mut served.client).await;
        let data: Vec<_> = all.iter().filter(|(kind, ..)| *kind == DATA).collect();
        assert_eq!(data.iter().map(|(.., payload)| payload.len()).sum::<usize>(), LENGTH);
        assert_eq!(data.last().unwrap().1, END_STREAM);
        assert!(served.done.await.unwrap().is_ok());
    });
}

/// What a client sends while it reads the end must not meet a closed socket: the kernel would drop what it has not read.
#[test]
fn a_connection_that_has_ended_is_read_until_the_client_closes_it_or_is_silent() {
    let drained = frame(HEADERS, END_HEADERS | END_STREAM, 1, GET);
    let violation = frame(DATA, 0, 0, b"x");
    for (bytes, is_ok) in [(drained, true), (violation, false)] {
        for closes in [false, true] {
            run(async {
                let limits = Limits { requests: Some(1), ..Limits::default() };
                let mut served = serving_within(limits, Protocol::Http2, echo);
                served.client.write_all(&opening(&[], std::slice::from_ref(&bytes))).await.unwrap();
                sleep(Duration::from_millis(1)).await;
                if is_ok {
                    // The answer to the PING between the two GOAWAYs.
                    served.client.write_all(&frame(PING, ACK, 0, b"\0leaving")).await.unwrap();
                }
                let mut all = Vec::new();
                served.client.read_to_end(&mut all).await.unwrap();
                for _ in 0..3 {
                    sleep(Duration::from_millis(900)).await;
                    served.client.write_all(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0])).await.unwrap();
                }
                let began = Instant::now();
                if closes {
                    served.client.shutdown().await.unwrap();
                }
                assert_eq!(served.done.await.unwrap().is_ok(), is_ok);
                assert_eq!(began.elapsed().as_secs(), u64::from(!closes));
            });
        }
    }
}
