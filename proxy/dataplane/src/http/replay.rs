//! The body of a request that may have to be sent more than once.
//!
//! The frames that an attempt has read are buffered, within the route's limit and [`OF_WORKER`]. The next attempt reads these
//! first and then continues where the previous one stopped. Beyond a limit nothing is buffered, and no further attempt is
//! possible. Buffered bytes are shared with those sent, not copied; without a body nothing is buffered.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;

use crate::codec::body::{Body, Frame, Source};
use crate::metrics::WorkerMetrics;

/// How much one worker buffers of all request bodies together, in bytes.
pub(super) const OF_WORKER: usize = 32 * 1024 * 1024;

/// The cost of a buffered frame in addition to its bytes.
const FRAME: usize = 64;

/// The limits on what is buffered of a body.
#[derive(Debug)]
pub(super) struct BufferLimits {
    /// The maximum, in bytes.
    pub(super) limit: usize,
    /// The bytes that the worker buffers of all bodies.
    pub(super) of_worker: Rc<Cell<usize>>,
    /// Counts the bodies that exceeded a limit.
    pub(super) metrics: Arc<WorkerMetrics>,
}

/// A request's body, which each attempt can read from the beginning.
#[derive(Debug)]
pub(super) struct ReplayBody(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    Streamed(Rc<ReplayBuffer>),
}

#[derive(Debug)]
struct ReplayBuffer {
    rest: RefCell<Body>,
    frames: RefCell<Frames>,
    /// The cost of `frames` in bytes, which is included in the worker's count.
    bytes: Cell<usize>,
    /// Whether a limit was exceeded: `frames` is empty, and a further attempt could not send the whole body.
    lost: Cell<bool>,
    keeping: BufferLimits,
    /// The attempt that may read: the newest one.
    turn: Cell<u64>,
    /// The number of `frames` that this attempt has read.
    position: Cell<usize>,
    ended: Cell<bool>,
    /// Whether the endpoint waits for bytes that the client has not sent yet.
    starved: Cell<bool>,
    /// Whether no further attempt is possible, so that nothing needs to be buffered.
    last: Cell<bool>,
}

/// A body all of which was received.
#[derive(Debug)]
struct Copied(RefCell<Frames>);

impl Source for Copied {
    fn poll_frame(&self, _turn: u64, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        Poll::Ready(self.0.borrow_mut().pop())
    }
}

/// What was read of a body, in order. Most bodies are one frame, which is not allocated for itself.
#[derive(Debug, Default, Clone)]
struct Frames {
    first: Option<Result<Frame, Failure>>,
    rest: VecDeque<Result<Frame, Failure>>,
}

impl Frames {
    fn push(&mut self, frame: Result<Frame, Failure>) {
        if self.first.is_none() && self.rest.is_empty() {
            self.first = Some(frame);
        } else {
            self.rest.push_back(frame);
        }
    }

    fn pop(&mut self) -> Option<Result<Frame, Failure>> {
        self.first.take().or_else(|| self.rest.pop_front())
    }

    fn get(&self, index: usize) -> Option<&Result<Frame, Failure>> {
        self.first.iter().chain(&self.rest).nth(index)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.first.iter().len() + self.rest.len()
    }

    fn last(&self) -> Option<&Result<Frame, Failure>> {
        self.rest.back().or(self.first.as_ref())
    }
}

impl ReplayBody {
    /// Creates the replayable body of a request.
    pub(super) fn new(body: Body, keeping: impl FnOnce() -> BufferLimits) -> Self {
        if body.is_ended() {
            return Self(Kind::Empty);
        }
        Self(Kind::Streamed(Rc::new(ReplayBuffer {
            rest: RefCell::new(body),
            frames: RefCell::default(),
            bytes: Cell::new(0),
            lost: Cell::new(false),
            keeping: keeping(),
            turn: Cell::new(0),
            position: Cell::new(0),
            starved: Cell::new(false),
            ended: Cell::new(false),
            last: Cell::new(false),
        })))
    }

