//! The state of a connection, observed from the frames that pass on it: windows, heads that h2 refused by itself, trailers that
//! it does not pass on unchanged.
//!
//! Written by [`super::wire`], read by both sides of the connection on its worker.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use h2::Reason as Code;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::block::Block;
use super::owed::Owed;
use super::walker::{Passed, flag, kind};
use super::window::Window;
use super::written::Written;
use crate::codec::limits::Limits;

/// The number of header bytes that are decoded before the streams that they open are accepted. One byte may cost a hundred in
/// memory (an indexed field), which refused streams should hold only briefly.
const HEAD_BYTES_AT_ONCE: usize = 8 * 1024;
/// The same limit as a number of heads.
const HEADS_AT_ONCE: usize = 128;
/// The number of recent streams that are remembered.
const REMEMBERED: usize = 256;

/// The observed state of a connection.
#[derive(Debug)]
pub(super) struct Seen {
    server: bool,
    /// The size of a field block above which the block exceeds the limits, and h2 may have truncated it.
    largest_block: usize,
    heard: Cell<Instant>,
    /// The time since which the rest of what h2 reads as a whole is outstanding: the SETTINGS, a frame, a field block.
    owed_since: Cell<Option<Instant>>,
    /// The window for receiving from the peer.
    pub(super) receiving: Window,
    /// The window for sending to the peer.
    pub(super) sending: Window,
    block: RefCell<Block>,
    head_bytes: Cell<usize>,
    /// The newest stream that a client opened.
    newest: Cell<u32>,
    /// Streams that a client opened and that were not yet passed on.
    waiting: RefCell<VecDeque<Waiting>>,
    waiting_bytes: Cell<usize>,
    held_back: Cell<bool>,
    /// Whether a client has half-closed and it is unknown whether it still reads.
    half_closed: Cell<bool>,
    /// The responses that are owed to a client.
    pub(super) owed: Owed,
    pub(super) written: Written,
    /// On the client side, the streams whose head or trailers were in the last bytes received.
    last_blocks: RefCell<Vec<u32>>,
    /// Streams that h2 will not pass on, because it answers them itself.
    passed_over: RefCell<VecDeque<u32>>,
    refused: RefCell<Vec<Failure>>,
    faults: RefCell<VecDeque<(u32, Fault)>>,
    settings: Cell<bool>,
    settings_wanted: RefCell<Vec<Waker>>,
    /// Whether h2 has processed all bytes received so far and reads more.
    decoded: Cell<bool>,
}

/// What h2 does not report about trailers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It omits fields above its limit.
    TooLarge,
    /// It omits pseudo-fields, which make the message malformed (RFC 9113 section 8.1).
    PseudoField,
}

#[derive(Debug)]
struct Waiting {
    stream: u32,
    bytes: usize,
    reset: bool,
}

impl Seen {
    /// Creates the state of a connection from a client.
    pub(super) fn of_client(limits: &Limits) -> Self {
        Self::new(true, limits)
    }

    /// Creates the state of a connection to a server.
    pub(super) fn of_server(limits: &Limits) -> Self {
        Self::new(false, limits)
    }

    fn new(server: bool, limits: &Limits) -> Self {
        // Huffman coding compresses 8 bits to 5 at best. So h2 truncates a block that is no longer than this only if the block
        // repeats fields by reference, and a longer one is above the proxy's own limit in any case.
        let largest_block = limits.http2_list_bytes() as usize / 8 * 5;
        Self {
            server,
            largest_block,
            heard: Cell::new(Instant::now()),
            owed_since: Cell::new(Some(Instant::now())),
            receiving: Window::default(),
            sending: Window::default(),
            block: RefCell::default(),
            head_bytes: Cell::new(0),
            newest: Cell::new(0),
            waiting: RefCell::default(),
            waiting_bytes: Cell::new(0),
            held_back: Cell::new(false),
            half_closed: Cell::new(false),
            owed: Owed::default(),
            written: Written::default(),
            last_blocks: RefCell::default(),
            passed_over: RefCell::default(),
            refused: RefCell::default(),
            faults: RefCell::default(),
            settings: Cell::new(false),
            settings_wanted: RefCell::default(),
            decoded: Cell::new(true),
        }
    }

    /// Records that bytes were received.
    pub(super) fn heard(&self) {
        self.heard.set(Instant::now());
        self.decoded.set(false);
        self.last_blocks.borrow_mut().clear();
    }

