//! HTTP/2 requests that break a rule, in frames made by hand.

use std::cell::Cell;
use std::rc::Rc;

use tokio::io::AsyncWriteExt;

use super::frames::*;
use super::support::{echo, run, serving};
use crate::codec::server::Protocol;

#[test]
fn a_malformed_request_is_refused_and_reaches_no_handler() {
    let with = |extra: Vec<u8>| [GET.to_vec(), extra].concat();
    for (name, block) in [
        ("an upper-case name", with(field(b"X-Y", b"1"))),
        ("a name with a line end", with(field(b"x\r\ny", b"1"))),
        ("a value with a line end", with(field(b"x", b"1\r\nhost: evil"))),
        ("a value with NUL", with(field(b"x", b"1\0"))),
        ("a value with a space before it", with(field(b"x", b" 1"))),
        ("a value with a tab behind it", with(field(b"x", b"1\t"))),
        ("a value that is a space", with(field(b"x", b" "))),
        ("connection", with(field(b"connection", b"close"))),
        ("transfer-encoding", with(field(b"transfer-encoding", b"chunked"))),
        ("upgrade", with(field(b"upgrade", b"websocket"))),
        ("te", with(field(b"te", b"gzip"))),
        ("two lengths", with([field(b"content-length", b"0"), field(b"content-length", b"1")].concat())),
        ("a signed length", with(field(b"content-length", b"+0"))),
        ("a pseudo-field behind fields", with([field(b"x", b"1"), field(b":path", b"/admin")].concat())),
        ("two paths", with(field(b":path", b"/admin"))),
        ("two authorities", with(field(b":authority", b"evil"))),
        ("a pseudo-field of responses", with(field(b":status", b"200"))),
        ("an unknown pseudo-field", with(field(b":x", b"1"))),
        ("no path", vec![0x82, 0x86, 0x41, 1, b'a']),
        ("an empty path", [&[0x82, 0x86, 0x41, 1, b'a'][..], &field(b":path", b"")].concat()),
        ("an absolute path", [&[0x82, 0x86, 0x41, 1, b'a'][..], &field(b":path", b"http://evil/")].concat()),
        (
            "a path with a space",
            [&[0x82, 0x86, 0x41, 1, b'a'][..], &field(b":path", b"/a HTTP/1.1")].concat(),
        ),
        ("the target * of a GET", [&[0x82, 0x86, 0x41, 1, b'a'][..], &field(b":path", b"*")].concat()),
        ("a query for a path", [&[0x82, 0x86, 0x41, 1, b'a'][..], &field(b":path", b"?a")].concat()),
        ("no authority", vec![0x82, 0x86, 0x84]),
        ("a method that is none", [&[0x86, 0x84, 0x41, 1, b'a'][..], &field(b":method", b"G T")].concat()),
    ] {
        run(async {
            let seen = Rc::new(Cell::new(0));
            let count = seen.clone();
            let mut served = serving(Protocol::Http2, move |head, body, responder| {
                count.set(count.get() + 1);
                echo(head, body, responder)
            });
            let bytes = opening(
                &[],
                &[
                    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block),
                    frame(HEADERS, END_HEADERS | END_STREAM, 3, GET),
                ],
            );
            served.client.write_all(&bytes).await.unwrap();
            let answers = frames(&mut served.client).await;
            let of = |stream| answers.iter().find(|(_, _, of, _)| *of == stream).map(|(kind, ..)| *kind);
            if answers.iter().any(|(kind, ..)| *kind == GOAWAY) {
                assert_eq!(seen.get(), 0, "{name}: {answers:?}");
            } else {
                // A reset, or an answer in the 400s by the codec; the other stream is served.
                assert!(matches!(of(1), Some(RST_STREAM | HEADERS)), "{name}: {answers:?}");
                assert_eq!((of(3), seen.get()), (Some(HEADERS), 1), "{name}: {answers:?}");
            }
        });
    }
}