    /// Returns whether there is no body.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.0, Kind::Empty)
    }

    /// Returns whether another attempt could send the whole body.
    pub(super) fn is_whole(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Streamed(kept) => !kept.lost.get() && !kept.is_broken(),
        }
    }

    /// Returns whether the client owes none of it: it has sent all, or more than the endpoint reads.
    pub(super) fn is_sent(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Streamed(kept) => kept.ended.get() || !kept.starved.get(),
        }
    }

    /// Returns whether all of it has been received from the client.
    pub(super) fn is_received(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Streamed(kept) => kept.ended.get(),
        }
    }

    /// Returns the body for another attempt. The body of the previous attempt fails from then on.
    pub(super) fn next(&self) -> Body {
        match &self.0 {
            Kind::Empty => Body::empty(),
            Kind::Streamed(kept) => {
                kept.turn.set(kept.turn.get() + 1);
                kept.position.set(0);
                let length = kept.rest.borrow().length();
                Body::streamed(Rc::clone(kept) as Rc<dyn Source>, kept.turn.get(), length)
            }
        }
    }

    /// Returns the body for an attempt beside the current one, which continues to read its own. Returns `None` unless all of it has
    /// been received and is buffered.
    pub(super) fn copy(&self) -> Option<Body> {
        let Kind::Streamed(kept) = &self.0 else { return Some(Body::empty()) };
        if !self.is_received() || !self.is_whole() {
            return None;
        }
        let (length, frames) = (kept.rest.borrow().length(), kept.frames.borrow().clone());
        Some(Body::streamed(Rc::new(Copied(RefCell::new(frames))), 0, length))
    }

    /// Stops buffering, because no further attempt will be made.
    pub(super) fn stop_buffering(&self) {
        if let Kind::Streamed(kept) = &self.0 {
            kept.last.set(true);
            // A stream may last for days; what was already sent is not needed again.
            for _ in 0..kept.position.replace(0) {
                kept.forget_first();
            }
        }
    }
}

impl ReplayBuffer {
    fn is_broken(&self) -> bool {
        matches!(self.frames.borrow().last(), Some(Err(_)))
    }

    fn keep(&self, frame: &Result<Frame, Failure>) {
        if self.last.get() || self.lost.get() {
            return;
        }
        let BufferLimits { limit, of_worker, metrics } = &self.keeping;
        let (bytes, all) = (self.bytes.get() + cost(frame), of_worker.get() + cost(frame));
        if bytes > *limit {
            metrics.process.bodies_beyond_limit.increment();
            return self.lose();
        }
        if all > OF_WORKER {
            metrics.process.bodies_beyond_worker.increment();
            return self.lose();
        }
        self.bytes.set(bytes);
        of_worker.set(all);
        self.frames.borrow_mut().push(frame.clone());
        self.position.set(self.position.get() + 1);
    }

    fn lose(&self) {
        self.lost.set(true);
        self.position.set(0);
        self.frames.take();
        self.release(self.bytes.get());
    }

    fn forget_first(&self) -> Option<Result<Frame, Failure>> {
        let frame = self.frames.borrow_mut().pop()?;
        self.release(cost(&frame));
        Some(frame)
    }

    fn release(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
        self.keeping.of_worker.set(self.keeping.of_worker.get().saturating_sub(bytes));
    }
}

impl Drop for ReplayBuffer {
    fn drop(&mut self) {
        self.release(self.bytes.get());
    }
}

fn cost(frame: &Result<Frame, Failure>) -> usize {
    FRAME
        + match frame {
            Ok(Frame::Data(bytes)) => bytes.len(),
            // The cost of fields is about that of their text; the codec limits a trailer section.
            Ok(Frame::Trailers(fields)) => fields.len() * 64,
            Err(_) => 0,
        }
}

impl Source for ReplayBuffer {
    fn poll_frame(&self, turn: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        if turn != self.turn.get() {
            let stale = Failure::local(Reason::LocalError, "a later attempt reads the body");
            return Poll::Ready(Some(Err(stale)));
        }
        if self.last.get()
            && let Some(frame) = self.forget_first()
        {
            return Poll::Ready(Some(frame));
        }
        let kept = self.frames.borrow().get(self.position.get()).cloned();
        if let Some(frame) = kept {
            self.position.set(self.position.get() + 1);
            return Poll::Ready(Some(frame));
        }
        if self.ended.get() {
            return Poll::Ready(None);
        }
        let frame = self.rest.borrow_mut().poll_frame(cx);
        self.starved.set(frame.is_pending());
        let frame = ready!(frame);
        match &frame {
            Some(frame) => {
                // Nothing follows trailers, and no reader polls for more.
                self.ended.set(matches!(frame, Ok(Frame::Trailers(_))));
                self.keep(frame);
            }
            None => self.ended.set(true),
        }
        Poll::Ready(frame)
    }

    fn poll_progress(&self, _turn: u64, cx: &mut Context<'_>) {
        if let Ok(mut rest) = self.rest.try_borrow_mut() {
            rest.poll_progress(cx);
        }
    }
}

#[cfg(test)]
mod tests;
