//! What the driver asks of a connection besides receiving: what to write, whether to read, and the times it has to watch.

use std::io::IoSlice;
use std::task::Context;

use tokio::time::Instant;

use super::stream::Receiving;
use super::{Connection, End, Role};

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
        let (held_back, full) = (self.is_held_back(), self.output.is_full());
        self.output.advance(bytes);
        if held_back && !self.is_held_back() {
            // The peer could not send the rest of a frame meanwhile.
            self.owed_since = self.owed_since.map(|_| self.now);
        }
        if full {
            self.wake_opening();
        }
    }

    /// Returns whether more is to be read: the peer neither causes more responses and answers than it takes nor has sent more
    /// requests than were accepted.
    pub(in super::super) fn may_read(&self) -> bool {
        self.end.is_none() && !self.is_held_back() && !self.accepting.is_full()
    }

    /// Returns whether reading waits for what is to be written.
    fn is_held_back(&self) -> bool {
        match self.role {
            Role::Server => self.output.is_full(),
            Role::Client => self.output.is_full_of_answers(),
        }
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
    /// field block. `None` while nothing is read because of what is to be written, and behind the end.
    pub(in super::super) fn owed_since(&self) -> Option<Instant> {
        self.owed_since.filter(|_| self.end.is_none() && !self.is_held_back() && !self.is_drained())
    }

    /// Returns whether the peer of a connection that this side has ended may still be reading what was written last.
    pub(in super::super) fn lingers(&self) -> bool {
        self.role == Role::Server && matches!(self.end, None | Some(End::Violation { .. } | End::Local(_)))
    }

    /// Returns the number of streams that have not ended in both directions.
    pub(in super::super) fn active_streams(&self) -> usize {
        self.streams.active as usize
    }

    /// Returns whether responses are outstanding, or a server has not written all of the last one, and all requests are complete.
    /// `flushed` is whether the transport holds back nothing.
    pub(in super::super) fn owes_only_responses(&mut self, flushed: bool) -> bool {
        let mut owes = self.role == Role::Server && !(flushed && self.is_flushed());
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
