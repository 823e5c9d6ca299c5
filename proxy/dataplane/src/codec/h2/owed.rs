//! Tracks which responses are still owed to a client, from the frames that pass: a client that half-closes after complete
//! requests waits for them, while h2 treats the end of its input as the end of the connection.

use std::cell::RefCell;
use std::task::{Context, Waker};

/// The number of requests that are tracked: more than a client may have in flight.
const MOST: usize = 4096;

/// The requests of a connection whose responses are not complete.
#[derive(Debug, Default)]
pub(super) struct Owed {
    requests: RefCell<Vec<Request>>,
    /// Woken when the last response was sent.
    waiting: RefCell<Option<Waker>>,
}

#[derive(Debug)]
struct Request {
    stream: u32,
    /// Whether it was received completely.
    whole: bool,
}

impl Owed {
    /// Records the head of a request, which may be the whole request.
    pub(super) fn asked(&self, stream: u32, whole: bool) {
        let mut requests = self.requests.borrow_mut();
        // There are never more in flight. Requests after a GOAWAY are ignored, so they are never settled.
        if requests.len() < MOST {
            requests.push(Request { stream, whole });
        }
    }

    /// Records that a request is complete.
    pub(super) fn whole(&self, stream: u32) {
        let mut requests = self.requests.borrow_mut();
        if let Some(request) = requests.iter_mut().find(|request| request.stream == stream) {
            request.whole = true;
        }
    }

    /// Records that a response is complete, or that either side reset the stream.
    pub(super) fn settled(&self, stream: u32) {
        let mut requests = self.requests.borrow_mut();
        if let Some(at) = requests.iter().position(|request| request.stream == stream) {
            requests.swap_remove(at);
            if requests.is_empty()
                && let Some(waker) = self.waiting.take()
            {
                waker.wake();
            }
        }
    }

    /// Returns whether a client that sends nothing more is owed responses, and all of its requests are complete. If so, the
    /// task of `cx` is woken when the last response was sent.
    pub(super) fn is_waited_for(&self, cx: &Context<'_>) -> bool {
        let requests = self.requests.borrow();
        let waited_for = !requests.is_empty() && requests.iter().all(|request| request.whole);
        if waited_for {
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
        }
        waited_for
    }
}
