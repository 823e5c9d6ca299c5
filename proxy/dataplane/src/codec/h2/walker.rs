//! Finds the frames in the bytes of one direction of a connection (RFC 9113 section 4.1), however the bytes are split.
//!
//! Payloads are skipped, except for the first bytes of frames other than DATA.

/// The number of payload bytes that are kept.
const START: usize = 48;

/// Type codes of frames (RFC 9113 section 6).
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const SETTINGS: u8 = 4;
    pub(in super::super) const WINDOW_UPDATE: u8 = 8;
    pub(in super::super) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(super) mod flag {
    pub(in super::super) const ACK: u8 = 0x1;
    pub(in super::super) const END_STREAM: u8 = 0x1;
    pub(in super::super) const END_HEADERS: u8 = 0x4;
    pub(in super::super) const PADDED: u8 = 0x8;
    pub(in super::super) const PRIORITY: u8 = 0x20;
}

/// The parser of one direction of a connection.
#[derive(Debug)]
pub(super) struct Walker {
    /// The number of bytes of the connection preface still to be received.
    preface: usize,
    head: [u8; 9],
    /// The number of bytes of `head` received.
    have: usize,
    /// The number of bytes of the payload still to be received.
    left: usize,
    frame: Passed,
}

/// A frame that has passed completely.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passed {
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// The stream, 0 for the connection.
    pub(super) stream: u32,
    /// The length of the payload.
    pub(super) length: usize,
    start: [u8; START],
    kept: usize,
}

impl Passed {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Returns the first bytes of the payload; empty for DATA.
    pub(super) fn start(&self) -> &[u8] {
        &self.start[..self.kept]
    }

    /// Returns the payload of a frame that is one number: an error code or an increment.
    pub(super) fn number(&self) -> Option<u32> {
        self.start().first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }
}

impl Walker {
    /// Creates a parser that first skips a connection preface of that length.
    pub(super) fn new(preface: usize) -> Self {
        let frame = Passed { kind: 0, flags: 0, stream: 0, length: 0, start: [0; START], kept: 0 };
        Self { preface, head: [0; 9], have: 0, left: 0, frame }
    }

    /// Returns whether the bytes so far end within the preface, or within a frame that h2 reads as a whole before it acts on
    /// it. DATA does not count; the reader of the body waits for it.
    pub(super) fn is_within_a_head(&self) -> bool {
        let begun = self.have > 0 || self.left > 0;
        self.preface > 0 || begun && (self.have < self.head.len() || self.frame.kind != kind::DATA)
    }

    /// Processes the next bytes and calls `passed` for each frame that ends in them.
    pub(super) fn walk(&mut self, mut bytes: &[u8], mut passed: impl FnMut(&Passed)) {
        let preface = self.preface.min(bytes.len());
        self.preface -= preface;
        bytes = &bytes[preface..];
        while !bytes.is_empty() {
            if self.have < self.head.len() {
                let (piece, rest) = bytes.split_at(bytes.len().min(self.head.len() - self.have));
                self.head[self.have..self.have + piece.len()].copy_from_slice(piece);
                self.have += piece.len();
                bytes = rest;
                if self.have < self.head.len() {
                    return;
                }
                self.begin();
            } else {
                let (piece, rest) = bytes.split_at(bytes.len().min(self.left));
                self.keep(piece);
                self.left -= piece.len();
                bytes = rest;
            }
            if self.left == 0 {
                self.have = 0;
                passed(&self.frame);
            }
        }
    }

    fn begin(&mut self) {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        let frame = &mut self.frame;
        (frame.kind, frame.flags, frame.length, frame.kept) = (kind, flags, self.left, 0);
        frame.stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
    }

    fn keep(&mut self, piece: &[u8]) {
        let frame = &mut self.frame;
        if frame.kind != kind::DATA {
            let piece = &piece[..piece.len().min(START - frame.kept)];
            frame.start[frame.kept..frame.kept + piece.len()].copy_from_slice(piece);
            frame.kept += piece.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_their_bytes_are_split() {
        let mut bytes = b"PREFACE".to_vec();
        bytes.extend_from_slice(&[0, 0, 4, kind::RST_STREAM, 0, 0x80, 0, 0, 5, 0, 0, 0, 8]);
        bytes.extend_from_slice(&[0, 0, 0, kind::SETTINGS, flag::ACK, 0, 0, 0, 0]);
        bytes.extend_from_slice(&[0, 0, 100, kind::HEADERS, flag::END_HEADERS, 0, 0, 0, 7]);
        bytes.extend_from_slice(&[0x82; 100]);
        for size in [1, 2, 3, 9, 13, 1000] {
            let (mut walker, mut seen) = (Walker::new(7), Vec::new());
            for piece in bytes.chunks(size) {
                walker.walk(piece, |frame| {
                    seen.push((frame.kind, frame.stream, frame.length, frame.start().len(), frame.number()));
                });
            }
            assert_eq!(
                seen,
                [
                    (kind::RST_STREAM, 5, 4, 4, Some(8)),
                    (kind::SETTINGS, 0, 0, 0, None),
                    (kind::HEADERS, 7, 100, START, Some(0x8282_8282)),
                ],
                "in pieces of {size}"
            );
        }
    }
}
