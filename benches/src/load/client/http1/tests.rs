use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::super::recorder::Shared;
use super::*;

fn request(method: Method, body: &'static [u8]) -> HttpRequest {
    HttpRequest {
        method,
        authority: "shop:80".into(),
        path: "/items?all".into(),
        headers: HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("*/*"))]),
        body: Bytes::from_static(body),
        expect: Expect::default(),
    }
}

/// Accepts connections one after the other and answers each with the next text, then closes it.
async fn server(answers: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
            // In pieces, so that every state of the parser is entered.
            for piece in answer.as_bytes().chunks(7) {
                stream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    address
}

async fn outcome(answer: &'static [&'static str], request: &HttpRequest) -> Result<u64, Failure> {
    let connector = Connector::new(server(answer).await, None, Arc::new(Shared::default()));
    let mut client = Http1::new(Rc::new(connector), request, false);
    client.exchange().await.map(|received| received.bytes)
}

#[test]
fn a_request_is_encoded_with_its_host_and_length() {
    let text = |request, once| String::from_utf8(encode(&request, once).into()).unwrap();
    assert_eq!(
        text(request(Method::GET, b""), false),
        "GET /items?all HTTP/1.1\r\nhost: shop:80\r\naccept: */*\r\n\r\n"
    );
    assert_eq!(
        text(request(Method::POST, b"abc"), true),
        "POST /items?all HTTP/1.1\r\nhost: shop:80\r\naccept: */*\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc"
    );
}

#[tokio::test]
async fn bodies_of_every_framing_are_read() {
    let get = request(Method::GET, b"");
    for (answer, expected) in [
        (&["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"], 5),
        (&["HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"], 0),
        (
            &[
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nsum: 1\r\n\r\n",
            ],
            13,
        ),
        (&["HTTP/1.0 200 OK\r\n\r\nuntil the end"], 13),
    ] {
        assert_eq!(outcome(answer, &get).await, Ok(expected), "{answer:?}");
    }
    let head = request(Method::HEAD, b"");
    assert_eq!(outcome(&["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"], &head).await, Ok(0));
}

#[tokio::test]
async fn answers_that_are_wrong_are_failures_by_kind() {
    let mut get = request(Method::GET, b"");
    get.expect.length = Some(4);
    for (answer, expected) in [
        (&["HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"], Failure::Status(503)),
        (
            &["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"],
            Failure::Length { received: 5, expected: 4 },
        ),
        (&["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel"], Failure::Closed),
        (&["HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello"], Failure::Malformed("content-length")),
        (
            &["HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"],
            Failure::Malformed("transfer-encoding"),
        ),
        (
            &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n"],
            Failure::Malformed("end of a chunk"),
        ),
        (&["SSH-2.0-OpenSSH_9.2\r\n"], Failure::Malformed("not a response of HTTP/1")),
        (&[""], Failure::Closed),
    ] {
        assert_eq!(outcome(answer, &get).await, Err(expected), "{answer:?}");
    }
}

#[tokio::test]
async fn a_connection_that_the_server_closes_is_opened_again() {
    let answers = &[
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes",
    ];
    let shared = Arc::new(Shared::default());
    let connector = Connector::new(server(answers).await, None, Arc::clone(&shared));
    let mut client = Http1::new(Rc::new(connector), &request(Method::GET, b""), false);
    assert_eq!(client.exchange().await.unwrap().bytes, 2);
    assert!(client.stream.is_none());
    assert_eq!(client.exchange().await.unwrap().bytes, 3);
    assert!(client.stream.is_some());
    assert_eq!(shared.connections.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_was_idle_is_no_failure() {
    let answers = &["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"];
    let shared = Arc::new(Shared::default());
    let connector = Connector::new(server(answers).await, None, Arc::clone(&shared));
    let mut client = Http1::new(Rc::new(connector), &request(Method::GET, b""), false);
    client.exchange().await.unwrap();
    while duplex::is_quiet(client.stream.as_mut().unwrap()).await {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    client.exchange().await.unwrap();
    assert_eq!(shared.connections.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_server_that_answers_while_it_reads_does_not_deadlock() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let size = 32 << 20;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let mut upload = request(Method::PUT, b"");
    upload.body = vec![b'x'; size].into();
    let connector = Connector::new(address, None, Arc::new(Shared::default()));
    let mut client = Http1::new(Rc::new(connector), &upload, false);
    // It echoes the head of the request too, which is the rest of the last read.
    assert_eq!(client.exchange().await.unwrap().bytes, size as u64);
}
