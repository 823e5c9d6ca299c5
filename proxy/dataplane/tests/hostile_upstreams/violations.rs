//! Frames that break a rule of RFC 9113 sections 3 to 6 or of RFC 7541.

use crate::row::*;
use crate::support::frames::*;

const LARGEST: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];

fn settings(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn block(flags: u8, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, flags, TESTED, block)
}

#[tokio::test]
async fn frames_that_end_the_connection() {
    let ends =
        |section, what, code: &'static str, frames: &[Vec<u8>]| row(section, what, GET, frames, code, LOST);
    // The client has the head of its response already.
    let cuts = |section, what, code: &'static str, frames: &[Vec<u8>]| {
        row(section, what, GET, frames, code, "200 cut")
    };
    let [protocol, size] = ["GOAWAY PROTOCOL_ERROR", "GOAWAY FRAME_SIZE_ERROR"];
    let flow = "GOAWAY FLOW_CONTROL_ERROR";
    let begun = || block(0, OK);
    check(vec![
        cuts("4.2", "DATA above SETTINGS_MAX_FRAME_SIZE", size, &[head(0, &[]), data(0, &[0; 16_385])]),
        ends("4.2", "HEADERS above SETTINGS_MAX_FRAME_SIZE", size, &[block(WHOLE, &[0x88; 16_385])]),
        ends(
            "4.3",
            "PRIORITY within a field block",
            protocol,
            &[begun(), frame(PRIORITY, 0, TESTED, &[0; 5])],
        ),
        ends(
            "4.3",
            "HEADERS of another stream within a field block",
            protocol,
            &[begun(), frame(HEADERS, WHOLE, 1, OK)],
        ),
        ends("5.1", "RST_STREAM on an idle stream", protocol, &[frame(RST_STREAM, 0, 5, &[0, 0, 0, 8])]),
        ends(
            "5.1",
            "WINDOW_UPDATE on an idle stream",
            protocol,
            &[frame(WINDOW_UPDATE, 0, 5, &[0, 0, 0, 1])],
        ),
        ends("5.1", "DATA on an idle stream", protocol, &[frame(DATA, 0, 5, b"x")]),
        ends("5.1", "CONTINUATION on an idle stream", protocol, &[frame(CONTINUATION, END_HEADERS, 5, OK)]),
        ends("5.1.1", "HEADERS on a stream that was not opened", protocol, &[frame(HEADERS, WHOLE, 5, OK)]),
        ends("5.1.1", "HEADERS on a stream of the server", protocol, &[frame(HEADERS, WHOLE, 2, OK)]),
        ends("5.1.1", "DATA on a stream of the server", protocol, &[frame(DATA, 0, 2, b"x")]),
        ends(
            "5.5",
            "a frame of an unknown type within a field block",
            protocol,
            &[begun(), frame(0xee, 0, TESTED, &[])],
        ),
        ends("6.1", "DATA on stream 0", protocol, &[frame(DATA, 0, 0, b"x")]),
        cuts("6.1", "padding longer than DATA", protocol, &[head(0, &[]), data(PADDED, &[5, 1, 2])]),
        cuts("4.2", "DATA without the length of its padding", size, &[head(0, &[]), data(PADDED, &[])]),
        ends("6.2", "HEADERS on stream 0", protocol, &[frame(HEADERS, WHOLE, 0, OK)]),
        ends("6.2", "padding longer than HEADERS", protocol, &[block(WHOLE | PADDED, &[9, 0x88])]),
        ends("6.2", "HEADERS shorter than its priority", size, &[block(WHOLE | 0x20, &[0x88])]),
        ends("6.3", "PRIORITY on stream 0", protocol, &[frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 0])]),
        ends("6.4", "RST_STREAM on stream 0", protocol, &[frame(RST_STREAM, 0, 0, &[0; 4])]),
        ends("6.4", "RST_STREAM that is not 4 bytes", size, &[frame(RST_STREAM, 0, TESTED, &[0; 3])]),
        ends("6.5", "SETTINGS with ACK and a payload", size, &[frame(SETTINGS, ACK, 0, &[0; 6])]),
        ends("6.5", "SETTINGS on a stream", protocol, &[frame(SETTINGS, 0, TESTED, &[])]),
        ends("6.5", "SETTINGS that is no multiple of 6 bytes", size, &[frame(SETTINGS, 0, 0, &[0; 5])]),
        ends("6.5.2", "SETTINGS_ENABLE_PUSH of a server", protocol, &[settings(2, 1)]),
        ends("6.5.2", "SETTINGS_ENABLE_PUSH = 2", protocol, &[settings(2, 2)]),
        ends("6.5.2", "SETTINGS_INITIAL_WINDOW_SIZE = 2^31", flow, &[settings(4, 1 << 31)]),
        ends("6.5.2", "SETTINGS_MAX_FRAME_SIZE = 2^14-1", protocol, &[settings(5, 16_383)]),
        ends("6.5.2", "SETTINGS_MAX_FRAME_SIZE = 2^24", protocol, &[settings(5, 1 << 24)]),
        ends("RFC 8441 3", "SETTINGS_ENABLE_CONNECT_PROTOCOL = 2", protocol, &[settings(8, 2)]),
        ends("RFC 8441 3", "extended CONNECT is taken back", protocol, &[settings(8, 1), settings(8, 0)]),
        ends(
            "6.6",
            "PUSH_PROMISE though push is disabled",
            protocol,
            &[frame(PUSH_PROMISE, END_HEADERS, TESTED, &[0, 0, 0, 2, 0x82])],
        ),
        ends("6.7", "PING on a stream", protocol, &[frame(PING, 0, TESTED, &[0; 8])]),
        ends("6.7", "PING that is not 8 bytes", size, &[frame(PING, 0, 0, &[0; 6])]),
        ends("6.8", "GOAWAY on a stream", protocol, &[frame(GOAWAY, 0, TESTED, &[0; 8])]),
        ends("6.8", "GOAWAY shorter than 8 bytes", size, &[frame(GOAWAY, 0, 0, &[0; 7])]),
        ends("6.8", "GOAWAY whose last stream increases", protocol, &[goaway(3, 0), goaway(5, 0)]),
        ends("6.9", "WINDOW_UPDATE of the connection by 0", protocol, &[frame(WINDOW_UPDATE, 0, 0, &[0; 4])]),
        ends("6.9", "WINDOW_UPDATE that is not 4 bytes", size, &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])]),
        ends("6.9.1", "the connection's window above 2^31-1", flow, &[frame(WINDOW_UPDATE, 0, 0, &LARGEST)]),
        cuts(
            "6.9.2",
            "SETTINGS that make a stream's window larger than 2^31-1",
            flow,
            &[block(END_HEADERS, OK), frame(WINDOW_UPDATE, 0, 1, &[0, 1, 0, 0]), settings(4, 0x7fff_ffff)],
        ),
        ends(
            "6.10",
            "a frame behind HEADERS without END_HEADERS",
            protocol,
            &[begun(), frame(PING, 0, 0, &[0; 8])],
        ),
        ends(
            "6.10",
            "DATA behind CONTINUATION without END_HEADERS",
            protocol,
            &[begun(), frame(CONTINUATION, 0, TESTED, &[]), data(0, b"x")],
        ),
        ends(
            "6.10",
            "CONTINUATION of another stream",
            protocol,
            &[begun(), frame(CONTINUATION, END_HEADERS, 1, &[])],
        ),
        ends(
            "6.10",
            "CONTINUATION on stream 0",
            protocol,
            &[begun(), frame(CONTINUATION, END_HEADERS, 0, &[])],
        ),
        cuts(
            "6.10",
            "CONTINUATION behind a complete field block",
            protocol,
            &[head(0, &[]), frame(CONTINUATION, END_HEADERS, TESTED, &[])],
        ),
        cuts(
            "6.10",
            "CONTINUATION behind DATA",
            protocol,
            &[head(0, &[]), data(0, b"x"), frame(CONTINUATION, END_HEADERS, TESTED, &[])],
        ),
        ends("RFC 9218 7.1", "PRIORITY_UPDATE of a server", protocol, &[frame(16, 0, 0, &[0, 0, 0, 1])]),
    ])
    .await;
}

