//! Bytes that are nearly messages: nothing panics, and what is understood is passed on with one meaning only.

use bytes::{Bytes, BytesMut};
use http::Method;
use proptest::prelude::*;

use super::fields::Search;
use super::framing::{Decoded, Decoder, Framing};
use super::parse::{self, Asked};
use super::write::{self, Outgoing};
use crate::codec::head::Scheme;
use crate::codec::limits::Limits;

/// Pieces of which heads are made, and of which attacks on heads are.
const PIECES: &[&str] = &[
    "GET ",
    "POST ",
    "CONNECT ",
    "OPTIONS ",
    "/",
    "*",
    "/a/../b",
    "/%2e%2E/",
    "http://a",
    "https://a:80",
    "a:80",
    "?q",
    "#f",
    " HTTP/1.1",
    " HTTP/1.0",
    "HTTP/1.1 200 OK",
    "HTTP/1.1 101 X",
    "HTTP/1.1 103 X",
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    "Host: a",
    "Host: b:80",
    "Host : a",
    "Content-Length: 1",
    "Content-Length: +1",
    "Content-Length: 1, 1",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip",
    "Transfer-Encoding:\tchunked",
    "Connection: close",
    "Connection: upgrade",
    "Connection: x, host",
    "Upgrade: websocket",
    "Expect: 100-continue",
    "TE: trailers",
    "X: y",
    "X: \u{e9}",
    "x",
    "0",
    "1",
    "5;x=y",
    "ffffffffffffffff",
    "\r\n\r\n",
];

fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        8 => prop::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    let start = prop_oneof![
        Just("GET / HTTP/1.1\r\nHost: a\r\n"),
        Just("POST /a HTTP/1.1\r\n"),
        Just(""),
        Just("HTTP/1.1 200 OK\r\n")
    ];
    (start, prop::collection::vec((line, any::<bool>()), 0..12)).prop_map(|(start, lines)| {
        let mut bytes = start.as_bytes().to_vec();
        for (line, ends) in lines {
            bytes.extend_from_slice(&line);
            if ends {
                bytes.extend_from_slice(b"\r\n");
            }
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    })
}

fn read(bytes: &[u8]) -> Option<(parse::Request, BytesMut)> {
    let mut bytes = BytesMut::from(bytes);
    let read = parse::request(&mut bytes, &mut Search::default(), Scheme::Http, &Limits::default());
    Some((read.ok()??, bytes))
}

fn written(request: &parse::Request) -> Vec<u8> {
    let mut out = Outgoing::default();
    write::request(&mut out, &request.head, request.framing.known());
    out.bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn a_request_that_is_understood_is_passed_on_as_the_same_request(bytes in nearly()) {
        let Some((request, _)) = read(&bytes) else { return Ok(()) };
        if request.head.authority.is_none() {
            // Of HTTP/1.0; it does not get past routing without a host.
            return Ok(());
        }
        let passed_on = written(&request);
        let Some((again, rest)) = read(&passed_on) else {
            return Err(TestCaseError::fail(format!("{:?}", String::from_utf8_lossy(&passed_on))));
        };
        prop_assert!(rest.is_empty(), "a second message: {:?}", rest);
        prop_assert_eq!(&again.head.method, &request.head.method);
        prop_assert_eq!(&again.head.path, &request.head.path);
        prop_assert_eq!(&again.head.authority, &request.head.authority);
        prop_assert_eq!(&again.head.upgrade, &request.head.upgrade);
        prop_assert_eq!(again.framing, request.framing);
        prop_assert_eq!(written(&again), passed_on);
    }

    #[test]
    fn no_response_and_no_body_makes_its_reader_panic(bytes in nearly(), body in nearly(), upgrade in any::<bool>()) {
        let upgrade = upgrade.then(|| http::HeaderValue::from_static("websocket"));
        for method in [Method::GET, Method::HEAD, Method::CONNECT] {
            let asked = Asked { method, upgrade: upgrade.clone() };
            let mut bytes = BytesMut::from(&bytes[..]);
            let read = parse::response(&mut bytes, &mut Search::default(), &asked, &Limits::default());
            if let Ok(Some(response)) = read {
                prop_assert!(response.head.status.as_u16() != 101 || asked.upgrade.is_some());
            }
        }
        let mut decoder = Decoder::new(Framing::Chunked);
        let mut bytes = BytesMut::from(&body[..]);
        while let Ok(Decoded::Data(data)) = decoder.decode(&mut bytes, &Limits::default()) {
            prop_assert!(data != Bytes::new());
        }
    }
}
