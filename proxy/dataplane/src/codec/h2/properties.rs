//! What holds for all bytes from a peer: nothing panics, and what is understood has one meaning.
//!
//! Called with bytes that are nearly messages by the tests, and by the fuzz targets (`fuzz/`) with what a fuzzer finds.

use bytes::BytesMut;
use http::header;

pub(crate) use super::connection::properties::script as connection;
use super::frame::Reader;
use super::hpack::{Decoder, Encoder, Kind, Pseudo, Section};

/// Limits like those of a connection.
const FRAME_SIZE: u32 = 16 * 1024;
const BLOCK_BYTES: usize = 64 * 1024;

/// Frames are the same, however their bytes are split: into pieces of `step` bytes here.
pub(crate) fn frames(bytes: &[u8], step: usize) {
    assert_eq!(frames_in(bytes.chunks(step.max(1))), frames_in([bytes].into_iter()));
}

/// The frames in these pieces as text, up to the first error.
fn frames_in<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, usize) {
    let (mut reader, mut input) = (Reader::new(FRAME_SIZE, BLOCK_BYTES), BytesMut::new());
    let mut frames = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match reader.next(&mut input) {
                Ok(Some(frame)) => frames.push(format!("{frame:?}")),
                Ok(None) => break,
                Err(error) => {
                    frames.push(format!("{error:?}"));
                    if error.stream.is_none() {
                        return (frames, 0);
                    }
                }
            }
        }
    }
    (frames, input.len())
}

/// Field blocks, each preceded by its kind and length: each section that is complete is passed on as the same section.
pub(crate) fn field_blocks(bytes: &[u8]) {
    let (mut decoder, mut encoder) = (Decoder::new(BLOCK_BYTES), Encoder::default());
    let mut next = Decoder::new(BLOCK_BYTES);
    let mut rest = bytes;
    while let [kind, length, after @ ..] = rest {
        let (block, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        let kind = match kind % 3 {
            0 => Kind::Request,
            1 => Kind::Response,
            _ => Kind::Trailers,
        };
        let Ok(section) = decoder.decode(block, kind) else { return };
        assert!(section.list_bytes >= section.size.bytes);
        if section.malformed.is_some() || section.refused.is_some() || section.too_large {
            continue;
        }
        let mut out = Vec::new();
        encode(&mut encoder, &section, kind, &mut out);
        match next.decode(&out, kind) {
            Ok(again) => {
                assert_eq!(described(&again), described(&section));
                let sensitive =
                    |section: &Section| section.fields.values().filter(|value| value.is_sensitive()).count();
                assert!(
                    sensitive(&again) >= sensitive(&section) || section.fields.contains_key(header::HOST)
                );
            }
            Err(error) => assert_eq!(Err(error), Ok(()), "what was encoded is refused"),
        }
    }
}

fn encode(encoder: &mut Encoder, section: &Section, kind: Kind, out: &mut Vec<u8>) {
    let pseudo = match (kind, &section.method, section.status) {
        (Kind::Request, Some(method), _) => Pseudo::Request {
            method,
            scheme: section.scheme.map(|scheme| scheme.map_or("other", |scheme| scheme.as_str())),
            authority: section.authority.as_ref().map(|authority| authority.as_str()),
            path: section.path.as_ref().map(|path| path.as_str()),
            protocol: section.protocol.as_ref().and_then(|protocol| protocol.to_str().ok()),
        },
        (Kind::Response, _, Some(status)) => Pseudo::Response(status),
        _ => Pseudo::None,
    };
    encoder.encode(pseudo, &section.fields, out);
}

/// What must be equal in two sections with the same meaning. `host` and a protocol that is no text are not encoded.
fn described(section: &Section) -> String {
    let Section { method, scheme, authority, path, status, fields, content_length, cookies, .. } = section;
    let fields = fields.iter().filter(|(name, _)| *name != header::HOST);
    let fields: Vec<_> = fields.map(|(name, value)| (name, value.as_bytes())).collect();
    format!("{method:?} {scheme:?} {authority:?} {path:?} {status:?} {fields:?} {content_length:?} {cookies}")
}