/// Errors of the compression are blamed on the response whose head it is.
#[tokio::test]
async fn field_blocks_that_cannot_be_decoded_end_the_connection() {
    let ends = |section, what, bytes: &[u8]| {
        row(section, what, GET, &[block(WHOLE, bytes)], "GOAWAY COMPRESSION_ERROR", MALFORMED)
    };
    check(vec![
        ends("4.3", "a field block that ends within a field", &[0x88, 0x00, 0x03, b'x']),
        ends("RFC 7541 2.3.3", "an index that is not in the tables", &[0x88, 0xff, 0x00]),
        ends("RFC 7541 4.2", "a change of the table's size behind a field", &[0x88, 0x20]),
        ends("RFC 7541 5.1", "an integer above 2^32", &[0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        ends(
            "RFC 7541 5.2",
            "Huffman padding of more than 7 bits",
            &[0x88, 0x00, 0x01, b'x', 0x82, 0x1f, 0xff],
        ),
        ends("RFC 7541 5.2", "Huffman padding of zeros", &[0x88, 0x00, 0x01, b'x', 0x81, 0x18]),
        ends(
            "RFC 7541 5.2",
            "a Huffman code of EOS",
            &[0x88, 0x00, 0x01, b'x', 0x84, 0xff, 0xff, 0xff, 0xff],
        ),
        ends("RFC 7541 6.1", "index 0", &[0x88, 0x80]),
        ends(
            "RFC 7541 6.3",
            "a table larger than SETTINGS_HEADER_TABLE_SIZE",
            &[0x3f, 0xff, 0xff, 0x03, 0x88],
        ),
    ])
    .await;
}

#[tokio::test]
async fn frames_that_end_their_stream_alone() {
    let promised = [head(0, &[])];
    let behind = |frames: &[Vec<u8>]| [&promised[..], frames].concat();
    let ends =
        |section, what, wire, frames: &[Vec<u8>], answer| row(section, what, POST, frames, wire, answer);
    check(vec![
        ends(
            "5.1",
            "DATA behind END_STREAM",
            "RST 3 STREAM_CLOSED",
            &[head(END_STREAM, &[]), data(0, b"x")],
            "200 whole",
        ),
        ends(
            "5.1",
            "HEADERS behind END_STREAM",
            "RST 3 STREAM_CLOSED",
            &[head(END_STREAM, &[]), head(END_STREAM, &[])],
            "200 whole",
        ),
        ends(
            "5.1",
            "DATA behind RST_STREAM",
            "RST 3 STREAM_CLOSED",
            &behind(&[frame(RST_STREAM, 0, TESTED, &[0, 0, 0, 8]), data(0, b"x")]),
            "200 cut",
        ),
        ends(
            "5.1",
            "HEADERS behind RST_STREAM",
            "RST 3 STREAM_CLOSED",
            &behind(&[frame(RST_STREAM, 0, TESTED, &[0, 0, 0, 8]), head(END_STREAM, &[])]),
            "200 cut",
        ),
        ends(
            "6.3",
            "PRIORITY that is not 5 bytes",
            "RST 3 FRAME_SIZE_ERROR",
            &[frame(PRIORITY, 0, TESTED, &[0; 4])],
            MALFORMED,
        ),
        ends(
            "5.3.1 of RFC 7540",
            "PRIORITY of a stream that depends on itself",
            "RST 3 PROTOCOL_ERROR",
            &[frame(PRIORITY, 0, TESTED, &[0, 0, 0, 3, 0])],
            MALFORMED,
        ),
        ends(
            "6.9",
            "WINDOW_UPDATE by 0",
            "RST 3 PROTOCOL_ERROR",
            &[frame(WINDOW_UPDATE, 0, TESTED, &[0; 4])],
            MALFORMED,
        ),
        ends(
            "6.9.1",
            "the stream's window above 2^31-1",
            "RST 3 FLOW_CONTROL_ERROR",
            &[frame(WINDOW_UPDATE, 0, TESTED, &LARGEST)],
            MALFORMED,
        ),
    ])
    .await;
}