    /// Records that h2 reads, which it does when it has decoded all bytes that it has.
    pub(super) fn wanted(&self) {
        self.decoded.set(true);
    }

    /// Records that all bytes received so far were processed, and whether they end within a frame.
    pub(super) fn paused(&self, within_a_head: bool) {
        let owes = within_a_head || !self.settings.get() || self.block.borrow().is_open;
        if !owes {
            self.owed_since.set(None);
        } else if self.owed_since.get().is_none() {
            self.owed_since.set(Some(self.heard.get()));
        }
    }

    /// Returns the time since which the rest of a head, or of anything else that h2 reads as a whole, is outstanding.
    pub(super) fn owed_since(&self) -> Option<Instant> {
        self.owed_since.get()
    }

    /// Returns when bytes were last received: DATA, heads, PING responses.
    pub(super) fn last_heard(&self) -> Instant {
        self.heard.get()
    }

    /// Returns the number of compressed bytes of heads and trailers that the peer has sent.
    pub(super) fn head_bytes(&self) -> usize {
        self.head_bytes.get()
    }

    /// Records a frame from the peer.
    pub(super) fn came(&self, frame: &Passed) {
        match frame.kind {
            kind::DATA => {
                self.receiving.spend(frame.length);
                if self.server && frame.has(flag::END_STREAM) {
                    self.owed.whole(frame.stream);
                }
            }
            kind::HEADERS | kind::CONTINUATION => {
                let whole = self.block.borrow_mut().add(frame);
                if whole {
                    self.block_came();
                }
            }
            kind::WINDOW_UPDATE if frame.stream == 0 => self.sending.grow(frame.number().unwrap_or(0)),
            kind::RST_STREAM if self.server => {
                self.owed.settled(frame.stream);
                let mut waiting = self.waiting.borrow_mut();
                if let Some(waiting) = waiting.iter_mut().find(|waiting| waiting.stream == frame.stream) {
                    waiting.reset = true;
                }
            }
            kind::SETTINGS if !frame.has(flag::ACK) && !self.settings.replace(true) => {
                self.settings_wanted.take().into_iter().for_each(Waker::wake);
            }
            _ => {}
        }
        if self.settings.get() && !self.block.borrow().is_open {
            // The next head has its own timeout. Further frames of an open block do not extend it.
            self.owed_since.set(None);
        }
    }

    /// Records a frame to the peer.
    pub(super) fn went(&self, frame: &Passed) {
        match frame.kind {
            kind::DATA => {
                self.sending.spend(frame.length);
                if self.server && frame.has(flag::END_STREAM) {
                    self.owed.settled(frame.stream);
                }
            }
            kind::WINDOW_UPDATE if frame.stream == 0 => self.receiving.grow(frame.number().unwrap_or(0)),
            kind::HEADERS if self.server => {
                if frame.has(flag::END_STREAM) {
                    self.owed.settled(frame.stream);
                }
                self.h2_answered(frame.stream, None);
            }
            kind::RST_STREAM if self.server => {
                self.owed.settled(frame.stream);
                self.h2_answered(frame.stream, frame.number().map(Code::from));
            }
            _ => {}
        }
    }

    fn block_came(&self) {
        let block = self.block.borrow();
        self.head_bytes.set(self.head_bytes.get().saturating_add(block.bytes));
        if self.server && block.stream > self.newest.get() {
            self.newest.set(block.stream);
            self.owed.asked(block.stream, block.end_stream);
            self.waiting.borrow_mut().push_back(Waiting {
                stream: block.stream,
                bytes: block.bytes,
                reset: false,
            });
            self.waiting_bytes.set(self.waiting_bytes.get() + block.bytes);
            return;
        }
        if !self.server {
            self.last_blocks.borrow_mut().push(block.stream);
        }
        // Trailers, or on the client side possibly a head without a body.
        if !block.end_stream {
            return;
        }
        if self.server {
            self.owed.whole(block.stream);
        }
        let fault = if block.bytes > self.largest_block {
            Fault::TooLarge
        } else if block.begins_with_pseudo_field() {
            Fault::PseudoField
        } else {
            return;
        };
        let mut faults = self.faults.borrow_mut();
        if faults.len() >= REMEMBERED {
            faults.pop_front();
        }
        faults.push_back((block.stream, fault));
    }

