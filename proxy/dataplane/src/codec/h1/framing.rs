//! Bodies as HTTP/1 frames them (RFC 9112 sections 6 and 7), decoded without copying. The input is untrusted.
//!
//! A chunk size is 1 to 15 hexadecimal digits; extensions are skipped and limited; every line ends in CR LF. The end of the
//! connection inside a body is an error, unless it delimits the body.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::Malformed;
use super::fields::{self, Search, USUAL_FIELDS};
use crate::codec::hop;
use crate::codec::limits::Limits;

/// Bytes of chunk-size lines that one body may spend on extensions and leading zeros.
const SLACK: usize = 16 * 1024;
/// Bytes of one chunk-size line.
const SIZE_LINE: usize = 512;

/// The framing of a body, and its length if it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body.
    None,
    /// A body of this many bytes, not 0.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
    /// The body extends to the end of the connection. Only for responses.
    UntilClose,
}

impl Framing {
    /// Returns the framing of a body of `length` bytes, which may be 0.
    pub(crate) fn length(length: u64) -> Self {
        if length == 0 { Self::None } else { Self::Length(length) }
    }

    /// Returns the length if it is known in advance.
    pub(crate) fn known(self) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Length(length) => Some(length),
            Self::Chunked | Self::UntilClose => None,
        }
    }
}

/// Decodes one body.
#[derive(Debug, Clone)]
pub(crate) struct Decoder {
    state: DecoderState,
    slack: usize,
}

#[derive(Debug, Clone)]
enum DecoderState {
    Ended,
    Length(u64),
    UntilClose,
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailers(Search),
}

/// The result of one decoding step.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// Bytes of the body.
    Data(Bytes),
    /// The trailer fields; the body has ended.
    Trailers(HeaderMap),
    /// The body has ended.
    End,
    /// More bytes are needed.
    More,
}

impl Decoder {
    /// Creates a decoder for a body of this framing.
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None => DecoderState::Ended,
            Framing::Length(length) => DecoderState::Length(length),
            Framing::Chunked => DecoderState::Size,
            Framing::UntilClose => DecoderState::UntilClose,
        };
        Self { state, slack: SLACK }
    }

    /// Returns whether the end of the body was reached.
    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.state, DecoderState::Ended)
    }

    /// Records the end of the connection. Returns true if it is the end of the body, and false if the body was cut off.
    pub(crate) fn connection_ended(&mut self) -> bool {
        if matches!(self.state, DecoderState::UntilClose) {
            self.state = DecoderState::Ended;
        }
        self.is_ended()
    }

    /// Returns whether `bytes` contains the whole body. A malformed body counts as whole: its reader reports the error.
    pub(crate) fn is_whole_in(&self, bytes: &BytesMut, limits: &Limits) -> bool {
        match self.state {
            DecoderState::Ended => true,
            DecoderState::Length(left) => left <= bytes.len() as u64,
            DecoderState::UntilClose => false,
            DecoderState::Size
            | DecoderState::Chunk(_)
            | DecoderState::ChunkEnd
            | DecoderState::Trailers(_) => {
                let (mut decoder, mut bytes) = (self.clone(), bytes.clone());
                loop {
                    match decoder.decode(&mut bytes, limits) {
                        Ok(Decoded::Data(_)) => {}
                        Ok(Decoded::More) => return false,
                        Ok(Decoded::Trailers(_) | Decoded::End) | Err(_) => return true,
                    }
                }
            }
        }
    }

    /// Decodes the next piece and removes it from `bytes`.
    pub(crate) fn decode(&mut self, bytes: &mut BytesMut, limits: &Limits) -> Result<Decoded, Malformed> {
        loop {
            match &mut self.state {
                DecoderState::Ended => return Ok(Decoded::End),
                DecoderState::Length(_) | DecoderState::UntilClose | DecoderState::Chunk(_)
                    if bytes.is_empty() =>
                {
                    return Ok(Decoded::More);
                }
                DecoderState::UntilClose => return Ok(Decoded::Data(bytes.split().freeze())),
                DecoderState::Length(left) => {
                    let data = take(bytes, left);
                    if *left == 0 {
                        self.state = DecoderState::Ended;
                    }
                    return Ok(Decoded::Data(data));
                }
                DecoderState::Chunk(left) => {
                    let data = take(bytes, left);
                    if *left == 0 {
                        self.state = DecoderState::ChunkEnd;
                    }
                    return Ok(Decoded::Data(data));
                }
                DecoderState::ChunkEnd => match bytes.as_ref() {
                    [b'\r', b'\n', ..] => {
                        bytes.advance(2);
                        self.state = DecoderState::Size;
                    }
                    [] | [b'\r'] => return Ok(Decoded::More),
                    _ => return Err(Malformed::Rule("a chunk is not as long as it says")),
                },
                DecoderState::Size => {
                    let Some((size, line)) = size(bytes)? else { return Ok(Decoded::More) };
                    // "0\r
                    // " is 3 bytes; the bytes of a line beyond its digits count as slack.
                    self.slack = self
                        .slack
                        .checked_sub(line.saturating_sub(8))
                        .ok_or(Malformed::Rule("too many bytes of chunk extensions"))?;
                    bytes.advance(line);
                    self.state = if size == 0 {
                        DecoderState::Trailers(Search::default())
                    } else {
                        DecoderState::Chunk(size)
                    };
                }
                DecoderState::Trailers(search) => {
                    let end = search.end(bytes)?;
                    if end.unwrap_or(bytes.len()) > limits.written_bytes() {
                        return Err(Malformed::TooLarge);
                    }
                    let Some(end) = end else { return Ok(Decoded::More) };
                    let section = bytes.split_to(end).freeze();
                    self.state = DecoderState::Ended;
                    let trailers = trailers(&section, limits)?;
                    return Ok(if trailers.is_empty() { Decoded::End } else { Decoded::Trailers(trailers) });
                }
            }
        }
    }
}

