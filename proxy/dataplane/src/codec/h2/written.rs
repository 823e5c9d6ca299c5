//! Tracks when the frames queued on a connection have been written: h2 drops the unwritten frames of a stream that is reset.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// The progress of the writes of a connection.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Whether the last operation on the socket was a complete flush, after which nothing that could be sent is queued.
    flushed: Cell<bool>,
    /// How many times everything queued was written.
    times: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Written {
    /// Records a write, or whether a flush has completed.
    pub(super) fn is_flushed(&self, flushed: bool) {
        self.flushed.set(flushed);
    }

    /// Records that the connection was polled and cannot make progress now.
    pub(super) fn polled(&self) {
        if self.flushed.get() {
            self.times.set(self.times.get() + 1);
            if !self.waiting.borrow().is_empty() {
                self.waiting.take().into_iter().for_each(Waker::wake);
            }
        }
    }

    /// Returns the position to pass to [`Self::poll_after`] to wait for what is queued now.
    pub(super) fn now(&self) -> u64 {
        self.times.get()
    }

    /// Ready when everything that was queued at `since` and could be sent was written.
    pub(super) fn poll_after(&self, since: u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.times.get() > since {
            return Poll::Ready(());
        }
        self.waiting.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    }
}
