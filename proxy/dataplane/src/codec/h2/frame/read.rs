//! Reads frames from the bytes of a connection, however the bytes are split, and joins the frames of a field block.
//!
//! Nothing is copied, except small DATA (so that a few unread bytes do not keep a read buffer in memory) and field blocks of
//! several frames.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};

use super::{Code, Error, Frame, HEAD, Priority, Settings, flag, kind};

/// DATA up to this size is copied from the read buffer; longer DATA shares it.
const COPIED: usize = 2 * 1024;
/// CONTINUATION frames of one field block. Encoders fill frames of at least 16 KiB, so even large blocks take few (CVE-2024-27316).
const CONTINUATIONS: u32 = 64;

/// Reads the frames of one connection.
#[derive(Debug)]
pub(in super::super) struct Reader {
    /// The largest payload that this side accepts.
    frame_size: usize,
    /// The largest field block that this side accepts, in bytes as sent.
    block_bytes: usize,
    /// The field block whose end was not yet received.
    open: Option<OpenBlock>,
    /// Bytes at the start of the input that belong to the frame that was returned last.
    consumed: usize,
}

#[derive(Debug)]
struct OpenBlock {
    stream: u32,
    end: bool,
    depends_on_itself: bool,
    bytes: Vec<u8>,
    continuations: u32,
}

/// The head of a frame (RFC 9113 section 4.1).
#[derive(Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Reader {
    /// Creates a reader that accepts payloads of `frame_size` bytes, as this side's SETTINGS_MAX_FRAME_SIZE states, and field blocks of
    /// `block_bytes` bytes.
    pub(in super::super) fn new(frame_size: u32, block_bytes: usize) -> Self {
        Self { frame_size: frame_size as usize, block_bytes, open: None, consumed: 0 }
    }

    /// Returns whether a field block has begun and not ended, so that its peer owes the rest of it.
    pub(in super::super) fn is_within_a_block(&self) -> bool {
        self.open.is_some()
    }

    /// Returns the next frame, or `None` if `input` does not contain all of it. Removes the frame from `input` at the next call, and so
    /// must be called until it returns `None` or an error before anything else uses `input`. After an error of a stream, it may be
    /// called again.
    ///
    /// An error has the code of RFC 9113 sections 4.2 and 6.
    pub(in super::super) fn next<'a>(&mut self, input: &'a mut BytesMut) -> Result<Option<Frame<'a>>, Error> {
        input.advance(std::mem::take(&mut self.consumed).min(input.len()));
        loop {
            let Some(head) = Head::parse(input) else { return Ok(None) };
            if head.length > self.frame_size {
                return Err(Error::connection(Code::FRAME_SIZE_ERROR, "a frame is larger than allowed"));
            }
            if self.open.is_some() && head.kind != kind::CONTINUATION {
                return Err(protocol("a frame is between those of a field block"));
            }
            if input.len() < HEAD + head.length {
                return Ok(None);
            }
            if head.kind == kind::DATA {
                return data(head, input).map(Some);
            }
            if matches!(head.kind, kind::HEADERS | kind::CONTINUATION) {
                let payload = &input[HEAD..HEAD + head.length];
                let whole = head.kind == kind::HEADERS && head.has(flag::END_HEADERS);
                if !whole {
                    let ended = self.assemble(head, payload)?;
                    input.advance(HEAD + head.length);
                    match ended {
                        Some(frame) => return Ok(Some(frame)),
                        None => continue,
                    }
                }
            }
            self.consumed = HEAD + head.length;
            let payload = &input[HEAD..HEAD + head.length];
            return parse(head, payload).map(Some);
        }
    }

    /// Adds a frame to a field block of several. Returns the block at its end.
    fn assemble(&mut self, head: Head, payload: &[u8]) -> Result<Option<Frame<'static>>, Error> {
        if head.kind == kind::HEADERS {
            let (fragment, depends_on_itself) = fragment(head, payload)?;
            self.open = Some(OpenBlock {
                stream: head.stream,
                end: head.has(flag::END_STREAM),
                depends_on_itself,
                bytes: fragment.to_vec(),
                continuations: 0,
            });
            return Ok(None);
        }
        let Some(open) = &mut self.open else {
            return Err(protocol("CONTINUATION without a field block"));
        };
        if head.stream != open.stream {
            return Err(protocol("CONTINUATION is of another stream"));
        }
        open.continuations += 1;
        if open.continuations > CONTINUATIONS || open.bytes.len() + payload.len() > self.block_bytes {
            return Err(Error::connection(Code::ENHANCE_YOUR_CALM, "a field block is far too large"));
        }
        open.bytes.extend_from_slice(payload);
        if !head.has(flag::END_HEADERS) {
            return Ok(None);
        }
        Ok(self.open.take().map(|open| Frame::Headers {
            stream: open.stream,
            block: Cow::Owned(open.bytes),
            end: open.end,
            depends_on_itself: open.depends_on_itself,
        }))
    }
}

