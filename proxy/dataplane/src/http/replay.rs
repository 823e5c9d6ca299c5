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

/// What was read of a body, in order. Most bodies are one frame, which is not allocated for itself.
#[derive(Debug, Default)]
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
mod tests {
    use bytes::Bytes;

    use super::*;

    const LIMIT: usize = 1000;

    struct Frames(RefCell<VecDeque<Frame>>);

    impl Source for Frames {
        fn poll_frame(&self, _: u64, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
            Poll::Ready(self.0.borrow_mut().pop_front().map(Ok))
        }
    }

    fn replay(sizes: &[usize]) -> ReplayBody {
        replay_within(&Rc::default(), sizes)
    }

    fn replay_within(of_worker: &Rc<Cell<usize>>, sizes: &[usize]) -> ReplayBody {
        let keeping = BufferLimits { limit: LIMIT, of_worker: Rc::clone(of_worker), metrics: Arc::default() };
        let frames = sizes.iter().map(|size| Frame::Data(Bytes::from(vec![b'x'; *size]))).collect();
        ReplayBody::new(Body::streamed(Rc::new(Frames(RefCell::new(frames))), 0, None), || keeping)
    }

    async fn read(body: &mut Body, frames: usize) -> usize {
        let mut bytes = 0;
        for _ in 0..frames {
            match body.frame().await {
                Some(Ok(Frame::Data(data))) => bytes += data.len(),
                _ => break,
            }
        }
        bytes
    }

    #[tokio::test]
    async fn a_second_try_reads_everything_again() {
        let replay = replay(&[10, 20, 30]);
        assert_eq!(read(&mut replay.next(), 2).await, 30);
        assert!(replay.is_whole());
        let mut second = replay.next();
        assert_eq!(read(&mut second, 10).await, 60);
        assert!(second.frame().await.is_none());
        assert_eq!(read(&mut replay.next(), 10).await, 60);
    }

    #[tokio::test]
    async fn a_long_body_is_not_kept() {
        let of_worker = Rc::default();
        let replay = replay_within(&of_worker, &[LIMIT - FRAME, 1, 5]);
        let mut first = replay.next();
        assert_eq!(read(&mut first, 1).await, LIMIT - FRAME);
        assert!(replay.is_whole() && of_worker.get() == LIMIT);
        assert_eq!(read(&mut first, 1).await, 1);
        assert!(!replay.is_whole() && of_worker.get() == 0, "at once, and what was kept of it is given back");
        assert_eq!(read(&mut first, 10).await, 5);
        let Kind::Streamed(kept) = &replay.0 else { unreachable!() };
        assert_eq!(kept.keeping.metrics.process.bodies_beyond_limit.value(), 1);
    }

    #[tokio::test]
    async fn a_worker_keeps_so_much_of_all_its_bodies_and_no_more() {
        let of_worker = Rc::new(Cell::new(OF_WORKER - 2 * (FRAME + 100)));
        let [one, two] = [(); 2].map(|()| replay_within(&of_worker, &[100, 100]));
        assert_eq!(read(&mut one.next(), 1).await + read(&mut two.next(), 1).await, 200);
        assert!(one.is_whole() && two.is_whole() && of_worker.get() == OF_WORKER);
        assert_eq!(read(&mut one.next(), 2).await, 200);
        assert!(!one.is_whole() && two.is_whole());
        let Kind::Streamed(kept) = &one.0 else { unreachable!() };
        assert_eq!(kept.keeping.metrics.process.bodies_beyond_worker.value(), 1);
        assert_eq!(read(&mut two.next(), 2).await, 200);
        assert!(two.is_whole(), "there is capacity again");
        drop((one, two));
        assert_eq!(of_worker.get(), OF_WORKER - 2 * (FRAME + 100));
    }

    #[tokio::test]
    async fn what_is_kept_is_given_back_as_the_last_attempt_reads_it() {
        let of_worker = Rc::default();
        let replay = replay_within(&of_worker, &[10, 20, 30]);
        assert_eq!(read(&mut replay.next(), 3).await, 60);
        let mut second = replay.next();
        assert_eq!(read(&mut second, 1).await, 10);
        replay.stop_buffering();
        assert_eq!(of_worker.get(), 2 * FRAME + 50);
        assert_eq!(read(&mut second, 2).await, 50);
        assert_eq!(of_worker.get(), 0);
    }

    #[tokio::test]
    async fn the_last_try_keeps_nothing_and_reads_on() {
        let replay = replay(&[10, 20, 30, 40]);
        assert_eq!(read(&mut replay.next(), 3).await, 60);
        let mut second = replay.next();
        assert_eq!(read(&mut second, 1).await, 10);
        replay.stop_buffering();
        let Kind::Streamed(kept) = &replay.0 else { unreachable!() };
        assert_eq!(kept.frames.borrow().len(), 2, "what the second attempt has yet to read");
        assert_eq!(read(&mut second, 10).await, 90);
    }

    #[tokio::test]
    async fn the_try_before_reads_nothing_any_more() {
        let replay = replay(&[10]);
        let mut first = replay.next();
        let _second = replay.next();
        assert!(matches!(first.frame().await, Some(Err(_))));
    }

    #[tokio::test]
    async fn no_body_is_whole_forever() {
        let keeping = BufferLimits { limit: 0, of_worker: Rc::default(), metrics: Arc::default() };
        let replay = ReplayBody::new(Body::empty(), || keeping);
        assert!(replay.next().is_ended() && replay.next().is_ended() && replay.is_whole());
    }
}
