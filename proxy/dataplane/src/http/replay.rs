//! The body of a request that may have to be sent more than once.
//!
//! What a try has read of it is kept, up to [`KEPT_BYTES`]; the next try reads that first and then goes on where the last
//! one stopped. Beyond the bound nothing is kept and no second try is possible. A body of known bytes costs nothing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;

use crate::codec::body::{Body, Frame, Source};

/// How much of a body is kept for another try.
const KEPT_BYTES: usize = 64 * 1024;

/// A request's body, from which each try takes its own.
#[derive(Debug)]
pub(super) struct Replay(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    Streamed(Rc<Kept>),
}

#[derive(Debug)]
struct Kept {
    rest: RefCell<Body>,
    frames: RefCell<Vec<Result<Frame, Failure>>>,
    /// Bytes in `frames`; above the bound `frames` is empty.
    bytes: Cell<usize>,
    /// Which try may read: the newest.
    turn: Cell<u64>,
    /// How many of `frames` that try has read.
    position: Cell<usize>,
    ended: Cell<bool>,
    /// Whether tries after this one are out of the question, so that nothing needs to be kept.
    last: Cell<bool>,
}

impl Replay {
    /// Takes the body of a request.
    pub(super) fn new(body: Body) -> Self {
        if body.is_ended() {
            return Self(Kind::Empty);
        }
        Self(Kind::Streamed(Rc::new(Kept {
            rest: RefCell::new(body),
            frames: RefCell::default(),
            bytes: Cell::new(0),
            turn: Cell::new(0),
            position: Cell::new(0),
            ended: Cell::new(false),
            last: Cell::new(false),
        })))
    }

    /// Whether there is no body at all.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.0, Kind::Empty)
    }

    /// Whether another try would have all of the body.
    pub(super) fn is_whole(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Streamed(kept) => kept.bytes.get() <= KEPT_BYTES && !kept.is_broken(),
        }
    }

    /// Whether the client has sent all of it.
    pub(super) fn is_sent(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Streamed(kept) => kept.ended.get(),
        }
    }

    /// The body for one more try. That of the try before reads nothing any more.
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

    /// No further try will be made: nothing more is kept.
    pub(super) fn let_go(&self) {
        if let Kind::Streamed(kept) = &self.0 {
            kept.last.set(true);
            // A stream may go on for days; what was sent of it is nobody's any more.
            let mut frames = kept.frames.borrow_mut();
            let read = kept.position.replace(0).min(frames.len());
            frames.drain(..read);
        }
    }
}

impl Kept {
    fn is_broken(&self) -> bool {
        matches!(self.frames.borrow().last(), Some(Err(_)))
    }

    fn keep(&self, frame: &Result<Frame, Failure>) {
        if self.last.get() || self.bytes.get() > KEPT_BYTES {
            return;
        }
        let size = match frame {
            Ok(Frame::Data(bytes)) => bytes.len(),
            // Fields cost about as much as their text; a trailer section is bounded by the codec.
            Ok(Frame::Trailers(fields)) => fields.len() * 64,
            Err(_) => 0,
        };
        self.bytes.set(self.bytes.get() + size);
        if self.bytes.get() > KEPT_BYTES {
            self.frames.take();
            return;
        }
        self.frames.borrow_mut().push(frame.clone());
        self.position.set(self.position.get() + 1);
    }
}

impl Source for Kept {
    fn poll_frame(&self, turn: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        if turn != self.turn.get() {
            let stale = Failure::local(Reason::LocalError, "a later try reads the body");
            return Poll::Ready(Some(Err(stale)));
        }
        let kept = self.frames.borrow().get(self.position.get()).cloned();
        if let Some(frame) = kept {
            self.position.set(self.position.get() + 1);
            return Poll::Ready(Some(frame));
        }
        if self.ended.get() {
            return Poll::Ready(None);
        }
        let frame = ready!(self.rest.borrow_mut().poll_frame(cx));
        match &frame {
            Some(frame) => self.keep(frame),
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
    use std::collections::VecDeque;

    use bytes::Bytes;

    use super::*;

    struct Frames(RefCell<VecDeque<Frame>>);

    impl Source for Frames {
        fn poll_frame(&self, _: u64, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
            Poll::Ready(self.0.borrow_mut().pop_front().map(Ok))
        }
    }

    fn replay(sizes: &[usize]) -> Replay {
        let frames = sizes.iter().map(|size| Frame::Data(Bytes::from(vec![b'x'; *size]))).collect();
        Replay::new(Body::streamed(Rc::new(Frames(RefCell::new(frames))), 0, None))
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
        let replay = replay(&[KEPT_BYTES, 1, 5]);
        let mut first = replay.next();
        assert_eq!(read(&mut first, 1).await, KEPT_BYTES);
        assert!(replay.is_whole());
        assert_eq!(read(&mut first, 1).await, 1);
        replay.let_go();
        assert_eq!(read(&mut first, 10).await, 5);
        assert!(!replay.is_whole());
    }

    #[tokio::test]
    async fn the_last_try_keeps_nothing_and_reads_on() {
        let replay = replay(&[10, 20, 30, 40]);
        assert_eq!(read(&mut replay.next(), 3).await, 60);
        let mut second = replay.next();
        assert_eq!(read(&mut second, 1).await, 10);
        replay.let_go();
        let Kind::Streamed(kept) = &replay.0 else { unreachable!() };
        assert_eq!(kept.frames.borrow().len(), 2, "what the second try has yet to read");
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
        let replay = Replay::new(Body::empty());
        assert!(replay.next().is_ended() && replay.next().is_ended() && replay.is_whole());
    }
}
