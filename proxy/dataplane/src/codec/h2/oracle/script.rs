//! Makes plausible frames of the bytes of a script: most are valid, and each may break a rule.

use crate::codec::h2::frame::HEAD;

/// A frame, or the frames of one field block.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// What it is, for a message and for `differences`.
    pub(super) what: &'static str,
    /// The type of the frame.
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) bytes: Vec<u8>,
}

/// Returns the steps of a script: four bytes each.
pub(super) fn steps(script: &[u8]) -> impl Iterator<Item = Step> {
    script.chunks_exact(4).map(|bytes| step(bytes[0], bytes[1], bytes[2], bytes[3]))
}

/// Field blocks, which are literals where they are not of the static table.
const BLOCKS: [(&str, &[u8]); 30] = [
    ("a GET", &[0x82, 0x86, 0x84, 0x01, 1, b'a']),
    ("a GET", &[0x82, 0x86, 0x84, 0x01, 1, b'a']),
    ("a POST", &[0x83, 0x86, 0x84, 0x01, 1, b'a']),
    ("a POST", &[0x83, 0x86, 0x84, 0x01, 1, b'a']),
    ("a POST with content-length 3", &[0x83, 0x86, 0x84, 0x01, 1, b'a', 0x0f, 13, 1, b'3']),
    ("a request with an indexed field", &[0x82, 0x86, 0x84, 0x01, 1, b'a', 0x40, 1, b'x', 1, b'y']),
    ("a request that refers to the table", &[0x82, 0x86, 0x84, 0x01, 1, b'a', 0xbe]),
    ("trailers", &[0x00, 1, b'x', 1, b'y']),
    ("no fields", &[]),
    ("no :method", &[0x86, 0x84, 0x01, 1, b'a']),
    ("no :scheme", &[0x82, 0x84, 0x01, 1, b'a']),
    ("no :path", &[0x82, 0x86, 0x01, 1, b'a']),
    ("an empty :path", &[0x82, 0x86, 0x04, 0, 0x01, 1, b'a']),
    ("no :authority", &[0x82, 0x86, 0x84]),
    (":method twice", &[0x82, 0x82, 0x86, 0x84, 0x01, 1, b'a']),
    (":status in a request", &[0x82, 0x86, 0x84, 0x88]),
    ("an unknown pseudo-field", &[0x82, 0x86, 0x84, 0x00, 2, b':', b'x', 1, b'y']),
    ("a pseudo-field behind a field", &[0x82, 0x86, 0x00, 1, b'x', 1, b'y', 0x84]),
    ("a name in upper case", &[0x82, 0x86, 0x84, 0x01, 1, b'a', 0x00, 1, b'X', 1, b'y']),
    ("an empty name", &[0x82, 0x86, 0x84, 0x01, 1, b'a', 0x00, 0, 1, b'y']),
    ("a value with a line end", &[0x82, 0x86, 0x84, 0x01, 1, b'a', 0x00, 1, b'x', 1, b'\n']),
    ("a value with a space before it", &[0x82, 0x86, 0x84, 0x01, 1, b'a', 0x00, 1, b'x', 2, b' ', b'y']),
    ("connection", b"\x82\x86\x84\x01\x01a\x00\x0aconnection\x05close"),
    ("te: gzip", b"\x82\x86\x84\x01\x01a\x00\x02te\x04gzip"),
    ("te: trailers", b"\x82\x86\x84\x01\x01a\x00\x02te\x08trailers"),
    ("content-length twice", &[0x83, 0x86, 0x84, 0x01, 1, b'a', 0x0f, 13, 1, b'0', 0x0f, 13, 1, b'1']),
    ("content-length that is no number", &[0x83, 0x86, 0x84, 0x01, 1, b'a', 0x0f, 13, 1, b'x']),
    ("a CONNECT", b"\x02\x07CONNECT\x01\x01a"),
    ("an index that is not in the table", &[0x82, 0xff, 0x30]),
    ("a block that ends within a field", &[0x82, 0x86, 0x84, 0x01, 9, b'a']),
];

