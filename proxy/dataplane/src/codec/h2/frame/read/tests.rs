use proptest::prelude::*;

use super::super::HEAD;
use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn read(bytes: &[u8]) -> Result<Vec<String>, Error> {
    let (mut reader, mut input) = (Reader::new(16_384, 40_000), BytesMut::from(bytes));
    let mut frames = Vec::new();
    while let Some(frame) = reader.next(&mut input)? {
        frames.push(format!("{frame:?}"));
    }
    Ok(frames)
}

/// RFC 9113 sections 4.2, 4.3 and 6, RFC 9218 section 7.1.
#[test]
fn each_rule_for_frames_is_checked() {
    use kind::*;
    let padded = flag::PADDED;
    for (what, bytes, code, stream) in [
        ("a frame that is too large", frame(DATA, 0, 1, &[0; 16_385]), Code::FRAME_SIZE_ERROR, None),
        ("one of an unknown type", frame(99, 0, 1, &[0; 16_385]), Code::FRAME_SIZE_ERROR, None),
        ("DATA on stream 0", frame(DATA, 0, 0, b"a"), Code::PROTOCOL_ERROR, None),
        ("padding as long as its frame", frame(DATA, padded, 1, &[2, 0]), Code::PROTOCOL_ERROR, None),
        ("padded DATA without a length", frame(DATA, padded, 1, &[]), Code::FRAME_SIZE_ERROR, None),
        ("HEADERS on stream 0", frame(HEADERS, 4, 0, &[]), Code::PROTOCOL_ERROR, None),
        ("HEADERS with long padding", frame(HEADERS, 4 | padded, 1, &[9, 0x82]), Code::PROTOCOL_ERROR, None),
        ("HEADERS with half a priority", frame(HEADERS, 0x24, 1, &[0; 4]), Code::FRAME_SIZE_ERROR, None),
        ("PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0; 5]), Code::PROTOCOL_ERROR, None),
        ("a short PRIORITY", frame(PRIORITY, 0, 3, &[0; 4]), Code::FRAME_SIZE_ERROR, Some(3)),
        ("PRIORITY of itself", frame(PRIORITY, 0, 3, &[0, 0, 0, 3, 9]), Code::PROTOCOL_ERROR, Some(3)),
        ("RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, &[0; 4]), Code::PROTOCOL_ERROR, None),
        ("a long RST_STREAM", frame(RST_STREAM, 0, 1, &[0; 5]), Code::FRAME_SIZE_ERROR, None),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), Code::PROTOCOL_ERROR, None),
        ("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5]), Code::FRAME_SIZE_ERROR, None),
        ("an ACK with settings", frame(SETTINGS, 1, 0, &[0; 6]), Code::FRAME_SIZE_ERROR, None),
        ("PUSH_PROMISE", frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]), Code::PROTOCOL_ERROR, None),
        ("PING on a stream", frame(PING, 0, 1, &[0; 8]), Code::PROTOCOL_ERROR, None),
        ("a short PING", frame(PING, 0, 0, &[0; 7]), Code::FRAME_SIZE_ERROR, None),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), Code::PROTOCOL_ERROR, None),
        ("a short GOAWAY", frame(GOAWAY, 0, 0, &[0; 7]), Code::FRAME_SIZE_ERROR, None),
        ("a long WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0; 5]), Code::FRAME_SIZE_ERROR, None),
        ("WINDOW_UPDATE of 0", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), Code::PROTOCOL_ERROR, None),
        ("one of a stream", frame(WINDOW_UPDATE, 0, 5, &[0x80, 0, 0, 0]), Code::PROTOCOL_ERROR, Some(5)),
        ("CONTINUATION alone", frame(CONTINUATION, 4, 1, &[]), Code::PROTOCOL_ERROR, None),
        ("PRIORITY_UPDATE on a stream", frame(PRIORITY_UPDATE, 0, 1, &[0; 4]), Code::PROTOCOL_ERROR, None),
        ("PRIORITY_UPDATE of stream 0", frame(PRIORITY_UPDATE, 0, 0, &[0; 4]), Code::PROTOCOL_ERROR, None),
        ("a short PRIORITY_UPDATE", frame(PRIORITY_UPDATE, 0, 0, &[0; 3]), Code::FRAME_SIZE_ERROR, None),
    ] {
        let error = read(&bytes).unwrap_err();
        assert_eq!((error.code, error.stream), (code, stream), "{what}: {}", error.rule);
    }
}

