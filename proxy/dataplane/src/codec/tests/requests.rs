//! What an HTTP/1 client may send, and how it is answered.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

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

/// What comes from HTTP/1 may go on in HTTP/2, where such a value is malformed.
#[test]
fn whitespace_around_a_value_is_not_part_of_it() {
    run(async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let values = seen.clone();
        let mut served = serving(Protocol::Http1, move |head, body, responder| {
            values.borrow_mut().extend(head.headers.get_all("x").iter().cloned());
            echo(head, body, responder)
        });
        let request = b"GET / HTTP/1.1\r\nHost: a\r\nX: \t a b\t \r\nX:c\r\nX: \r\n\r\n";
        served.client.write_all(request).await.unwrap();
        assert!(read_for_a_while(&mut served.client).await.starts_with("HTTP/1.1 200 "));
        assert_eq!(*seen.borrow(), ["a b", "c", ""]);
    });
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
                let _ = responder.respond(head, Body::full(Bytes::from_static(b"SECRET"))).await;
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
fn a_request_without_answer_becomes_a_500() {
    run(async {
        let mut served = serving(Protocol::Http1, |_, _, _| async {});
        served.client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(read_for_a_while(&mut served.client).await.starts_with("HTTP/1.1 500 "));
    });
}

#[test]
fn a_100_is_sent_once_when_the_body_is_read() {
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
fn a_client_that_sends_its_body_at_once_does_not_wait_for_a_100_nor_does_the_upstream() {
    let head = "Host: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    for (request, forwarded, answer) in [
        (format!("POST / HTTP/1.1\r\n{head}"), true, "HTTP/1.1 100 Continue\r\n\r\n"),
        (format!("POST / HTTP/1.1\r\n{head}o"), false, ""),
        (format!("POST / HTTP/1.0\r\n{head}"), false, ""),
    ] {
        run(async {
            let mut served = serving(Protocol::Http1, move |head, body, responder| async move {
                assert_eq!(head.headers.contains_key(http::header::EXPECT), forwarded);
                echo(head, body, responder).await;
            });
            served.client.write_all(request.as_bytes()).await.unwrap();
            assert_eq!(read_for_a_while(&mut served.client).await, answer, "{request}");
        });
    }
}

#[test]
fn a_connection_whose_body_was_never_read_is_not_reused() {
    run(async {
        let mut served = serving(Protocol::Http1, |_, body, responder| async {
            drop(body);
            let _ = responder.respond(ResponseHead::new(StatusCode::EXPECTATION_FAILED), Body::empty()).await;
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
