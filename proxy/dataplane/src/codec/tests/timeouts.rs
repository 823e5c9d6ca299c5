//! How long an HTTP/1 server waits for a client that is slow, idle or gone, also while it drains.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use outrigger_core::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{echo, read_for_a_while, run, serving};
use crate::codec::body::Body;
use crate::codec::head::ResponseHead;
use crate::codec::server::Protocol;

#[test]
fn a_slow_head_is_answered_408_and_an_idle_connection_is_closed_in_silence() {
    run(async {
        let mut served = serving(Protocol::Http1, echo);
        served.client.write_all(b"GET / HT").await.unwrap();
        let mut text = String::new();
        served.client.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
        assert_eq!(served.refusals.take(), [Reason::DownstreamTimeout]);

        let mut served = serving(Protocol::Http1, echo);
        let mut text = String::new();
        served.client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "");
        assert!(served.done.await.unwrap().is_ok());
    });
}

#[test]
fn an_idle_connection_rests_and_serves_again_and_ends_in_its_time() {
    run(async {
        let mut served = serving(Protocol::Http1, echo);
        for _ in 0..2 {
            served.client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            assert!(read_for_a_while(&mut served.client).await.starts_with("HTTP/1.1 200"));
            tokio::time::sleep(Duration::from_secs(299)).await;
        }
        let began = tokio::time::Instant::now();
        served.done.await.unwrap().unwrap();
        assert!(began.elapsed() <= Duration::from_secs(2), "{:?}", began.elapsed());
    });
}

#[test]
fn drain_closes_idle_connections_and_announces_itself_on_busy_ones() {
    run(async {
        let idle = serving(Protocol::Http1, echo);
        let mut busy = serving(Protocol::Http1, |head, body, responder| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            echo(head, body, responder).await;
        });
        busy.client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        tokio::task::yield_now().await;
        let drains = (idle.drain.drain(Duration::from_secs(9)), busy.drain.drain(Duration::from_secs(9)));
        tokio::join!(drains.0, drains.1, async {
            let mut text = String::new();
            busy.client.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with("HTTP/1.1 200") && text.contains("connection: close"), "{text}");
        });
        assert!(idle.done.await.unwrap().is_ok() && busy.done.await.unwrap().is_ok());
    });
}

/// A client whose connection the kernel accepted just before a drain is about to send its request, in either version.
#[test]
fn a_client_that_was_just_let_in_is_served_while_we_drain() {
    run(async {
        for (request, answer) in [
            (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &b"HTTP/1.1 200"[..]),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", b"\0\0"),
        ] {
            let mut served = serving(Protocol::Detect, echo);
            let began = tokio::time::Instant::now();
            let (_, ()) = tokio::join!(served.drain.drain(Duration::from_secs(9)), async {
                tokio::time::sleep(Duration::from_millis(600)).await;
                served.client.write_all(request).await.unwrap();
                let mut got = vec![0; answer.len()];
                served.client.read_exact(&mut got).await.unwrap();
                assert_eq!(got, answer);
                drop(served.client);
            });
            assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        }
        // One that says nothing is not waited for.
        let idle = serving(Protocol::Detect, echo);
        let began = tokio::time::Instant::now();
        idle.drain.drain(Duration::from_secs(9)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    });
}

#[test]
fn a_handler_is_dropped_when_its_client_disconnects() {
    struct Told(Rc<Cell<bool>>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    // Without a body, and with one that nobody has read.
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        run(async {
            let dropped = Rc::new(Cell::new(false));
            let tell = dropped.clone();
            let mut served = serving(Protocol::Http1, move |_, body, responder| {
                let told = Told(tell.clone());
                async move {
                    std::future::pending::<()>().await;
                    drop((told, body, responder));
                }
            });
            served.client.write_all(bytes).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(!dropped.get());
            drop(served.client);
            assert!(served.done.await.unwrap().is_err());
            assert!(dropped.get());
        });
    }
}

#[test]
fn a_client_that_reads_nothing_does_not_hold_its_answer_for_ever() {
    run(async {
        let failed = Rc::new(RefCell::new(None));
        let seen = failed.clone();
        let mut served = serving(Protocol::Http1, move |_, _, responder| {
            let seen = seen.clone();
            async move {
                let body = Body::full(Bytes::from(vec![b'x'; 1024 * 1024]));
                let delivery = responder.respond(ResponseHead::new(StatusCode::OK), body).await;
                *seen.borrow_mut() = delivery.err();
            }
        });
        served.client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let began = tokio::time::Instant::now();
        served.done.await.unwrap().unwrap();
        assert_eq!(began.elapsed().as_secs(), 300);
        assert!(failed.borrow().as_ref().is_some_and(|failure| failure.detail.contains("reads nothing")));
    });
}

#[test]
fn a_client_that_reads_a_byte_now_and_then_does_not_hold_its_answer_for_ever_and_a_slow_one_gets_all_of_it() {
    for (bytes, every, whole) in [(1, 50, false), (1024, 250, true)] {
        run(async {
            let mut served = serving(Protocol::Http1, |_, _, responder| async move {
                let body = Body::full(Bytes::from(vec![b'x'; 300 * 1024]));
                let _ = responder.respond(ResponseHead::new(StatusCode::OK), body).await;
            });
            served.client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
            let began = tokio::time::Instant::now();
            let (mut got, mut piece) = (0, vec![0; bytes]);
            while !served.done.is_finished() {
                tokio::time::sleep(Duration::from_secs(every)).await;
                got += served.client.read(&mut piece).await.unwrap_or(0);
            }
            if whole {
                assert!(got > 40 * 1024, "{got}");
            } else {
                assert!((300..=400).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
            }
        });
    }
}
