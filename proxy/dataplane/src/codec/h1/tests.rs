//! Bytes that are nearly messages, against what holds for all bytes ([`super::properties`]).

use proptest::prelude::*;

use super::properties;

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn a_request_that_is_understood_is_passed_on_as_the_same_request(bytes in nearly()) {
        properties::request(&bytes);
    }

    #[test]
    fn no_response_makes_its_reader_panic(bytes in nearly()) {
        properties::response(&bytes);
    }

    #[test]
    fn no_body_makes_its_reader_panic(bytes in nearly(), cut in 0..64_usize) {
        properties::chunks(&bytes, cut);
    }
}
