//! Decodes field blocks (RFC 7541 section 3).

use super::field::{Field, Name, Value};
use super::section::{Kind, Section};
use super::table::{Entry, Table};
use super::{huffman, integer};

/// Strings above this are decoded into a buffer of their own, so that a connection does not keep a large one.
const KEPT: usize = 1024;

/// The most fields that a head has capacity for before they are decoded, and the least: what a small map has in any case.
const MOST_USUAL: usize = 24;
const LEAST_USUAL: usize = 6;
/// Fields that this proxy adds to a head.
const ADDED: usize = 3;

/// A violation of RFC 7541: the connection ends with COMPRESSION_ERROR (RFC 9113 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct CompressionError(pub(in super::super) &'static str);

/// Decodes the field blocks of one connection, in the order in which they were received.
#[derive(Debug)]
pub(in super::super) struct Decoder {
    table: Table,
    list_bytes: usize,
    most_fields: usize,
    /// The fields that the next head of a request and of a response has capacity for: those of the last one, and more.
    usual: [usize; 2],
    /// The string that is being decoded.
    scratch: Vec<u8>,
}

impl Decoder {
    /// Creates a decoder with a table of 4096 bytes. A section whose fields, by RFC 9113 section 6.5.2, are larger than `list_bytes` is
    /// too large: its further fields are decoded and dropped.
    pub(in super::super) fn new(list_bytes: usize) -> Self {
        let usual = [LEAST_USUAL; 2];
        Self { table: Table::default(), list_bytes, most_fields: usize::MAX, usual, scratch: Vec::new() }
    }

    /// Sets the number of fields above which a section is too large: an indexed field is one byte on the wire, and an entry of a map
    /// in memory.
    pub(in super::super) fn with_most_fields(self, most_fields: usize) -> Self {
        Self { most_fields, ..self }
    }

    /// Decodes a complete field block. The section may be malformed or too large, which does not affect the following ones.
    pub(in super::super) fn decode(
        &mut self,
        block: &[u8],
        kind: Kind,
    ) -> Result<Box<Section>, CompressionError> {
        let capacity = match kind {
            Kind::Request => self.usual[0],
            Kind::Response => self.usual[1],
            Kind::Trailers => 0,
        };
        let mut section = Section::take(kind, self.list_bytes, self.most_fields, capacity);
        let mut rest = self.size_updates(block)?;
        while let Some(first) = rest.first() {
            match first {
                0x80.. => match self.table.get(integer::decode(&mut rest, 7)?)? {
                    Entry::Static(field) => section.add(field),
                    Entry::Dynamic(field) => section.add_shared(field),
                },
                0x40.. => {
                    let field = self.literal(&mut rest, 6)?;
                    section.add_shared(&field);
                    self.table.insert(field);
                }
                0x20.. => return Err(CompressionError("a size update is behind a field")),
                // Not indexed, or never (RFC 7541 section 6.2.3), which the value remembers.
                first => {
                    let never = first & 0x10 != 0;
                    let mut field = self.literal(&mut rest, 4)?;
                    if let (true, Value::Text(value)) = (never, &mut field.value) {
                        value.set_sensitive(true);
                    }
                    section.add(field);
                }
            }
        }
        section.finish();
        let usual = (section.fields.keys_len() + ADDED).clamp(LEAST_USUAL, MOST_USUAL);
        match kind {
            Kind::Request => self.usual[0] = usual,
            Kind::Response => self.usual[1] = usual,
            Kind::Trailers => {}
        }
        if self.scratch.capacity() > KEPT {
            self.scratch = Vec::new();
        }
        Ok(section)
    }

    /// Applies the size updates at the start of a block (RFC 7541 section 4.2) and returns the rest.
    fn size_updates<'a>(&mut self, block: &'a [u8]) -> Result<&'a [u8], CompressionError> {
        let mut rest = block;
        let mut updates = 0;
        while let Some(0x20..0x40) = rest.first() {
            updates += 1;
            // The lowest size since the last block, and the present one.
            if updates > 2 {
                return Err(CompressionError("more than two size updates"));
            }
            self.table.resize(integer::decode(&mut rest, 5)?)?;
        }
        Ok(rest)
    }

    /// Removes a literal from `input`, whose first byte holds `prefix` bits of the index of its name (RFC 7541 section 6.2).
    fn literal(&mut self, input: &mut &[u8], prefix: u32) -> Result<Field, CompressionError> {
        let index = integer::decode(input, prefix)?;
        let (name, name_bytes) = if index == 0 {
            let name = string(&mut self.scratch, input)?;
            (Name::parse(name), name.len())
        } else {
            self.table.name(index)?
        };
        Ok(Field::new(name, name_bytes, string(&mut self.scratch, input)?))
    }
}

/// Removes a string from `input` (RFC 7541 section 5.2). Returns it from there, or decoded in `scratch`.
fn string<'a: 'b, 'b>(scratch: &'b mut Vec<u8>, input: &mut &'a [u8]) -> Result<&'b [u8], CompressionError> {
    let coded = input.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer::decode(input, 7)?;
    let Some((text, rest)) = input.split_at_checked(length) else {
        return Err(CompressionError("a field block ends within a string"));
    };
    *input = rest;
    if !coded {
        return Ok(text);
    }
    scratch.clear();
    huffman::decode(text, scratch)?;
    Ok(scratch)
}

#[cfg(test)]
mod tests;
