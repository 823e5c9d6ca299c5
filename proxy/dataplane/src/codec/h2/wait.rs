//! A task that waits for something on a stream or on the connection.

use std::task::{Context, Waker};

/// The task that waits. Its waker is kept after it was woken: the same task usually waits again.
#[derive(Debug, Default)]
pub(super) struct Wait {
    waker: Option<Waker>,
    waits: bool,
}

impl Wait {
    /// Makes the task of `cx` the one that is woken.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        self.waits = true;
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.waker = Some(cx.waker().clone()),
        }
    }

    /// Wakes the task if it waits.
    pub(super) fn wake(&mut self) {
        if std::mem::take(&mut self.waits)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }

    /// Records that the task is running, and need not be woken.
    pub(super) fn runs(&mut self) {
        self.waits = false;
    }
}
