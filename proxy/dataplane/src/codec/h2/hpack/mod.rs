//! Header compression of HTTP/2 (RFC 7541), and what a field section must satisfy (RFC 9113 section 8.2 and 8.3).
//!
//! Called by a connection: [`Decoder`] turns a field block into a [`Section`], [`Encoder`] does the reverse. A field is parsed and checked
//! once, when it enters the decoder's table or as a literal; a section only takes references to it. A malformed field makes its
//! section malformed and no more: only a violation of RFC 7541 ends the connection.

mod encoder;
mod decoder;
mod section;
mod table;
mod statics;
mod field;
mod huffman;
mod integer;

pub(super) use decoder::{CompressionError, Decoder};
pub(super) use encoder::{Encoder, Pseudo};
pub(super) use section::{Kind, Section};

/// The size of a table unless SETTINGS_HEADER_TABLE_SIZE says otherwise (RFC 9113 section 6.5.2), and the limit of both tables here.
pub(super) const TABLE_BYTES: usize = 4096;
/// What an entry costs besides its name and value (RFC 7541 section 4.1).
const ENTRY_OVERHEAD: usize = 32;
