//! HTTP/1 requests that break a rule: refused before a handler sees them, or failing where their body is read.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use outrigger_core::reason::Reason;
use tokio::io::AsyncWriteExt;

use super::support::{echo, read_for_a_while, run, said_to, serving};
use crate::codec::body::Body;
use crate::codec::server::Protocol;

#[test]
fn a_malformed_request_is_refused_and_reaches_no_handler() {
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9000));
    let long_method = format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "X".repeat(65));
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
        (long_method.as_bytes(), "400"),
        (&long_method.as_bytes()[..65], "400"),
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
                text.contains("connection: close\r\n")
                    && text.contains("x-outrigger-reason: ")
                    && text.contains("; see: "),
                "{text}"
            );
            assert_eq!((seen.get(), served.refusals.borrow().len()), (0, 1), "{shown:?}");
        });
    }
}

#[test]
fn a_malformed_body_fails_for_its_reader_and_ends_the_connection() {
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
