//! What the driver asks of a connection besides receiving: what to write, whether to read, and the times it has to watch.

use std::io::IoSlice;
use std::task::Context;

use tokio::time::Instant;

use super::stream::Receiving;
use super::{Connection, End};

impl Connection {
    /// Registers the task that is woken when another task has caused something to send. To be called at the end of each poll of
    /// the driver, when nothing is left to write.
    pub(in super::super) fn wait(&mut self, cx: &Context<'_>) {
        self.driver.wait(cx);
    }

    /// Records that the driver runs, and need not be woken.
    pub(in super::super) fn runs(&mut self) {
        self.driver.runs();
    }

    /// Fills `slices` with what is to be written next. Returns how many are used; 0 if nothing is to be written.
    pub(in super::super) fn transmit<'a>(&'a mut self, slices: &mut [IoSlice<'a>], now: Instant) -> usize {
        self.now = now;
        self.fill();
        self.output.slices(slices)
    }

    /// Records that so many bytes of it were written.
    pub(in super::super) fn transmitted(&mut self, bytes: usize) {
        self.output.advance(bytes);
    }

    /// Returns whether more is to be read: the peer neither causes more answers than it takes nor has sent more requests than
    /// were accepted.
    pub(in super::super) fn may_read(&self) -> bool {
        self.end.is_none() && !self.output.is_flooded() && !self.accepting.is_full()
    }

    /// Returns why the connection has ended, if it has. What is left to write (GOAWAY) is still to be transmitted.
    pub(in super::super) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Returns when bytes were last received.
    pub(in super::super) fn last_heard(&self) -> Instant {
        self.heard
    }

    /// Returns since when the rest of what is read as a whole is outstanding: the preface and SETTINGS, a frame other than DATA, a
    /// field block.
    pub(in super::super) fn owed_since(&self) -> Option<Instant> {
        self.owed_since
    }

    /// Returns the number of streams that have not ended in both directions.
    pub(in super::super) fn active_streams(&self) -> usize {
        self.streams.active as usize
    }

    /// Returns whether responses are outstanding and all requests are complete.
    pub(in super::super) fn owes_only_responses(&mut self) -> bool {
        let mut owes = false;
        for (_, stream) in self.streams.all().filter(|(_, stream)| stream.active) {
            if stream.receiving != Receiving::Ended {
                return false;
            }
            owes = true;
        }
        owes
    }

    /// Returns whether nothing is left to write.
    pub(in super::super) fn is_flushed(&self) -> bool {
        self.output.len() == 0
    }

    /// Releases memory that an idle connection does not need.
    pub(in super::super) fn shrink(&mut self) {
        self.streams.shrink();
        self.output.shrink();
    }
}
