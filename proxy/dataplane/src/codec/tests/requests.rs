//! What an HTTP/1 client may send, what it gets for it, and what is refused before anybody sees it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use outrigger_core::reason::Reason;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{echo, read_for_a_while, run, said_to, serving};
use crate::codec::body::Body;
use crate::codec::head::ResponseHead;
use crate::codec::server::Protocol;

#[test]
fn a_request_is_answered_and_the_connection_stays() {
    run(async {
        let (text, _) =
            said_to(b"GET /a HTTP/1.1\r\nHost: cart\r\n\r\nGET /b HTTP/1.1\r\nHost: cart\r\n\r\n").await;
        assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{text}");
        assert_eq!(text.matches("\r\ndate: ").count(), 2, "{text}");
        assert!(text.find("GET http://cart/a").unwrap() < text.find("GET http://cart/b").unwrap(), "{text}");
        assert!(!text.contains("connection:"), "{text}");
    });
}

#[test]
fn bodies_of_both_framings_are_read_to_their_end() {
    run(async {
        for body in [
            &b"Content-Length: 5\r\n\r\nhello"[..],
            b"transfer-encoding: Chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
        ] {
            let head = b"POST / HTTP/1.1\r\nHost: cart\r\n";
            let (text, _) =
                said_to(&[head, body, b"GET /next HTTP/1.1\r\nHost: cart\r\n\r\n"].concat()).await;
            assert!(text.contains("POST http://cart/ hello") && text.contains("/next"), "{text}");
        }
    });
}

#[test]
fn trailers_of_a_request_come_up_without_those_that_are_forbidden() {
    run(async {
        let (text, _) = said_to(
            b"POST / HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 7\r\nHost: evil\r\n\r\n",
        )
        .await;
        assert!(text.contains("\"x-sum\": \"7\"") && !text.contains("evil"), "{text}");
    });
}

#[test]
fn the_four_forms_of_a_target_are_read() {
    run(async {
        for (line, seen) in [
            ("GET /p?q=1 HTTP/1.1\r\nHost: cart:80", "GET http://cart:80/p?q=1"),
            ("GET http://cart:80/p HTTP/1.1\r\nHost: cart", "GET http://cart:80/p"),
            ("GET http://cart HTTP/1.1\r\nHost: CART:80", "GET http://cart/"),
            ("GET http://cart?q HTTP/1.1\r\nHost: cart", "GET http://cart/?q"),
            ("GET /a/%2e%2e/admin?q=/.. HTTP/1.1\r\nHost: cart", "GET http://cart/admin?q=/.."),
            ("GET http://cart/a/../admin HTTP/1.1\r\nHost: cart", "GET http://cart/admin"),
            ("OPTIONS * HTTP/1.1\r\nHost: cart", "OPTIONS http://cart*"),
            ("OPTIONS http://cart:80 HTTP/1.1\r\nHost: cart", "OPTIONS http://cart:80*"),
            ("OPTIONS http://cart/ HTTP/1.1\r\nHost: cart", "OPTIONS http://cart/ "),
            ("OPTIONS http://cart?q HTTP/1.1\r\nHost: cart", "OPTIONS http://cart/?q"),
            ("GET / HTTP/1.1\r\nHost: cart:", "GET http://cart/"),
            ("GET http://cart:/ HTTP/1.1\r\nHost: cart:80", "GET http://cart/"),
            ("CONNECT cart:80 HTTP/1.1\r\nHost: cart:80", "CONNECT http://cart:80/"),
            ("GET / HTTP/1.0", "GET http:///"),
        ] {
            let (text, _) = said_to(format!("{line}\r\n\r\n").as_bytes()).await;
            assert!(text.contains(seen), "{line}: {text}");
        }
    });
}

