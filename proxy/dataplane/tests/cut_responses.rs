//! Responses that break off after their head: the bytes before are passed on, the request is executed once, and the client
//! receives the code that the stream was reset with. Through one proxy and through two.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::SocketAddr;

use http::Request;
use outrigger_config::cluster::{Cluster, UpstreamProtocol};
use outrigger_config::route::{Forward, RouteAction};
use outrigger_test_support::application::{Application, Connection};
use outrigger_test_support::client::Client;
use outrigger_test_support::http2;
use support::{Proxy, World, cluster, endpoint, forward, to};
use tokio::io::AsyncReadExt;

/// What an HTTP/2 client receives: the status, the data, and the reset code.
type Read = (u16, String, Option<u32>);

async fn get(from: SocketAddr) -> Read {
    let mut send = http2::connect(from).await;
    let request = Request::get("http://app/").body(()).unwrap();
    let response = match send.send_request(request, true).unwrap().0.await {
        Ok(response) => response,
        Err(error) => return (0, String::new(), error.reason().map(u32::from)),
    };
    let (status, mut body) = (response.status().as_u16(), response.into_body());
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => text.extend_from_slice(&data),
            Err(error) => {
                let code = error.reason().map(u32::from);
                return (status, String::from_utf8(text).unwrap(), code);
            }
        }
    }
    let code = body.trailers().await.err().and_then(|error| error.reason()).map(u32::from);
    (status, String::from_utf8(text).unwrap(), code)
}

/// Returns a proxy that retries in front of the application, and one in front of a second proxy that does not retry.
fn plain_and_pair(application: SocketAddr, protocol: UpstreamProtocol) -> (Proxy, [Proxy; 2]) {
    let app = || Cluster { protocol, ..cluster("app", [endpoint(application)]) };
    let plain = World::new().proxy().cluster_of(app()).http("app:80", forward("app")).start();
    let once = RouteAction::Forward(Box::new(Forward { retry: None, ..to("app") }));
    let inbound = World::new().proxy().cluster_of(app()).http("app:80", once).start();
    let sidecar =
        Cluster { protocol: UpstreamProtocol::Http2, ..cluster("app", [endpoint(inbound.address(0))]) };
    let outbound = World::new().proxy().cluster_of(sidecar).http("app:80", forward("app")).start();
    (plain, [outbound, inbound])
}

/// Returns what a client receives through one proxy and through two, and how many requests the application received for each.
async fn read(application: &Application, protocol: UpstreamProtocol) -> [(Read, usize); 2] {
    let (plain, pair) = plain_and_pair(application.address, protocol);
    let through_one = get(plain.address(0)).await;
    let asked = application.requests();
    let through_two = get(pair[0].address(0)).await;
    [(through_one, asked), (through_two, application.requests() - asked)]
}

