//! The field sections of one HTTP/2 connection, encoded and decoded, for the benches of single stages.

use http::{HeaderMap, Method};

use super::hpack::{Decoder, Encoder, Kind, Pseudo};

/// The limit of a section, as of a connection.
const LIST_BYTES: usize = 64 * 1024;

/// An encoder and a decoder, which see the same sections.
pub struct FieldSections {
    encoder: Encoder,
    decoder: Decoder,
}

impl Default for FieldSections {
    fn default() -> Self {
        Self { encoder: Encoder::default(), decoder: Decoder::new(LIST_BYTES) }
    }
}

impl FieldSections {
    /// Appends the block of a GET for `path` with these fields to `out`.
    pub fn encode(&mut self, path: &str, fields: &HeaderMap, out: &mut Vec<u8>) {
        let head = Pseudo::Request {
            method: &Method::GET,
            scheme: Some("http"),
            authority: Some("cart.shop"),
            path: Some(path),
            protocol: None,
        };
        self.encoder.encode(head, fields, out);
    }

    /// Decodes the block of a request. Returns its number of fields, or None if it is not well-formed.
    pub fn decode(&mut self, block: &[u8]) -> Option<usize> {
        let section = self.decoder.decode(block, Kind::Request).ok()?;
        section.malformed.is_none().then(|| section.fields.len())
    }
}
