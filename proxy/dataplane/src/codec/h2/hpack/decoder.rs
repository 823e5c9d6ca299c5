//! Decodes field blocks (RFC 7541 section 3).

use super::section::{Kind, Section};
use super::table::Table;

/// A violation of RFC 7541: the connection ends with COMPRESSION_ERROR (RFC 9113 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct CompressionError(pub(in super::super) &'static str);

/// Decodes the field blocks of one connection, in the order in which they were received.
#[derive(Debug)]
pub(in super::super) struct Decoder {
    table: Table,
    list_bytes: usize,
}

impl Decoder {
    /// Creates a decoder with a table of 4096 bytes. A section whose fields, by RFC 9113 section 6.5.2, are larger than `list_bytes` is
    /// too large: its further fields are decoded and dropped.
    pub(in super::super) fn new(list_bytes: usize) -> Self {
        Self { table: Table::default(), list_bytes }
    }

    /// Decodes a complete field block. The section may be malformed or too large, which does not affect the following ones.
    pub(in super::super) fn decode(&mut self, block: &[u8], kind: Kind) -> Result<Section, CompressionError> {
        todo!()
    }

    /// Returns the bytes that the table holds, for the memory that a connection is charged with.
    pub(in super::super) fn table_bytes(&self) -> usize {
        todo!()
    }
}
