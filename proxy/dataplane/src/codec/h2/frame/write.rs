//! Writes frames: each function appends one frame, or the frames of one field block, to a buffer.

use super::{Code, HEAD, Settings, flag, kind};

/// Appends the head of a DATA frame whose payload of `length` bytes follows. `length` is at most the peer's SETTINGS_MAX_FRAME_SIZE.
pub(in super::super) fn data_head(out: &mut Vec<u8>, stream: u32, length: usize, end: bool) {
    head(out, length, kind::DATA, if end { flag::END_STREAM } else { 0 }, stream);
}

/// Appends HEADERS, and CONTINUATION frames if the field block that `encode` appends is larger than `frame_size`, the peer's
/// SETTINGS_MAX_FRAME_SIZE. Returns what `encode` returns.
pub(in super::super) fn headers<T>(
    out: &mut Vec<u8>,
    stream: u32,
    end: bool,
    frame_size: u32,
    encode: impl FnOnce(&mut Vec<u8>) -> T,
) -> T {
    let frame_size = frame_size as usize;
    let start = out.len();
    let flags = if end { flag::END_STREAM | flag::END_HEADERS } else { flag::END_HEADERS };
    head(out, 0, kind::HEADERS, flags, stream);
    let encoded = encode(out);
    let length = out.len() - start - HEAD;
    if length <= frame_size {
        set_length(out, start, length);
        return encoded;
    }
    let rest = out.split_off(start + HEAD + frame_size);
    set_length(out, start, frame_size);
    out[start + 4] = flags & !flag::END_HEADERS;
    let mut fragments = rest.chunks(frame_size).peekable();
    while let Some(fragment) = fragments.next() {
        let flags = if fragments.peek().is_none() { flag::END_HEADERS } else { 0 };
        head(out, fragment.len(), kind::CONTINUATION, flags, stream);
        out.extend_from_slice(fragment);
    }
    encoded
}

/// Appends SETTINGS with the values that are present.
pub(in super::super) fn settings(out: &mut Vec<u8>, settings: &Settings) {
    let start = out.len();
    head(out, 0, kind::SETTINGS, 0, 0);
    settings.each(|id, value| {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    });
    let length = out.len() - start - HEAD;
    set_length(out, start, length);
}

/// Appends SETTINGS with ACK.
pub(in super::super) fn settings_ack(out: &mut Vec<u8>) {
    head(out, 0, kind::SETTINGS, flag::ACK, 0);
}

/// Appends PING.
pub(in super::super) fn ping(out: &mut Vec<u8>, payload: [u8; 8]) {
    head(out, payload.len(), kind::PING, 0, 0);
    out.extend_from_slice(&payload);
}

/// Appends PING with ACK.
pub(in super::super) fn pong(out: &mut Vec<u8>, payload: [u8; 8]) {
    head(out, payload.len(), kind::PING, flag::ACK, 0);
    out.extend_from_slice(&payload);
}

/// Appends WINDOW_UPDATE of the connection (`stream` is 0) or of a stream. `increment` is from 1 to 2^31-1.
pub(in super::super) fn window_update(out: &mut Vec<u8>, stream: u32, increment: u32) {
    head(out, 4, kind::WINDOW_UPDATE, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}

/// Appends RST_STREAM.
pub(in super::super) fn rst_stream(out: &mut Vec<u8>, stream: u32, code: Code) {
    head(out, 4, kind::RST_STREAM, 0, stream);
    out.extend_from_slice(&u32::from(code).to_be_bytes());
}

/// Appends GOAWAY. `debug` is readable text for the peer's log.
pub(in super::super) fn goaway(out: &mut Vec<u8>, last: u32, code: Code, debug: &str) {
    head(out, 8 + debug.len(), kind::GOAWAY, 0, 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&u32::from(code).to_be_bytes());
    out.extend_from_slice(debug.as_bytes());
}

fn head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let [_, .., l0, l1, l2] = length.to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    out.extend_from_slice(&[l0, l1, l2, kind, flags, s0, s1, s2, s3]);
}

fn set_length(out: &mut [u8], start: usize, length: usize) {
    out[start..start + 3].copy_from_slice(&length.to_be_bytes()[size_of::<usize>() - 3..]);
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::{Frame, Priority, Reader};
    use super::*;

    fn all(bytes: &[u8]) -> Vec<String> {
        let (mut reader, mut input) = (Reader::new(16_384, 1 << 20), BytesMut::from(bytes));
        let mut frames = Vec::new();
        while let Some(frame) = reader.next(&mut input).unwrap() {
            frames.push(format!("{frame:?}"));
        }
        assert!(input.is_empty());
        frames
    }

    #[test]
    fn what_is_written_is_read_as_the_same_frames() {
        let mut out = Vec::new();
        let sent = Settings { initial_window_size: Some(9), enable_push: Some(false), ..Settings::default() };
        settings(&mut out, &sent);
        settings_ack(&mut out);
        ping(&mut out, [1; 8]);
        pong(&mut out, [2; 8]);
        window_update(&mut out, 0, 3);
        window_update(&mut out, 5, 0x7fff_ffff);
        rst_stream(&mut out, 7, Code::CANCEL);
        goaway(&mut out, 9, Code::ENHANCE_YOUR_CALM, "calm");
        headers(&mut out, 1, true, 16_384, |out| out.push(0x82));
        data_head(&mut out, 1, 2, false);
        out.extend_from_slice(b"hi");
        let expected = [
            Frame::Settings(sent),
            Frame::SettingsAck,
            Frame::Ping([1; 8]),
            Frame::Pong([2; 8]),
            Frame::WindowUpdate { stream: 0, increment: 3 },
            Frame::WindowUpdate { stream: 5, increment: 0x7fff_ffff },
            Frame::Reset { stream: 7, code: Code::CANCEL },
            Frame::GoAway { last: 9, code: Code::ENHANCE_YOUR_CALM, debug: b"calm" },
            Frame::Headers { stream: 1, block: (&[0x82][..]).into(), end: true, depends_on_itself: false },
            Frame::Data { stream: 1, data: b"hi"[..].into(), charged: 2, end: false },
        ];
        assert_eq!(all(&out), expected.map(|frame| format!("{frame:?}")));
        assert_eq!(Priority::default().urgency, 3);
    }

    #[test]
    fn a_large_block_is_split_by_the_frame_size_of_the_peer() {
        for length in [16_384, 16_385, 32_768, 40_000] {
            let block: Vec<u8> = (0..length).map(|at: u32| at.to_be_bytes()[3]).collect();
            let mut out = vec![];
            headers(&mut out, 3, false, 16_384, |out| out.extend_from_slice(&block));
            let frames = block.len().div_ceil(16_384);
            assert_eq!(out.len(), block.len() + frames * HEAD);
            let (mut reader, mut input) = (Reader::new(16_384, 1 << 20), BytesMut::from(&out[..]));
            let frame = reader.next(&mut input).unwrap().unwrap();
            let expected =
                Frame::Headers { stream: 3, block: block.into(), end: false, depends_on_itself: false };
            assert_eq!(frame, expected);
        }
    }
}
