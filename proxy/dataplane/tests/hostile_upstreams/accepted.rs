//! What looks odd and is allowed: the response arrives whole, and nothing is reset.

use crate::row::*;
use crate::support::frames::*;

#[tokio::test]
async fn odd_frames_that_are_allowed() {
    let fine = |section, what, frames: &[Vec<u8>]| row(section, what, GET, frames, "", "200 whole");
    let behind = |frames: &[Vec<u8>]| [frames, &[head(0, &[]), data(END_STREAM, b"ab")]].concat();
    let settings = |payload: &[u8]| frame(SETTINGS, 0, 0, payload);
    let reserved = |mut frame: Vec<u8>| {
        frame[5] |= 0x80;
        frame
    };
    check(vec![
        fine("4.1", "a frame of an unknown type", &behind(&[frame(0xee, 0xff, TESTED, b"any")])),
        fine("4.1", "flags that are not defined", &behind(&[frame(PING, 0x16, 0, &[0; 8])])),
        fine(
            "4.1",
            "the reserved bit of the stream",
            &[reserved(head(0, &[])), reserved(data(END_STREAM, b"ab"))],
        ),
        fine("4.2", "DATA of SETTINGS_MAX_FRAME_SIZE", &[head(0, &[]), data(END_STREAM, &[b'x'; 16_384])]),
        fine(
            "5.1",
            "WINDOW_UPDATE and PRIORITY on a closed stream",
            &[
                head(END_STREAM, &[]),
                frame(WINDOW_UPDATE, 0, TESTED, &[0, 0, 0, 1]),
                frame(PRIORITY, 0, TESTED, &[0, 0, 0, 1, 0]),
                frame(RST_STREAM, 0, TESTED, &[0; 4]),
            ],
        ),
        fine("5.1", "PRIORITY on an idle stream", &behind(&[frame(PRIORITY, 0, 99, &[0, 0, 0, 1, 0])])),
        fine("6.1", "DATA with padding", &[head(0, &[]), data(PADDED | END_STREAM, &[2, b'a', b'b', 0, 0])]),
        fine("6.1", "empty DATA", &[head(0, &[]), data(0, b""), data(0, b"ab"), data(END_STREAM, b"")]),
        fine(
            "6.2",
            "HEADERS with padding and priority",
            &[
                frame(HEADERS, END_HEADERS | PADDED | 0x20, TESTED, &[1, 0, 0, 0, 0, 9, 0x88, 0]),
                data(END_STREAM, b"ab"),
            ],
        ),
        fine(
            "6.5",
            "SETTINGS that are empty, unknown, or repeated",
            &behind(&[
                settings(&[]),
                settings(&[0, 0xff, 0, 0, 0, 1]),
                settings(&[0, 4, 0, 0, 0, 9, 0, 4, 0, 0, 0xff, 0xff]),
            ]),
        ),
        fine(
            "6.5.2",
            "SETTINGS_ENABLE_PUSH = 0, which servers may send",
            &behind(&[settings(&[0, 2, 0, 0, 0, 0])]),
        ),
        fine("6.7", "an ACK of a PING that was not sent", &behind(&[frame(PING, ACK, 0, &[7; 8])])),
        fine(
            "6.10",
            "HEADERS in many CONTINUATION frames",
            &[
                frame(HEADERS, 0, TESTED, &[]),
                frame(CONTINUATION, 0, TESTED, OK),
                frame(CONTINUATION, 0, TESTED, &field("x", "1")),
                frame(CONTINUATION, END_HEADERS, TESTED, &[]),
                data(END_STREAM, b"ab"),
            ],
        ),
        fine(
            "8.1",
            "interim responses before the response",
            &behind(&[
                frame(HEADERS, END_HEADERS, TESTED, &field(":status", "103")),
                frame(HEADERS, END_HEADERS, TESTED, &field(":status", "100")),
            ]),
        ),
        fine(
            "8.1",
            "trailers",
            &[head(0, &[]), data(0, b"ab"), frame(HEADERS, WHOLE, TESTED, &field("x", "1"))],
        ),
        fine(
            "RFC 7541 4.2",
            "changes of the table's size before the fields",
            &[frame(HEADERS, WHOLE, TESTED, &[0x20, 0x3f, 0xe1, 0x1f, 0x88])],
        ),
        row(
            "8.1.1",
            "content-length of a response to HEAD",
            HEAD,
            &[head(END_STREAM, &[field("content-length", "9")])],
            "",
            "200 whole",
        ),
        row(
            "8.1.1",
            "content-length of a 304",
            GET,
            &[frame(
                HEADERS,
                WHOLE,
                TESTED,
                &[field(":status", "304"), field("content-length", "9")].concat(),
            )],
            "",
            "304 whole",
        ),
        row(
            "8.1",
            "RST_STREAM with NO_ERROR behind a response that needs no more of the request",
            POST,
            &[head(0, &[]), data(END_STREAM, b"ab"), frame(RST_STREAM, 0, TESTED, &[0; 4])],
            "",
            "200 whole",
        ),
        row(
            "7",
            "RST_STREAM with an unknown code",
            GET,
            &[frame(RST_STREAM, 0, TESTED, &[0xff; 4])],
            "",
            "503 upstream_remote_reset",
        ),
    ])
    .await;
}
