//! Keeps streams that nobody reads from blocking the others of their connection.
//!
//! HTTP/2 does not show which streams wait for the connection's window, so when it is exhausted the peer is granted a little
//! more. If the peer does not use it, no stream needs it. Only if that is exhausted too, streams that hold much are reset (RFC
//! 9113 section 5.2.2).

use std::cmp::Reverse;
use std::time::Duration;

use tokio::time::Instant;

use super::super::frame::{Code, write};
use super::Connection;
use super::error::Fault;
use super::stream::Receiving;

/// How long the window stays exhausted before anything is done, and a stream unread before it is reset.
const PATIENCE: Duration = Duration::from_secs(1);

impl Connection {
    /// Returns when [`Self::relieve`] is to be called.
    pub(in super::super) fn relief_due(&self) -> Option<Instant> {
        if self.end.is_some() {
            return None;
        }
        let since = self.receiving.exhausted_since();
        let from = if self.receiving.overdrawn_since.is_some() {
            self.receiving.relieved_at.max(since)
        } else {
            since
        };
        from.map(|from| from + PATIENCE)
    }

    /// Returns whether unread streams have exhausted the window and still hold it.
    pub(in super::super) fn is_overdrawn(&self) -> bool {
        self.receiving.overdrawn_since.is_some()
    }

    /// Returns since when the window is exhausted in either direction.
    pub(in super::super) fn exhausted_since(&self) -> Option<Instant> {
        match (self.receiving.exhausted_since(), self.sending.exhausted_since()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Frees the connection's window, if it has been exhausted for a while.
    pub(in super::super) fn relieve(&mut self, now: Instant) {
        if self.relief_due().is_none_or(|due| now < due) {
            return;
        }
        self.now = now;
        self.receiving.relieved_at = Some(now);
        let extra = self.config.stream_window;
        match (self.receiving.exhausted_since().is_some(), self.receiving.overdrawn_since.is_some()) {
            (true, false) => {
                self.receiving.overdrawn_since = Some(now);
                let increment = self.receiving.grow(extra);
                if increment > 0 {
                    write::window_update(self.output.frames(), 0, increment);
                }
            }
            (true, true) => self.give_up(),
            (false, true) if self.receiving.left() > i64::from(extra) => {
                self.receiving.overdrawn_since = None;
                self.receiving.shrink(extra);
            }
            (false, _) => {}
        }
    }

    /// Resets enough streams to release a quarter of the unread bytes, if other open streams hold none.
    fn give_up(&mut self) {
        let now = self.now;
        let (mut needed, mut still) = (false, Vec::new());
        for (index, stream) in self.streams.all() {
            let has_begun = stream.receiving == Receiving::Body;
            needed |= has_begun && stream.fault.is_none() && stream.unread == 0;
            if stream.unread > 0 && now.saturating_duration_since(stream.read_at) >= PATIENCE {
                still.push((stream.unread, index));
            }
        }
        if !needed {
            return;
        }
        still.sort_by_key(|(unread, _)| Reverse(*unread));
        let all: u64 = still.iter().map(|(unread, _)| u64::from(*unread)).sum();
        let mut freed = 0;
        for (unread, index) in still {
            self.give_up_on(index);
            freed += u64::from(unread);
            if freed >= all / 4 {
                break;
            }
        }
    }

    fn give_up_on(&mut self, index: u32) {
        self.reset_at(index, Code::CANCEL, Fault::GaveUp);
        // A stream that was complete was not reset, but its bytes go too.
        let Some(stream) = self.streams.at(index) else { return };
        let unread = stream.discard();
        if unread > 0 {
            stream.fault = Some(Fault::GaveUp);
            stream.receiving = Receiving::Body;
            stream.trailers = None;
            stream.wake();
            self.consumed(unread);
        }
    }
}