/// An application that reads one request and answers with these bytes, then closes the connection if `closes`.
async fn http1(answer: String, closes: bool) -> Application {
    Application::raw(move |mut connection| {
        let answer = answer.clone();
        async move {
            let mut head = [0; 4096];
            if connection.stream.read(&mut head).await.unwrap() == 0 {
                return;
            }
            connection.count_request();
            let _ = connection.send(answer).await;
            if !closes {
                let _ = connection.stream.read(&mut head).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_truncated_http1_response_is_not_retried_and_is_passed_on_as_far_as_it_came() {
    let chunked =
        |rest: &str| format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n{rest}");
    for (answer, closes) in [
        (chunked(&format!("0\r\nx: {}\r\n\r\n", "x".repeat(70_000))), false),
        (chunked("ZZ\r\nabc\r\n0\r\n\r\n"), false),
        (chunked("0\r\nno colon\r\n\r\n"), false),
        (chunked(""), true),
        ("HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\nabc".into(), true),
    ] {
        let application = http1(answer.clone(), closes).await;
        let expected = ((200, "abc".to_owned(), Some(2)), 1);
        let got = read(&application, UpstreamProtocol::Http1).await;
        assert_eq!(got, [expected.clone(), expected], "{:?}", &answer[..answer.len().min(90)]);
        let (plain, pair) = plain_and_pair(application.address, UpstreamProtocol::Http1);
        for proxy in [&plain, &pair[0]] {
            let mut client = Client::connect(proxy.address(0)).await;
            client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
            assert!(client.head().await.starts_with("HTTP/1.1 200 "), "a client of HTTP/1 reads the head");
        }
        assert_eq!(application.requests(), 4);
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`.
const OK: u8 = 0x88;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns the stream of the next request.
async fn next_request(connection: &mut Connection) -> Option<u32> {
    let stream = &mut connection.stream;
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let [a, b, c, kind, _, on @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await.ok()?;
        if kind == HEADERS {
            return Some(u32::from_be_bytes(on));
        }
    }
    None
}

/// Returns a head with a field name in upper case (RFC 9113 section 8.2.1).
fn upper() -> Vec<u8> {
    [&[OK, 0, 7][..], b"X-Upper", &[1], b"a"].concat()
}

/// An application that answers each request with these frames in one write: type, flags, payload.
async fn answering_frames(answer: Vec<(u8, u8, Vec<u8>)>) -> Application {
    Application::raw(move |mut connection| {
        let answer = answer.clone();
        async move {
            let mut preface = [0; 24];
            connection.stream.read_exact(&mut preface).await.unwrap();
            connection.send(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            while let Some(on) = next_request(&mut connection).await {
                connection.count_request();
                let frames =
                    answer.iter().flat_map(|(kind, flags, payload)| frame(*kind, *flags, on, payload));
                connection.send(&frames.collect::<Vec<_>>()).await.unwrap();
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_response_of_http2_that_is_reset_at_once_is_passed_on_with_its_code() {
    for code in [8, 11, 13] {
        let reset = (RST_STREAM, 0, vec![0, 0, 0, code]);
        let head = (HEADERS, END_HEADERS, vec![OK]);
        for (frames, data) in
            [(vec![head.clone(), reset.clone()], ""), (vec![head, (DATA, 0, b"abc".to_vec()), reset], "abc")]
        {
            let application = answering_frames(frames).await;
            let expected = ((200, data.to_owned(), Some(u32::from(code))), 1);
            let got = read(&application, UpstreamProtocol::Http2).await;
            assert_eq!(got, [expected.clone(), expected]);
        }
    }
}

#[tokio::test]
async fn a_malformed_http2_response_is_not_retried() {
    let data = |flags, data: &[u8]| (DATA, flags, data.to_vec());
    // A literal field with an indexed name.
    let length = [&[OK, 0x0f, 0x0d, 2][..], b"10"].concat();
    for frames in [
        vec![
            (HEADERS, END_HEADERS, vec![OK]),
            data(0, b"abc"),
            (HEADERS, END_HEADERS | END_STREAM, vec![OK]),
        ],
        vec![(HEADERS, END_HEADERS, length), data(END_STREAM, b"abc")],
    ] {
        let application = answering_frames(frames).await;
        for ((status, _, code), asked) in read(&application, UpstreamProtocol::Http2).await {
            assert_eq!((status, code, asked), (200, Some(2), 1));
        }
    }
}

#[tokio::test]
async fn an_http2_head_with_a_malformed_field_is_not_retried() {
    let application = answering_frames(vec![(HEADERS, END_HEADERS | END_STREAM, upper())]).await;
    for ((status, _, code), asked) in read(&application, UpstreamProtocol::Http2).await {
        assert_eq!((status, code, asked), (502, None, 1));
    }
}

/// RFC 9113 section 8.1.1: it is an error of its stream.
#[tokio::test]
async fn a_malformed_head_ends_no_other_stream_of_its_connection() {
    let application = Application::raw(|mut connection| async move {
        let mut preface = [0; 24];
        connection.stream.read_exact(&mut preface).await.unwrap();
        connection.send(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let mut waiting = Vec::new();
        while let Some(on) = next_request(&mut connection).await {
            if connection.count_request() == 0 {
                waiting.push(on);
                continue;
            }
            connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, on, &upper())).await.unwrap();
            for on in waiting.drain(..) {
                connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, on, &[OK])).await.unwrap();
            }
        }
    })
    .await;
    let (plain, _pair) = plain_and_pair(application.address, UpstreamProtocol::Http2);
    let first = tokio::spawn(get(plain.address(0)));
    while application.requests() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(get(plain.address(0)).await.0, 502);
    assert_eq!((first.await.unwrap().0, application.requests(), application.connections()), (200, 2, 1));
}
