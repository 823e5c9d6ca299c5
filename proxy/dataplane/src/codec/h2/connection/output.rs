//! The bytes that a connection has to write: frames in one buffer, and between them large payloads that are not copied.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use super::super::frame::write;

/// Payloads up to this size are copied behind their frame's head: a slice of their own costs the kernel more.
const COPIED: usize = 1024;
/// Bytes that are queued here before DATA waits in its stream, so that what becomes urgent later is not far behind.
const ENOUGH: usize = 64 * 1024;
/// Capacity that the buffer keeps when it is empty.
const KEPT: usize = 16 * 1024;
/// Bytes that are queued before no more requests are read or opened. DATA alone stays below.
const FULL: usize = 4 * ENOUGH;
/// The same limit for a client's reading. It is higher, so that two sidecars never both wait for the other to read.
const FULL_OF_ANSWERS: usize = 4 * FULL;

/// What is to be written, in order.
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// How many of `bytes` were written.
    written: usize,
    payloads: VecDeque<Payload>,
    /// The bytes of `payloads`.
    shared: usize,
}

/// A payload that is written when `at` of `bytes` are.
#[derive(Debug)]
struct Payload {
    at: usize,
    data: Bytes,
}

impl Output {
    /// The buffer to append frames to.
    pub(super) fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Appends a DATA frame.
    pub(super) fn data(&mut self, stream: u32, data: Bytes, end: bool) {
        write::data_head(&mut self.bytes, stream, data.len(), end);
        if data.len() <= COPIED {
            self.bytes.extend_from_slice(&data);
        } else {
            self.shared += data.len();
            self.payloads.push_back(Payload { at: self.bytes.len(), data });
        }
    }

    /// Returns how many bytes are to be written.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.written + self.shared
    }

    /// Returns whether more DATA can be appended.
    pub(super) fn has_capacity(&self) -> bool {
        self.len() < ENOUGH
    }

    /// Returns whether the peer reads too slowly for more requests.
    pub(super) fn is_full(&self) -> bool {
        self.len() >= FULL
    }

    /// Returns whether a server causes more answers than it reads.
    pub(super) fn is_full_of_answers(&self) -> bool {
        self.len() >= FULL_OF_ANSWERS
    }

    /// Fills `slices` with what is to be written next, and returns how many it used.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut used, mut at) = (0, self.written);
        let mut add = |bytes: &'a [u8]| {
            if bytes.is_empty() {
                return true;
            }
            let Some(slice) = slices.get_mut(used) else { return false };
            *slice = IoSlice::new(bytes);
            used += 1;
            true
        };
        for payload in &self.payloads {
            if !add(&self.bytes[at..payload.at]) || !add(&payload.data) {
                return used;
            }
            at = payload.at;
        }
        add(&self.bytes[at..]);
        used
    }

    /// Records that the next `bytes` were written.
    pub(super) fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let until = self.payloads.front().map_or(self.bytes.len(), |payload| payload.at);
            let step = bytes.min(until - self.written);
            self.written += step;
            bytes -= step;
            let Some(payload) = self.payloads.front_mut() else { break };
            let step = bytes.min(payload.data.len());
            payload.data.advance(step);
            self.shared -= step;
            bytes -= step;
            if payload.data.is_empty() {
                self.payloads.pop_front();
            }
        }
        if self.len() == 0 {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
            self.written = 0;
        } else if self.written >= ENOUGH {
            self.bytes.drain(..self.written);
            self.payloads.iter_mut().for_each(|payload| payload.at -= self.written);
            self.written = 0;
        }
    }

    /// Releases the memory of an output that is empty.
    pub(super) fn shrink(&mut self) {
        if self.len() == 0 {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_in_order_however_much_is_written_at_once() {
        for step in [1, 7, 100, 5000, usize::MAX] {
            let (mut output, mut expected) = (Output::default(), Vec::new());
            for round in 0..60_usize {
                let data = vec![u8::try_from(round).unwrap(); round * 40];
                write::data_head(&mut expected, 1, data.len(), false);
                expected.extend_from_slice(&data);
                output.data(1, data.into(), false);
            }
            assert_eq!(output.len(), expected.len());
            let mut written = Vec::new();
            while output.len() > 0 {
                let mut slices = [IoSlice::new(&[]); 5];
                let used = output.slices(&mut slices);
                let mut next: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect();
                next.truncate(step);
                output.advance(next.len());
                written.extend(next);
            }
            assert!(written == expected, "in steps of {step}");
        }
    }
}