impl Head {
    fn parse(input: &[u8]) -> Option<Self> {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *input.first_chunk::<HEAD>()?;
        Some(Self {
            length: u32::from_be_bytes([0, l0, l1, l2]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
        })
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Takes a DATA frame from `input` (RFC 9113 section 6.1).
fn data(head: Head, input: &mut BytesMut) -> Result<Frame<'static>, Error> {
    if head.stream == 0 {
        return Err(protocol("DATA is on stream 0"));
    }
    let payload = unpadded(head, &input[HEAD..HEAD + head.length])?;
    let data = if payload.len() <= COPIED {
        let data = Bytes::copy_from_slice(payload);
        input.advance(HEAD + head.length);
        data
    } else {
        let (before, length) = (HEAD + usize::from(head.has(flag::PADDED)), payload.len());
        let mut frame = input.split_to(HEAD + head.length);
        frame.advance(before);
        frame.truncate(length);
        frame.freeze()
    };
    // At most the frame size, which fits.
    let charged = head.length as u32;
    Ok(Frame::Data { stream: head.stream, data, charged, end: head.has(flag::END_STREAM) })
}

/// Parses a frame other than DATA and CONTINUATION.
fn parse(head: Head, payload: &[u8]) -> Result<Frame<'_>, Error> {
    let stream = head.stream;
    match head.kind {
        kind::HEADERS => {
            let (fragment, depends_on_itself) = fragment(head, payload)?;
            let end = head.has(flag::END_STREAM);
            Ok(Frame::Headers { stream, block: Cow::Borrowed(fragment), end, depends_on_itself })
        }
        kind::WINDOW_UPDATE => match number(payload, "WINDOW_UPDATE is not 4 bytes")? & 0x7fff_ffff {
            0 if stream == 0 => Err(protocol("WINDOW_UPDATE of the connection is 0")),
            0 => Err(Error::stream(stream, Code::PROTOCOL_ERROR, "WINDOW_UPDATE is 0")),
            increment => Ok(Frame::WindowUpdate { stream, increment }),
        },
        kind::RST_STREAM => {
            on_a_stream(stream, "RST_STREAM is on stream 0")?;
            Ok(Frame::Reset { stream, code: number(payload, "RST_STREAM is not 4 bytes")?.into() })
        }
        kind::SETTINGS => {
            on_the_connection(stream, "SETTINGS is on a stream")?;
            match (head.has(flag::ACK), payload) {
                (true, []) => Ok(Frame::SettingsAck),
                (true, _) => Err(size("SETTINGS with ACK has a payload")),
                (false, payload) => Settings::parse(payload).map(Frame::Settings),
            }
        }
        kind::PING => {
            on_the_connection(stream, "PING is on a stream")?;
            let bytes = payload.try_into().map_err(|_| size("PING is not 8 bytes"))?;
            Ok(if head.has(flag::ACK) { Frame::Pong(bytes) } else { Frame::Ping(bytes) })
        }
        kind::GOAWAY => {
            on_the_connection(stream, "GOAWAY is on a stream")?;
            let Some(([l0, l1, l2, l3, c0, c1, c2, c3], debug)) = payload.split_first_chunk::<8>() else {
                return Err(size("GOAWAY is shorter than 8 bytes"));
            };
            let last = u32::from_be_bytes([*l0, *l1, *l2, *l3]) & 0x7fff_ffff;
            Ok(Frame::GoAway { last, code: u32::from_be_bytes([*c0, *c1, *c2, *c3]).into(), debug })
        }
        kind::PRIORITY => {
            on_a_stream(stream, "PRIORITY is on stream 0")?;
            match payload {
                [_, _, _, _, _] if dependency(payload) == Some(stream) => {
                    Err(Error::stream(stream, Code::PROTOCOL_ERROR, "a stream depends on itself"))
                }
                [_, _, _, _, _] => Ok(Frame::Ignored),
                _ => Err(Error::stream(stream, Code::FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes")),
            }
        }
        kind::PRIORITY_UPDATE => {
            on_the_connection(stream, "PRIORITY_UPDATE is on a stream")?;
            let Some((stream, value)) = payload.split_first_chunk::<4>() else {
                return Err(size("PRIORITY_UPDATE is shorter than 4 bytes"));
            };
            let stream = u32::from_be_bytes(*stream) & 0x7fff_ffff;
            on_a_stream(stream, "PRIORITY_UPDATE is of stream 0")?;
            Ok(Frame::PriorityUpdate { stream, priority: Priority::parse(value) })
        }
        // Servers must not be sent it, and clients of this proxy disable it (RFC 9113 section 8.4).
        kind::PUSH_PROMISE => Err(protocol("PUSH_PROMISE was not allowed")),
        _ => Ok(Frame::Ignored),
    }
}

/// Returns the field block fragment of HEADERS, and whether its deprecated priority names its own stream (RFC 9113 section 6.2).
fn fragment(head: Head, payload: &[u8]) -> Result<(&[u8], bool), Error> {
    on_a_stream(head.stream, "HEADERS is on stream 0")?;
    let payload = unpadded(head, payload)?;
    if !head.has(flag::PRIORITY) {
        return Ok((payload, false));
    }
    match payload.split_first_chunk::<5>() {
        Some((priority, fragment)) => Ok((fragment, dependency(priority) == Some(head.stream))),
        None => Err(size("HEADERS is shorter than its priority")),
    }
}

/// Returns a payload without its padding (RFC 9113 section 6.1).
fn unpadded(head: Head, payload: &[u8]) -> Result<&[u8], Error> {
    if !head.has(flag::PADDED) {
        return Ok(payload);
    }
    let Some((padding, rest)) = payload.split_first() else {
        return Err(size("a padded frame is empty"));
    };
    let length = rest.len().checked_sub(usize::from(*padding));
    length.and_then(|length| rest.get(..length)).ok_or(protocol("the padding is longer than its frame"))
}

/// Returns the stream that a deprecated priority names.
fn dependency(priority: &[u8]) -> Option<u32> {
    priority.first_chunk::<4>().map(|stream| u32::from_be_bytes(*stream) & 0x7fff_ffff)
}

fn number(payload: &[u8], otherwise: &'static str) -> Result<u32, Error> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_| size(otherwise))
}

fn on_a_stream(stream: u32, otherwise: &'static str) -> Result<(), Error> {
    if stream == 0 { Err(protocol(otherwise)) } else { Ok(()) }
}

fn on_the_connection(stream: u32, otherwise: &'static str) -> Result<(), Error> {
    if stream == 0 { Ok(()) } else { Err(protocol(otherwise)) }
}

fn protocol(rule: &'static str) -> Error {
    Error::connection(Code::PROTOCOL_ERROR, rule)
}

fn size(rule: &'static str) -> Error {
    Error::connection(Code::FRAME_SIZE_ERROR, rule)
}

#[cfg(test)]
mod tests;
