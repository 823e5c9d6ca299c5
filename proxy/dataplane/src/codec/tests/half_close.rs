//! Clients that close their side of the connection: behind a whole request, within one, and then the other side too.

use std::time::Duration;

use bytes::Bytes;
use outrigger_core::reason::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frames::*;
use super::support::{echo, run, serving};
use crate::codec::body::Body;
use crate::codec::head::ResponseHead;
use crate::codec::server::Protocol;

#[test]
fn a_client_that_closes_its_side_behind_whole_requests_gets_its_answers() {
    let next = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    for (bytes, answers) in [
        ("GET /a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 1),
        (format!("GET /a HTTP/1.1\r\nHost: a\r\n\r\n{next}{next}"), 3),
        ("GET /a HTTP/1.0\r\n\r\n".to_owned(), 1),
        ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_owned(), 1),
        (
            format!(
                "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n{next}"
            ),
            2,
        ),
        (format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000)), 1),
    ] {
        run(async {
            let mut served = serving(Protocol::Http1, |head, body, responder| async {
                // Long after the client has closed, and without a look at the body.
                tokio::time::sleep(Duration::from_secs(100)).await;
                echo(head, body, responder).await;
            });
            served.client.write_all(bytes.as_bytes()).await.unwrap();
            served.client.shutdown().await.unwrap();
            let mut text = String::new();
            served.client.read_to_string(&mut text).await.unwrap();
            assert_eq!(text.matches("HTTP/1.1 200 OK").count(), answers, "{bytes:.60}: {text:.300}");
            assert!(served.done.await.unwrap().is_ok());
        });
    }
}

#[test]
fn a_client_that_closes_its_side_and_reads_slowly_gets_the_end_of_its_response() {
    const LENGTH: usize = 300 * 1024;
    run(async {
        let mut served = serving(Protocol::Http2, |_, _, responder| async move {
            let body = Body::full(Bytes::from(vec![0; LENGTH]));
            let _ = responder.respond(ResponseHead::new(http::StatusCode::OK), body).await;
        });
        let window = 1_u32 << 20;
        let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
        let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, GET);
        let bytes = opening(&settings, &[frame(WINDOW_UPDATE, 0, 0, &window.to_be_bytes()), request]);
        served.client.write_all(&bytes).await.unwrap();
        served.client.shutdown().await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let all = frames(&mut served.client).await;
        let data: Vec<_> = all.iter().filter(|(kind, ..)| *kind == DATA).collect();
        assert_eq!(data.iter().map(|(.., payload)| payload.len()).sum::<usize>(), LENGTH);
        assert_eq!(data.last().unwrap().1, END_STREAM);
        assert!(served.done.await.unwrap().is_ok());
    });
}

#[test]
fn a_client_that_closes_its_side_within_a_request_is_gone_at_once() {
    for bytes in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        run(async {
            let mut served = serving(Protocol::Http1, |_, body, responder| async move {
                std::future::pending::<()>().await;
                drop((body, responder));
            });
            let began = tokio::time::Instant::now();
            served.client.write_all(bytes.as_bytes()).await.unwrap();
            served.client.shutdown().await.unwrap();
            let failure = served.done.await.unwrap().unwrap_err();
            assert_eq!(failure.reason, Reason::DownstreamConnectionTermination);
            assert!(began.elapsed() < Duration::from_secs(1));
        });
    }
}

#[test]
fn a_client_that_closes_the_rest_later_is_gone_then() {
    run(async {
        let mut served = serving(Protocol::Http1, |_, body, responder| async move {
            std::future::pending::<()>().await;
            drop((body, responder));
        });
        served.client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        served.client.shutdown().await.unwrap();
        tokio::time::sleep(Duration::from_secs(500)).await;
        assert!(!served.done.is_finished());
        drop(served.client);
        tokio::time::timeout(Duration::from_secs(2), served.done).await.unwrap().unwrap().unwrap_err();
    });
}

/// What an HTTP/2 client that sends a preface, empty SETTINGS and these frames, and closes its side, reads to the end; and
/// how long that took.
async fn http2(frames: &[u8]) -> (Vec<u8>, Duration) {
    let mut served = serving(Protocol::Http2, |head, body, responder| async {
        tokio::time::sleep(Duration::from_secs(100)).await;
        echo(head, body, responder).await;
    });
    let began = tokio::time::Instant::now();
    let opening = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], frames].concat();
    served.client.write_all(&opening).await.unwrap();
    served.client.shutdown().await.unwrap();
    let mut bytes = Vec::new();
    served.client.read_to_end(&mut bytes).await.unwrap();
    (bytes, began.elapsed())
}

#[test]
fn an_http_2_client_that_closes_its_side_gets_its_answers() {
    // HEADERS with END_STREAM and END_HEADERS, of a GET of http://a/.
    let get =
        |stream: u8| [&[0, 0, 6, 1, 5, 0, 0, 0, stream][..], &[0x82, 0x86, 0x84, 0x41, 1, b'a']].concat();
    let (bytes, elapsed) = run(http2(&[get(1), get(3)].concat()));
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(text.matches("GET http://a/").count(), 2, "{text}");
    // One that was gone would answer it with a reset.
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0];
    assert_eq!(bytes.windows(9).filter(|frame| *frame == ping).count(), 1);
    assert_eq!(elapsed.as_secs(), 100);
}

#[test]
fn an_http_2_client_that_closes_its_side_within_a_request_is_gone_at_once() {
    // HEADERS of a POST, without END_STREAM.
    let post = [&[0, 0, 6, 1, 4, 0, 0, 0, 1][..], &[0x83, 0x86, 0x84, 0x41, 1, b'a']].concat();
    let (_, elapsed) = run(http2(&post));
    assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
}