const SETTINGS: [(&str, &[u8]); 10] = [
    ("SETTINGS", &[]),
    ("SETTINGS_HEADER_TABLE_SIZE", &[0, 1, 0, 0, 0, 0]),
    ("SETTINGS_ENABLE_PUSH = 2", &[0, 2, 0, 0, 0, 2]),
    ("SETTINGS_MAX_CONCURRENT_STREAMS", &[0, 3, 0, 0, 0, 0]),
    ("SETTINGS_INITIAL_WINDOW_SIZE", &[0, 4, 0, 0, 0, 9]),
    ("SETTINGS_INITIAL_WINDOW_SIZE = 2^31", &[0, 4, 0x80, 0, 0, 0]),
    ("SETTINGS_MAX_FRAME_SIZE = 1", &[0, 5, 0, 0, 0, 1]),
    ("SETTINGS_ENABLE_CONNECT_PROTOCOL = 2", &[0, 8, 0, 0, 0, 2]),
    ("an unknown setting", &[0xff, 1, 0, 0, 0, 2]),
    ("SETTINGS of 5 bytes", &[0, 1, 0, 0, 0]),
];

fn step(kind: u8, stream: u8, flags: u8, choice: u8) -> Step {
    // Mostly streams of the client, low ones, so that they are used again.
    let stream = match stream % 16 {
        0 => 0,
        15 => 2,
        other => u32::from(other) % 7 * 2 + 1,
    };
    let choice = usize::from(choice);
    let of = |what, kind, flags, stream, payload: &[u8]| Step {
        what,
        kind,
        flags,
        stream,
        bytes: frame(kind, flags, stream, payload),
    };
    match kind % 32 {
        0..=13 => {
            let (what, block) = BLOCKS[choice % BLOCKS.len()];
            headers(what, flags, stream, block)
        }
        14..=19 => {
            let flags = flags & 0x9;
            let payload = [3, b'a', b'b', b'c', 0, 0, 0];
            let length = if flags & 0x8 == 0 { choice % 4 } else { 7 - choice % 5 };
            of("DATA", 0, flags, stream, &payload[..length])
        }
        20 => {
            of("PRIORITY", 2, 0, stream, &[0, 0, 0, (choice % 8) as u8, 0][..5 - usize::from(choice > 200)])
        }
        21 | 22 => of("RST_STREAM", 3, 0, stream, &[0, 0, 0, 8][..4 - usize::from(choice > 240)]),
        23 => {
            let (what, payload) = SETTINGS[choice % SETTINGS.len()];
            let stream = if choice < 240 { 0 } else { stream };
            of(what, 4, u8::from(flags > 200), stream, payload)
        }
        24 => of("PUSH_PROMISE", 5, 4, stream, &[0, 0, 0, 2, 0x82]),
        25 => {
            let stream = if choice < 240 { 0 } else { stream };
            of("PING", 6, flags & 1, stream, &[0; 8][..8 - usize::from(choice > 230)])
        }
        26 => {
            let stream = if choice < 240 { 0 } else { stream };
            of(
                "GOAWAY",
                7,
                0,
                stream,
                &[0, 0, 0, (choice % 4) as u8, 0, 0, 0, 0][..8 - usize::from(choice > 230)],
            )
        }
        27 | 28 => {
            let increment = match choice {
                0..32 => [0; 4],
                32..64 => [0x7f, 0xff, 0xff, 0xff],
                _ => [0, 0, 0, choice as u8],
            };
            of("WINDOW_UPDATE", 8, 0, stream, &increment[..4 - usize::from(choice > 250)])
        }
        29 => of("CONTINUATION", 9, 4, stream, &[0x82]),
        30 => of("a frame of an unknown type", 0xbb, flags, stream, &[0; 20][..choice % 20]),
        _ => of("PRIORITY_UPDATE", 16, 0, 0, &[0, 0, 0, stream as u8, b'u', b'=', b'1']),
    }
}

/// A field block in one frame, in two, or never complete.
fn headers(what: &'static str, flags: u8, stream: u32, block: &[u8]) -> Step {
    let (end, form) = (flags & 1, flags >> 1);
    let bytes = match form % 16 {
        0 => {
            let (one, two) = block.split_at(block.len() / 2);
            [frame(1, end, stream, one), frame(9, 4, stream, two)].concat()
        }
        1 => frame(1, end | 4 | 8, stream, &[&[2][..], block, &[0, 0]].concat()),
        2 => frame(1, end | 4 | 0x20, stream, &[&[0, 0, 0, 3, 9][..], block].concat()),
        3 => frame(1, end | 4 | 8, stream, &[&[200][..], block].concat()),
        4 => [frame(1, end, stream, block), frame(6, 0, 0, &[0; 8])].concat(),
        _ => frame(1, end | 4, stream, block),
    };
    Step { what, kind: 1, flags: end, stream, bytes }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + payload.len());
    frame.extend_from_slice(&[0, 0, payload.len() as u8, kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}
