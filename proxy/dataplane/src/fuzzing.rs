//! What the fuzz targets (`fuzz/`) call: each panics if a property that must hold for all bytes does not.

use crate::{codec, connection};

/// The head of an HTTP/1 request.
pub fn request_head(bytes: &[u8]) {
    codec::properties::request(bytes);
}

/// The head of an HTTP/1 response.
pub fn response_head(bytes: &[u8]) {
    codec::properties::response(bytes);
}

/// A chunked body; the first byte is where it is split.
pub fn chunked_body(bytes: &[u8]) {
    if let Some((cut, bytes)) = bytes.split_first() {
        codec::properties::chunks(bytes, usize::from(*cut));
    }
}

/// The first bytes of a connection whose protocol is not known.
pub fn detection(bytes: &[u8]) {
    connection::assert_verdict_is_stable(bytes);
}

/// Frames of HTTP/2; the first byte is the length of the pieces that they are read in.
pub fn http2_frames(bytes: &[u8]) {
    if let Some((step, bytes)) = bytes.split_first() {
        codec::http2_properties::frames(bytes, usize::from(*step));
    }
}

/// Field blocks of HTTP/2, each preceded by a byte for its kind and one for its length.
pub fn http2_field_blocks(bytes: &[u8]) {
    codec::http2_properties::field_blocks(bytes);
}

/// What both sides of an HTTP/2 connection do, three bytes a step; and what hardly are frames, for a peer of either role.
pub fn http2_connection(bytes: &[u8]) {
    codec::http2_properties::connection(bytes);
}

/// Frames of HTTP/2, four bytes each, of which the server and that of the `h2` crate must make the same.
pub fn http2_oracle(bytes: &[u8]) {
    codec::http2_oracle::compare(bytes);
}