#[test]
fn nothing_may_be_between_the_frames_of_a_field_block() {
    let open = frame(kind::HEADERS, 0, 1, &[0x82]);
    for (what, next) in [
        ("DATA", frame(kind::DATA, 0, 1, b"a")),
        ("HEADERS", frame(kind::HEADERS, 4, 3, &[])),
        ("PING", frame(kind::PING, 0, 0, &[0; 8])),
        ("an unknown frame", frame(99, 0, 0, &[])),
        ("CONTINUATION of another stream", frame(kind::CONTINUATION, 4, 3, &[])),
    ] {
        let error = read(&[open.clone(), next].concat()).unwrap_err();
        assert_eq!((error.code, error.stream), (Code::PROTOCOL_ERROR, None), "{what}");
    }
}

#[test]
fn an_endless_field_block_is_refused() {
    let open = frame(kind::HEADERS, 0, 1, &[0x82]);
    let empty = frame(kind::CONTINUATION, 0, 1, &[]).repeat(65);
    let large = frame(kind::CONTINUATION, 0, 1, &[0; 16_384]).repeat(3);
    for flood in [empty, large] {
        let error = read(&[open.clone(), flood].concat()).unwrap_err();
        assert_eq!((error.code, error.stream), (Code::ENHANCE_YOUR_CALM, None));
    }
}

#[test]
fn after_an_error_of_a_stream_reading_goes_on() {
    let bytes = [frame(kind::WINDOW_UPDATE, 0, 5, &[0; 4]), frame(kind::PING, 0, 0, &[7; 8])].concat();
    let (mut reader, mut input) = (Reader::new(16_384, 40_000), BytesMut::from(&bytes[..]));
    assert_eq!(reader.next(&mut input).unwrap_err().stream, Some(5));
    assert_eq!(reader.next(&mut input), Ok(Some(Frame::Ping([7; 8]))));
    assert_eq!(reader.next(&mut input), Ok(None));
    assert!(input.is_empty());
}

#[test]
fn padding_and_priority_are_removed() {
    let headers = frame(kind::HEADERS, 0x2d, 3, &[2, 0, 0, 0, 3, 9, 0x82, 0x84, 0, 0]);
    let (mut reader, mut input) = (Reader::new(16_384, 40_000), BytesMut::from(&headers[..]));
    let block = Cow::Borrowed(&[0x82, 0x84][..]);
    let expected = Frame::Headers { stream: 3, block, end: true, depends_on_itself: true };
    assert_eq!(reader.next(&mut input), Ok(Some(expected)));
    for length in [3, 3000] {
        let payload = [&[5][..], &vec![b'x'; length], &[0; 5]].concat();
        let mut input = BytesMut::from(&frame(kind::DATA, 9, 1, &payload)[..]);
        let expected =
            Frame::Data { stream: 1, data: vec![b'x'; length].into(), charged: length as u32 + 6, end: true };
        assert_eq!(Reader::new(16_384, 40_000).next(&mut input), Ok(Some(expected)));
    }
}

#[test]
fn small_data_does_not_share_the_input_and_large_data_does() {
    for (length, shares) in [(COPIED, false), (COPIED + 1, true)] {
        let mut input = BytesMut::from(&frame(kind::DATA, 0, 1, &vec![0; length])[..]);
        let start = input.as_ptr().wrapping_add(HEAD);
        let Ok(Some(Frame::Data { data, .. })) = Reader::new(16_384, 0).next(&mut input) else { panic!() };
        assert_eq!(data.as_ptr() == start, shares);
    }
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = proptest::collection::vec(any::<u8>(), 0..20);
    (0..18_u8, any::<u8>(), 0..4_u32, payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

proptest! {
    #[test]
    fn frames_are_the_same_however_their_bytes_are_split(
        frames in proptest::collection::vec(any_frame(), 0..8),
        step in 1..30_usize,
    ) {
        let bytes = frames.concat();
        crate::codec::h2::properties::frames(&bytes, step);
    }
}
