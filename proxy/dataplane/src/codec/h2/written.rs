//! When the frames queued on a connection have been written. h2 drops those of a stream that is reset before that.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// What a connection has written.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The last operation on the socket was a flush that completed, and with it all that could be sent.
    flushed: Cell<bool>,
    /// How many times all of it was written.
    times: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Written {
    /// Bytes are being written, or a flush has completed or not.
    pub(super) fn is_flushed(&self, flushed: bool) {
        self.flushed.set(flushed);
    }

    /// The connection was polled and can do nothing more for now.
    pub(super) fn polled(&self) {
        if self.flushed.get() {
            self.times.set(self.times.get() + 1);
            if !self.waiting.borrow().is_empty() {
                self.waiting.take().into_iter().for_each(Waker::wake);
            }
        }
    }

    /// What [`Self::poll_after`] takes to wait for what is queued now.
    pub(super) fn now(&self) -> u64 {
        self.times.get()
    }

    /// Ready when all that was queued at `since` and could be sent was written.
    pub(super) fn poll_after(&self, since: u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.times.get() > since {
            return Poll::Ready(());
        }
        self.waiting.borrow_mut().push(cx.waker().clone());
        Poll::Pending
    }
}
