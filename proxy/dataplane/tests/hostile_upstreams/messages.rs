//! Responses that are malformed (RFC 9113 section 8): errors of their stream.

use crate::row::*;
use crate::support::frames::*;

const RESET: &str = "RST 3 PROTOCOL_ERROR";

/// A response with these fields instead of `:status: 200`.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let fields: Vec<_> = fields.iter().map(|(name, value)| field(name, value)).collect();
    frame(HEADERS, WHOLE, TESTED, &fields.concat())
}

#[tokio::test]
async fn heads_that_are_malformed() {
    let malformed = |section, what, head: Vec<u8>| row(section, what, GET, &[head], RESET, MALFORMED);
    let with = |name, value| head(END_STREAM, &[field(name, value)]);
    check(vec![
        malformed("8.2.1", "a name in upper case", with("X-Test", "1")),
        malformed("8.2.1", "an empty name", with("", "1")),
        malformed("8.2.1", "a name with a space", with("x y", "1")),
        malformed("8.2.1", "a name with a colon within", with("x:y", "1")),
        malformed("8.2.1", "a name with a line end", with("x\r\ny", "1")),
        malformed("8.2.1", "a value with a line end", with("x", "1\r\nset-cookie: a=b")),
        malformed("8.2.1", "a value with NUL", with("x", "1\0")),
        malformed("8.2.1", "a value with a space before it", with("x", " 1")),
        malformed("8.2.1", "a value with a tab behind it", with("x", "1\t")),
        malformed("8.2.2", "connection", with("connection", "keep-alive")),
        malformed("8.2.2", "keep-alive", with("keep-alive", "timeout=5")),
        malformed("8.2.2", "proxy-connection", with("proxy-connection", "keep-alive")),
        malformed("8.2.2", "transfer-encoding", with("transfer-encoding", "chunked")),
        malformed("8.2.2", "upgrade", with("upgrade", "websocket")),
        malformed("8.3", "an unknown pseudo-field", with(":test", "1")),
        malformed("8.3", "a pseudo-field of requests", with(":path", "/")),
        malformed("8.3", "a pseudo-field behind other fields", fields(&[("x", "1"), (":status", "200")])),
        malformed("8.3", "an empty pseudo-field", fields(&[(":status", "")])),
        malformed("8.3.2", "no :status", fields(&[("x", "1")])),
        malformed("8.3.2", "an empty section", fields(&[])),
        malformed("8.3.2", "two :status", with(":status", "200")),
        malformed("8.3.2", "a :status of two digits", fields(&[(":status", "20")])),
        malformed("8.3.2", "a :status that is no number", fields(&[(":status", "2x0")])),
        malformed("8.3.2", "a :status below 100", fields(&[(":status", "099")])),
        malformed("8.1.1", "content-length without a body", with("content-length", "1")),
        malformed(
            "8.1.1",
            "two values of content-length",
            head(END_STREAM, &[field("content-length", "0"), field("content-length", "1")]),
        ),
        malformed("8.1.1", "a content-length with a sign", with("content-length", "+0")),
        malformed("8.1", "an interim response that ends the stream", fields(&[(":status", "103")])),
        malformed("8.1", "DATA before the head", data(END_STREAM, b"x")),
    ])
    .await;
    // It is well-formed, and means what HTTP/2 does not have.
    let switches = frame(HEADERS, END_HEADERS, TESTED, &field(":status", "101"));
    check(vec![row("8.6", "a 101", GET, &[switches], "RST 3 CANCEL", MALFORMED)]).await;
}

#[tokio::test]
async fn bodies_and_trailers_that_are_malformed() {
    let cut = |section, what, wire, frames: &[Vec<u8>]| row(section, what, GET, frames, wire, "200 cut");
    let long = |length| head(0, &[field("content-length", length)]);
    let trailers = |fields: &[u8]| frame(HEADERS, WHOLE, TESTED, fields);
    let body = || data(0, b"ab");
    check(vec![
        cut(
            "8.1",
            "trailers without END_STREAM",
            RESET,
            &[head(0, &[]), body(), frame(HEADERS, END_HEADERS, TESTED, &field("x", "1"))],
        ),
        cut("8.1.1", "less DATA than content-length", RESET, &[long("3"), data(END_STREAM, b"ab")]),
        cut(
            "8.1.1",
            "less DATA in two frames than content-length",
            RESET,
            &[long("5"), body(), data(END_STREAM, b"ab")],
        ),
        cut("8.1.1", "more DATA than content-length", RESET, &[long("3"), body(), data(END_STREAM, b"ab")]),
        cut(
            "8.1.1",
            "less DATA than content-length before trailers",
            RESET,
            &[long("3"), body(), trailers(&field("x", "1"))],
        ),
        cut(
            "8.1",
            "a pseudo-field among trailers",
            RESET,
            &[head(0, &[]), body(), trailers(&field(":status", "200"))],
        ),
        cut(
            "8.2.1",
            "a name in upper case among trailers",
            RESET,
            &[head(0, &[]), body(), trailers(&field("X", "1"))],
        ),
        cut(
            "8.2.1",
            "a value with a line end among trailers",
            RESET,
            &[head(0, &[]), body(), trailers(&field("x", "1\r\n"))],
        ),
        cut(
            "8.2.2",
            "connection among trailers",
            RESET,
            &[head(0, &[]), body(), trailers(&field("connection", "close"))],
        ),
    ])
    .await;
}
