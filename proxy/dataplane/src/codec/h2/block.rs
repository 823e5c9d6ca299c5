//! A field block (RFC 9113 section 4.3), inspected without decoding it.

use super::walker::{Passed, flag, kind};

/// The number of bytes inspected at its start.
const BEGINNING: usize = 32;
/// The last index of a pseudo-field in HPACK's static table (RFC 7541 appendix A).
const LAST_PSEUDO_FIELD: u8 = 14;

/// The block that is being received, or the last one received.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) stream: u32,
    /// Its length in all frames.
    pub(super) bytes: usize,
    /// Whether it ends the peer's side of the stream.
    pub(super) end_stream: bool,
    beginning: Vec<u8>,
    /// Whether more frames of it follow.
    pub(super) is_open: bool,
}

impl Block {
    /// Adds a HEADERS or CONTINUATION frame. Returns whether the block is complete.
    pub(super) fn add(&mut self, frame: &Passed) -> bool {
        let mut start = frame.start();
        if frame.kind == kind::HEADERS {
            self.stream = frame.stream;
            self.bytes = 0;
            self.end_stream = frame.has(flag::END_STREAM);
            self.beginning.clear();
            let before = usize::from(frame.has(flag::PADDED)) + if frame.has(flag::PRIORITY) { 5 } else { 0 };
            start = start.get(before..).unwrap_or_default();
        }
        self.bytes += frame.length;
        let wanted = BEGINNING - self.beginning.len();
        self.beginning.extend_from_slice(&start[..start.len().min(wanted)]);
        self.is_open = !frame.has(flag::END_HEADERS);
        !self.is_open
    }

    /// Returns whether its first field is a pseudo-field whose name is literal or in the static table. One from the dynamic
    /// table is not recognized, since that requires a decoder; h2 refuses pseudo-fields after others.
    pub(super) fn begins_with_pseudo_field(&self) -> bool {
        let mut bytes = self.beginning.iter().copied();
        let mut first = bytes.next();
        // Size updates of the table precede fields (RFC 7541 section 6.3): five bits, or seven in each further byte.
        while let Some(update) = first.filter(|byte| byte & 0xe0 == 0x20) {
            if update & 0x1f == 0x1f {
                bytes.by_ref().find(|byte| byte & 0x80 == 0);
            }
            first = bytes.next();
        }
        let Some(first) = first else { return false };
        let index = match first {
            0x80.. => first & 0x7f,
            0x40.. => first & 0x3f,
            _ => first & 0x0f,
        };
        if index != 0 {
            return index <= LAST_PSEUDO_FIELD;
        }
        // A literal name: its length, with a bit for Huffman coding, in which a colon is 1011100.
        match (bytes.next(), bytes.next()) {
            (Some(length), Some(initial)) if length & 0x80 == 0 => initial == b':',
            (Some(_), Some(initial)) => initial >> 1 == 0b101_1100,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pseudo_field_is_recognised_in_every_form_in_which_it_can_be_written() {
        for (beginning, pseudo) in [
            (&[0x82][..], true),                       // :method GET
            (&[0x8e], true),                           // :status 500
            (&[0x8f], false),                          // accept-charset
            (&[0xbe], false),                          // from the dynamic table
            (&[0x44, 1, b'/'], true),                  // :path, to be indexed
            (&[0x04, 1, b'/'], true),                  // :path, not indexed
            (&[0x14, 1, b'/'], true),                  // :path, never indexed
            (&[0x5f, 1, b'x'], false),                 // content-type
            (&[0x00, 2, b':', b'x', 0], true),         // a name of its own
            (&[0x40, 1, b'x', 0], false),              // a regular one
            (&[0x40, 0x82, 0b1011_1001, 0xff], true),  // :x in Huffman's code
            (&[0x40, 0x82, 0b1111_0011, 0xff], false), // x in Huffman coding
            (&[0x20, 0x82], true),                     // behind an update of the table's size
            (&[0x3f, 0xe1, 0x1f, 0x82], true),         // behind a longer one
            (&[0x3f, 0xe1, 0x1f, 0x40, 1, b'x'], false),
            (&[], false),
        ] {
            let block = Block { beginning: beginning.to_vec(), ..Block::default() };
            assert_eq!(block.begins_with_pseudo_field(), pseudo, "{beginning:x?}");
        }
    }
}