#[test]
fn what_is_malformed_is_refused_and_nothing_is_handed_up() {
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000));
    let many_fields = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(100));
    let large_head = format!("GET / HTTP/1.1\r\nHost: a\r\na: {}\r\n\r\n", "b".repeat(61 * 1024));
    let endless_head = format!("GET / HTTP/1.1\r\nHost: a\r\na: {}", "b".repeat(70 * 1024));
    let table: &[(&[u8], &str)] = &[
        (b"GET / HTTP/1.1\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "400"),
        (b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", "400"),
        (b"GET http://a/ HTTP/1.1\r\n\r\n", "400"),
        (b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET a/b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("GET /caf\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(), "400"),
        ("GET /?caf\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(), "400"),
        ("GET http://a/caf\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(), "400"),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"OPTIONS *a HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"OPTIONS /\t HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: b:80\r\n\r\n", "400"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 4\r\n\r\nGET ", "400"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "400"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "400"),
        (b"GET /\r\nHost: a\r\n\r\n", "400"),
        // Refused at once, though a blank line may still come.
        (b"GET /c\r\n", "400"),
        (b"GET /c\n", "400"),
        (b"GET /c HTTP/9.9\r\n", "400"),
        (b"GET /c HTTP/1.1 \r\n", "400"),
        (b"GET /c http/1.1\r\n", "400"),
        (b"GET\r\n", "400"),
        (b"EHLO mail\r\n", "400"),
        (b"GET / HTTP/1.1\rHost: a\r\r\n", "400"),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (b"\x16\x03\x01\x02\x00", "400"),
        (b"GET / HTTP/1.1\nHost: a\n\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX(y: 1\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", "400"),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", "400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\na", "400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na", "400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na", "400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\na", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: authorization\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Host\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Content-Length\r\n\r\n", "400"),
        (long_target.as_bytes(), "414"),
        (many_fields.as_bytes(), "431"),
        (large_head.as_bytes(), "431"),
        (endless_head.as_bytes(), "431"),
    ];
    for (bytes, status) in table {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
        run(async {
            let seen = Rc::new(Cell::new(0));
            let count = seen.clone();
            let mut served = serving(Protocol::Http1, move |head, body, responder| {
                count.set(count.get() + 1);
                echo(head, body, responder)
            });
            served.client.write_all(bytes).await.unwrap();
            let text = read_for_a_while(&mut served.client).await;
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?}: {text:?}");
            assert!(
                text.contains("connection: close\r\n") && text.contains("x-outrigger-reason: "),
                "{text}"
            );
            assert_eq!((seen.get(), served.refusals.borrow().len()), (0, 1), "{shown:?}");
        });
    }
}

#[test]
fn naming_the_framing_of_this_hop_does_not_take_it_away() {
    run(async {
        let (text, refused) = said_to(
            b"POST / HTTP/1.1\r\nHost: cart\r\nConnection: Transfer-Encoding, TE, Trailer\r\nTE: trailers\r\nTrailer: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\n\r\nGET /next HTTP/1.1\r\nHost: cart\r\n\r\n",
        )
        .await;
        assert!(
            text.contains("POST http://cart/ he") && text.contains("/next") && refused.is_empty(),
            "{text}"
        );
    });
}

#[test]
fn a_body_that_breaks_a_rule_fails_for_whoever_reads_it_and_ends_the_connection() {
    for (body, reason) in [
        ("Transfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n", Reason::DownstreamProtocolError),
        ("Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", Reason::DownstreamProtocolError),
        ("Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", Reason::DownstreamProtocolError),
    ] {
        run(async {
            let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
            let (text, _) = said_to(format!("POST / HTTP/1.1\r\nHost: a\r\n{body}{next}").as_bytes()).await;
            assert!(text.contains(reason.name()) && !text.contains("/next"), "{body}: {text}");
        });
    }
}

#[test]
fn a_body_that_stops_early_is_an_error_and_no_end() {
    for head in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        run(async {
            let failed = Rc::new(RefCell::new(None));
            let seen = failed.clone();
            let mut served = serving(Protocol::Http1, move |_, mut body: Body, responder| {
                let seen = seen.clone();
                async move {
                    while let Some(frame) = body.frame().await {
                        *seen.borrow_mut() = frame.err().map(|failure| failure.reason);
                    }
                    drop(responder);
                }
            });
            served
                .client
                .write_all(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n5\r\nab").as_bytes())
                .await
                .unwrap();
            served.client.shutdown().await.unwrap();
            read_for_a_while(&mut served.client).await;
            if head.starts_with("Transfer") {
                assert_eq!(*failed.borrow(), Some(Reason::DownstreamConnectionTermination));
            }
        });
    }
}

#[test]
fn an_old_client_gets_no_chunks_and_may_keep_its_connection() {
    run(async {
        let (text, _) = said_to(b"GET / HTTP/1.0\r\n\r\n").await;
        assert!(text.contains("connection: close\r\n") && !text.contains("chunked"), "{text}");
        let (text, _) = said_to(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        assert!(text.contains("connection: keep-alive\r\n"), "{text}");
    });
}

#[test]
fn a_client_that_wants_to_close_is_closed_after_its_answer() {
    run(async {
        let (text, _) = said_to(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
        assert!(text.contains("connection: close\r\n") && !text.contains("/next"), "{text}");
    });
}

#[test]
fn statuses_without_body_have_none() {
    run(async {
        for (request, status) in [("GET", 204), ("GET", 304), ("HEAD", 200)] {
            let mut served = serving(Protocol::Http1, move |_, _, responder| async move {
                let head = ResponseHead::new(StatusCode::from_u16(status).unwrap());
                responder.respond(head, Body::full(Bytes::from_static(b"SECRET"))).await;
            });
            served
                .client
                .write_all(format!("{request} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let text = read_for_a_while(&mut served.client).await;
            assert!(!text.contains("SECRET") && !text.contains("chunked"), "{text}");
            assert_eq!(text.contains("content-length: 6"), status != 204, "{text}");
        }
    });
}

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
fn a_handler_is_dropped_when_its_client_goes_away() {
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
                *seen.borrow_mut() = delivery.outcome.err();
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
                responder.respond(ResponseHead::new(StatusCode::OK), body).await;
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

#[test]
fn a_request_without_answer_becomes_a_500() {
    run(async {
        let mut served = serving(Protocol::Http1, |_, _, _| async {});
        served.client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_for_a_while(&mut served.client).await.starts_with("HTTP/1.1 500 "));
    });
}

#[test]
fn a_100_is_sent_when_somebody_reads_the_body_and_never_twice() {
    run(async {
        let bytes = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        let mut served = serving(Protocol::Http1, |head, body, mut responder| async {
            responder.interim(ResponseHead::new(StatusCode::CONTINUE)).await.unwrap();
            echo(head, body, responder).await;
        });
        served.client.write_all(bytes).await.unwrap();
        assert_eq!(read_for_a_while(&mut served.client).await, "HTTP/1.1 100 Continue\r\n\r\n");
        served.client.write_all(b"ok").await.unwrap();
        assert!(read_for_a_while(&mut served.client).await.ends_with("/ ok"));

        let mut served = serving(Protocol::Http1, echo);
        served.client.write_all(bytes).await.unwrap();
        assert_eq!(read_for_a_while(&mut served.client).await, "HTTP/1.1 100 Continue\r\n\r\n");
    });
}

#[test]
fn a_connection_whose_body_was_never_asked_for_is_not_used_again() {
    run(async {
        let mut served = serving(Protocol::Http1, |_, body, responder| async {
            drop(body);
            responder.respond(ResponseHead::new(StatusCode::EXPECTATION_FAILED), Body::empty()).await;
        });
        let bytes = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        served.client.write_all(bytes).await.unwrap();
        let text = read_for_a_while(&mut served.client).await;
        assert!(text.starts_with("HTTP/1.1 417") && text.contains("connection: close"), "{text}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn however_bytes_are_split_the_answer_is_the_same(cuts in prop::collection::vec(0_usize..210, 0..8)) {
        let bytes = b"POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\nGET /b HTTP/1.1\r\nHost: cart\r\nContent-Length: 4\r\n\r\nabcdBAD REQUEST\r\n\r\n";
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let text = run(async {
            let mut served = serving(Protocol::Http1, echo);
            for cut in cuts.windows(2) {
                served.client.write_all(&bytes[cut[0]..cut[1]]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            read_for_a_while(&mut served.client).await
        });
        prop_assert!(text.contains("/a abc {\"x\": \"y\"}") && text.contains("/b abcd"), "{}", text);
        prop_assert!(text.matches("HTTP/1.1 ").count() == 3 && text.contains("HTTP/1.1 400 "), "{}", text);
    }
}