    /// Returns what h2 does not report about the trailers of a stream. Must also be called for a head that ended its stream, so
    /// that its entry is removed; the result is meaningless in this case.
    pub(super) fn fault_of_trailers(&self, stream: u32) -> Option<Fault> {
        let mut faults = self.faults.borrow_mut();
        let at = faults.iter().position(|(of, _)| *of == stream)?;
        faults.remove(at).map(|(_, fault)| fault)
    }

    /// Returns whether fields of that stream were in the last bytes received. If h2 has closed the connection because of them,
    /// it may have been for those fields.
    pub(super) fn came_last(&self, stream: u32) -> bool {
        self.last_blocks.borrow().contains(&stream)
    }

    /// Records that the client has half-closed while responses are owed to it.
    pub(super) fn half_closes(&self) {
        self.half_closed.set(true);
    }

    /// Returns whether that has happened since the last call.
    pub(super) fn has_half_closed(&self) -> bool {
        self.half_closed.replace(false)
    }

    /// Returns whether so many heads are pending that no more is read until they are accepted.
    pub(super) fn holds_back(&self) -> bool {
        let holds =
            self.waiting_bytes.get() >= HEAD_BYTES_AT_ONCE || self.waiting.borrow().len() >= HEADS_AT_ONCE;
        self.held_back.set(holds);
        holds
    }

    /// Records that h2 has passed on a stream. Returns whether the client had reset it before.
    pub(super) fn handed_up(&self, stream: u32) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(first) = waiting.front() {
            if first.stream > stream {
                break;
            }
            let (of, bytes, reset) = (first.stream, first.bytes, first.reset);
            waiting.pop_front();
            self.waiting_bytes.set(self.waiting_bytes.get() - bytes);
            if of == stream {
                return reset;
            }
            self.pass_over(of);
        }
        false
    }

    /// Records that h2 has nothing more to pass on. Returns whether reading, which was held back, can continue.
    pub(super) fn all_handed_up(&self) -> bool {
        if !self.decoded.get() {
            // h2 waits to write, and has not yet processed the most recent bytes.
            return false;
        }
        for waiting in self.waiting.take() {
            self.pass_over(waiting.stream);
        }
        self.waiting_bytes.set(0);
        self.held_back.replace(false)
    }

    /// Returns what h2 has refused by itself since the last call.
    pub(super) fn refusals(&self) -> Vec<Failure> {
        if self.refused.borrow().is_empty() { Vec::new() } else { self.refused.take() }
    }

    fn pass_over(&self, stream: u32) {
        let mut passed_over = self.passed_over.borrow_mut();
        if passed_over.len() >= REMEMBERED {
            passed_over.pop_front();
        }
        passed_over.push_back(stream);
    }

    /// Records a response on a stream. If the stream was not passed on, the response is from h2 itself.
    fn h2_answered(&self, stream: u32, reset: Option<Code>) {
        let waits = {
            let mut waiting = self.waiting.borrow_mut();
            let at = waiting.iter().position(|waiting| waiting.stream == stream);
            at.and_then(|at| waiting.remove(at))
        };
        if let Some(waiting) = waits {
            self.waiting_bytes.set(self.waiting_bytes.get() - waiting.bytes);
        } else {
            let mut passed_over = self.passed_over.borrow_mut();
            let Some(at) = passed_over.iter().position(|of| *of == stream) else { return };
            passed_over.remove(at);
        }
        let failure = match reset {
            None => Failure::downstream(Reason::HeadersTooLarge, "the head is far too large"),
            Some(Code::REFUSED_STREAM) => {
                Failure::downstream(Reason::DownstreamProtocolError, "more streams at a time than allowed")
            }
            Some(_) => Failure::downstream(Reason::DownstreamProtocolError, "the head is malformed"),
        };
        self.refused.borrow_mut().push(failure);
    }

    /// Ready when the peer's SETTINGS were received.
    pub(super) fn poll_settings(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.settings.get() {
            return Poll::Ready(());
        }
        let mut wanted = self.settings_wanted.borrow_mut();
        if !wanted.iter().any(|waker| waker.will_wake(cx.waker())) {
            wanted.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Records that the connection has ended, and wakes the tasks that wait for SETTINGS.
    pub(super) fn ended(&self) {
        self.settings_wanted.take().into_iter().for_each(Waker::wake);
    }
}