fn take(bytes: &mut BytesMut, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    *left -= length as u64;
    bytes.split_to(length).freeze()
}

/// Parses a chunk-size line. Returns the size and the length of the line in bytes, or `None` if the line is incomplete.
fn size(bytes: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    const BAD: Malformed = Malformed::Rule("a chunk size is no hexadecimal number");
    let digits = bytes.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    if digits > 15 {
        return Err(BAD);
    }
    let Some(next) = bytes.get(digits) else { return Ok(None) };
    if digits == 0 || !matches!(next, b'\r' | b';') {
        return Err(BAD);
    }
    let window = &bytes[..bytes.len().min(SIZE_LINE)];
    // An extension is text: a CR anywhere but before the LF, or an LF anywhere else, could end the line for another recipient.
    let Some(end) = window[digits..].iter().position(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) else {
        return if window.len() < SIZE_LINE {
            Ok(None)
        } else {
            Err(Malformed::Rule("a chunk extension is too long"))
        };
    };
    let end = digits + end;
    match (bytes[end], bytes.get(end + 1)) {
        (b'\r', None) => Ok(None),
        (b'\r', Some(b'\n')) => {
            let text = std::str::from_utf8(&bytes[..digits]).map_err(|_| BAD)?;
            let size = u64::from_str_radix(text, 16).map_err(|_| BAD)?;
            Ok(Some((size, end + 2)))
        }
        _ => Err(Malformed::Rule("a chunk-size line does not end in CR LF")),
    }
}

