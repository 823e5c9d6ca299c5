//! How large heads and trailer sections may be: counted alike in both versions and in both directions.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_core::reason::Reason;
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_local;

use super::support::{echo, get, http2_to, read_for_a_while, run, serving, upstream};
use crate::codec::answer::Answer;
use crate::codec::body::Body;
use crate::codec::client::Exchange;
use crate::codec::limits::Limits;
use crate::codec::server::Protocol;

/// `count` fields which, counted with 32 bytes each, come to `bytes`.
fn fields(count: usize, bytes: usize) -> HeaderMap {
    let field = |at: usize| {
        let size = if at == 0 { bytes / count + bytes % count } else { bytes / count };
        let name = format!("x-{at}");
        let value = "v".repeat(size - 32 - name.len());
        (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap())
    };
    (0..count).map(field).collect()
}

fn text(fields: &HeaderMap) -> String {
    fields.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap())).collect()
}

/// Sizes at the limit and just above it: with `host: a`, which is one field of 37 bytes, 100 fields and 60 KiB.
const ALLOWED: [(usize, usize); 3] = [(99, 8000), (1, 61_440 - 37), (99, 61_440 - 37)];
const REFUSED: [(usize, usize); 3] = [(100, 8000), (1, 61_440 - 36), (99, 61_440 - 36)];

#[test]
fn requests_of_http_1_and_http_2_have_the_same_limit() {
    for (sizes, status) in [(ALLOWED, 200), (REFUSED, 431)] {
        for (count, bytes) in sizes {
            let fields = fields(count, bytes);
            let (answer, refused) = run(async {
                let mut served = serving(Protocol::Http1, echo);
                let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", text(&fields));
                served.client.write_all(head.as_bytes()).await.unwrap();
                (read_for_a_while(&mut served.client).await, served.refusals.take())
            });
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{count} {bytes}: {answer}");
            let reasons = if status == 200 { vec![] } else { vec![Reason::HeadersTooLarge] };
            assert_eq!(refused, reasons, "{count} {bytes}");
            run(async {
                let mut served = serving(Protocol::Http2, echo);
                let (stand_in, _) = tokio::io::duplex(1);
                let stream = std::mem::replace(&mut served.client, stand_in);
                let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
                spawn_local(connection);
                let mut request = http::Request::get("http://a/").body(()).unwrap();
                *request.headers_mut() = fields.clone();
                let (response, _) = send.send_request(request, true).unwrap();
                assert_eq!(response.await.unwrap().status(), status, "{count} {bytes}");
                assert_eq!(served.refusals.take(), reasons, "{count} {bytes}");
            });
        }
    }
}

#[test]
fn responses_of_http_1_and_http_2_have_the_same_limit() {
    // Without a host, which is 1 field and 37 bytes.
    for (sizes, passes) in [(ALLOWED, true), (REFUSED, false)] {
        for (count, bytes) in sizes.map(|(count, bytes)| (if count == 1 { 1 } else { count + 1 }, bytes + 37))
        {
            let fields = fields(count, bytes);
            let answer = run(async {
                let (connection, mut application, _) = upstream();
                let head = format!("HTTP/1.1 304 Not Modified\r\n{}\r\n", text(&fields));
                application.write_all(head.as_bytes()).await.unwrap();
                Exchange::from(connection.send(&get("/"), Body::empty())).answer().await
            });
            check(answer, &fields, passes);
            let answer = run(async {
                let (ours, theirs) = tokio::io::duplex(256 * 1024);
                let of_answer = fields.clone();
                spawn_local(async move {
                    let mut connection = h2::server::handshake(theirs).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let mut response = http::Response::new(());
                        *response.headers_mut() = of_answer.clone();
                        respond.send_response(response, true).unwrap();
                    }
                });
                let connection = http2_to(ours, &Limits::default()).await;
                connection.send(&get("/"), Body::full(Bytes::new())).answer().await
            });
            check(answer, &fields, passes);
        }
    }
}

fn check(answer: Result<Answer, outrigger_core::error::Failure>, fields: &HeaderMap, passes: bool) {
    match answer {
        Ok(Answer::Final(head, _)) => assert!(passes && head.headers == *fields, "{} fields", fields.len()),
        Err(failure) => {
            assert!(!passes && failure.reason == Reason::UpstreamHeadersTooLarge, "{failure}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn as_many_fields_are_read_as_the_limit_says() {
    run(async {
        let limits = Limits { fields: 500, ..Limits::default() };
        for (count, status) in [(499, 200), (500, 431)] {
            let mut served = super::support::serving_within(limits.clone(), Protocol::Http1, echo);
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", text(&fields(count, 25_000)));
            served.client.write_all(head.as_bytes()).await.unwrap();
            let answer = read_for_a_while(&mut served.client).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{count}: {answer}");
        }
    });
}