fn trailers(section: &Bytes, limits: &Limits) -> Result<HeaderMap, Malformed> {
    if section.len() == 2 {
        return Ok(HeaderMap::new());
    }
    let (mut usual, mut more) = ([httparse::EMPTY_HEADER; USUAL_FIELDS], Vec::new());
    let slots = if limits.fields > USUAL_FIELDS {
        more.resize(limits.fields, httparse::EMPTY_HEADER);
        &mut more[..]
    } else {
        &mut usual[..]
    };
    let parsed = match httparse::parse_headers(section, slots).map_err(fields::malformed)? {
        httparse::Status::Complete((_, parsed)) => parsed,
        httparse::Status::Partial => return Err(Malformed::Rule("the trailer section is malformed")),
    };
    fields::check_size(parsed, limits)?;
    let mut trailers = HeaderMap::with_capacity(parsed.len());
    for parsed in parsed {
        let (name, value) = fields::field(section, parsed)?;
        if !hop::is_forbidden_in_trailers(&name) {
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Read = (Vec<u8>, Option<HeaderMap>, bool, Vec<u8>);

    /// Decodes a body whose bytes arrive in these pieces: returns data, trailers, whether it ended, and the remaining bytes.
    fn decode(framing: Framing, pieces: &[&[u8]]) -> Result<Read, Malformed> {
        let (mut decoder, mut bytes) = (Decoder::new(framing), BytesMut::new());
        let (mut data, mut trailers) = (Vec::new(), None);
        for piece in pieces {
            bytes.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut bytes, &Limits::default())? {
                    Decoded::Data(piece) => data.extend_from_slice(&piece),
                    Decoded::Trailers(found) => trailers = Some(found),
                    Decoded::End | Decoded::More => break,
                }
            }
        }
        Ok((data, trailers, decoder.is_ended(), bytes.to_vec()))
    }

    #[test]
    fn a_length_takes_that_many_bytes_and_leaves_the_rest() {
        let (data, _, ended, rest) = decode(Framing::length(4), &[b"ab", b"cdef"]).unwrap();
        assert_eq!((&data[..], ended, &rest[..]), (&b"abcd"[..], true, &b"ef"[..]));
        assert!(!decode(Framing::length(4), &[b"abc"]).unwrap().2);
    }

    #[test]
    fn chunks_with_extensions_and_trailers_are_read() {
        let bytes =
            b"4;a=b\r\nwiki\r\n00A;x=\"y z\"\r\n0123456789\r\n0\r\nX-Sum: 7\r\nContent-Length: 3\r\n\r\nnext";
        let (data, trailers, ended, rest) = decode(Framing::Chunked, &[bytes]).unwrap();
        assert_eq!((&data[..], ended, &rest[..]), (&b"wiki0123456789"[..], true, &b"next"[..]));
        let trailers = trailers.unwrap();
        assert_eq!((trailers.len(), trailers["x-sum"].as_bytes()), (1, &b"7"[..]));
    }

    #[test]
    fn tricks_with_chunks_are_refused() {
        let long = format!("1;{}\r\na\r\n", "x".repeat(600));
        let many = "1;0123456789012345678901234567890123456789\r\na\r\n".repeat(500);
        for bytes in [
            &b"\r\nwiki\r\n"[..],
            b"+4\r\nwiki\r\n",
            b"-1\r\n",
            b"0x4\r\nwiki\r\n",
            b"4 \r\nwiki\r\n",
            b" 4\r\nwiki\r\n",
            b"4\nwiki\r\n",
            b"4\r\nwikis\r\n",
            b"4\r\nwiki\n0\r\n\r\n",
            b"4\r\nwiki0\r\n\r\n",
            b"4;a\nb\r\nwiki\r\n",
            b"4;a\rb\r\nwiki\r\n",
            b"4;\0\r\nwiki\r\n",
            b"4\t\r\nwiki\r\n",
            b"ffffffffffffffff\r\n",
            b"0000000000000000000004\r\nwiki\r\n",
            b"4_0\r\n",
            b"0\r\nX y: 1\r\n\r\n",
            b"0\r\nX : 1\r\n\r\n",
            b"0\r\nX: 1\n\r\n",
            b"0\r\n:path: /\r\n\r\n",
            b"0\r\nX: a\r\n b\r\n\r\n",
            long.as_bytes(),
            many.as_bytes(),
        ] {
            assert!(decode(Framing::Chunked, &[bytes]).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_trailer_section_is_bounded() {
        let many = format!("0\r\n{}\r\n", "a: b\r\n".repeat(101));
        assert_eq!(decode(Framing::Chunked, &[many.as_bytes()]).unwrap_err(), Malformed::TooLarge);
        let large = format!("0\r\na: {}", "b".repeat(70 * 1024));
        assert_eq!(decode(Framing::Chunked, &[large.as_bytes()]).unwrap_err(), Malformed::TooLarge);
    }

    #[test]
    fn only_a_body_that_ends_with_its_connection_may_end_with_it() {
        for (framing, clean) in
            [(Framing::UntilClose, true), (Framing::Chunked, false), (Framing::Length(3), false)]
        {
            assert_eq!(Decoder::new(framing).connection_ended(), clean, "{framing:?}");
        }
    }

    proptest! {
        #[test]
        fn however_bytes_are_split_they_decode_alike(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..64),
                "(([1-9a-f];x)?[1-4]\r\n[a-z]{1,4}\r\n){0,4}(0\r\n(X: y\r\n)?\r\n)?".prop_map(String::into_bytes),
            ],
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(decode(Framing::Chunked, &pieces), decode(Framing::Chunked, &[&bytes]));
        }
    }
}
