//! Reads the first bytes of a request's body for a filter. They stay part of the request.
//!
//! Fails if the client is too slow or breaks off, or if the worker keeps too many bytes for its requests already.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use outrigger_core::error::{Failure, Reached, Side};
use outrigger_core::reason::Reason;
use outrigger_policy::verdict::Beginning;
use tokio::time::{Instant, timeout_at};

use super::replay::OF_WORKER;
use super::request_context::RequestContext;
use crate::codec::allowance::Allowance;
use crate::codec::body::{Body, Frame, Source};

/// Reads `most` bytes of the body, or all of it if it is not longer.
pub(super) async fn read(
    most: usize,
    deadline: Option<Instant>,
    cx: &mut RequestContext<'_>,
) -> Result<Beginning, Failure> {
    let rest = std::mem::replace(&mut cx.body, Body::empty());
    let length = rest.length();
    let kept = Kept::new(Rc::clone(&cx.on.context.kept_bytes));
    let read = Rc::new(Read { frames: RefCell::default(), rest: RefCell::new(rest), kept });
    let whole = fill(&read, most, deadline, Allowance::new(cx.on.limits.body_timeout)).await?;
    let beginning = beginning(&read.frames.borrow(), most);
    cx.body = Body::streamed(read, 0, length);
    Ok(Beginning { is_cut: beginning.is_cut || !whole, ..beginning })
}

/// Reads frames until there are more than `most` bytes. Returns true if there are no more.
async fn fill(
    read: &Read,
    most: usize,
    deadline: Option<Instant>,
    mut allowance: Allowance,
) -> Result<bool, Failure> {
    let mut bytes = 0;
    loop {
        let now = Instant::now();
        allowance.wait(now);
        let ends = deadline.into_iter().chain([allowance.ends(now)]).min().unwrap_or(now);
        let next = std::future::poll_fn(|cx| read.rest.borrow_mut().poll_frame(cx));
        let frame = match timeout_at(ends, next).await {
            Ok(None) => return Ok(true),
            Ok(Some(frame)) => frame?,
            Err(_) => {
                return Err(Failure::downstream(Reason::DownstreamTimeout, "the body came too slowly"));
            }
        };
        let (added, last) = match &frame {
            Frame::Data(data) => (data.len(), false),
            Frame::Trailers(_) => (0, true),
        };
        bytes += added;
        allowance.moved(added as u64, Instant::now());
        read.kept.add(added)?;
        read.frames.borrow_mut().push_back(frame);
        if last || bytes > most {
            return Ok(last);
        }
    }
}

fn beginning(frames: &VecDeque<Frame>, most: usize) -> Beginning {
    let data = || {
        frames.iter().filter_map(|frame| match frame {
            Frame::Data(data) => Some(data),
            Frame::Trailers(_) => None,
        })
    };
    let (mut all, total) = (data(), data().map(Bytes::len).sum::<usize>());
    let bytes = match (all.next(), all.next()) {
        (Some(only), None) => only.slice(..only.len().min(most)),
        _ => {
            let mut joined = BytesMut::with_capacity(total.min(most));
            for data in data() {
                let left = most - joined.len();
                joined.extend_from_slice(data.get(..left).unwrap_or(data));
            }
            joined.freeze()
        }
    };
    Beginning { bytes, is_cut: total > most }
}

/// A body of which some frames have been read.
struct Read {
    frames: RefCell<VecDeque<Frame>>,
    rest: RefCell<Body>,
    kept: Kept,
}

impl Source for Read {
    fn poll_frame(&self, _: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        if let Some(frame) = self.frames.borrow_mut().pop_front() {
            if let Frame::Data(data) = &frame {
                self.kept.give_back(data.len());
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        self.rest.borrow_mut().poll_frame(cx)
    }

    fn poll_progress(&self, _: u64, cx: &mut Context<'_>) {
        self.rest.borrow_mut().poll_progress(cx);
    }

    fn abandon(&self, _: u64) {
        self.rest.replace(Body::empty());
    }
}

/// Bytes that are counted among those that the worker keeps of all bodies.
struct Kept {
    bytes: Cell<usize>,
    of_worker: Rc<Cell<usize>>,
}

impl Kept {
    fn new(of_worker: Rc<Cell<usize>>) -> Self {
        Self { bytes: Cell::new(0), of_worker }
    }

    fn add(&self, bytes: usize) -> Result<(), Failure> {
        self.bytes.set(self.bytes.get() + bytes);
        self.of_worker.set(self.of_worker.get() + bytes);
        if self.of_worker.get() <= OF_WORKER {
            return Ok(());
        }
        let what = "the worker keeps too many bytes of bodies";
        Err(Failure {
            side: Side::Local,
            ..Failure::upstream(Reason::UpstreamOverflow, Reached::NotWritten, what)
        })
    }

    fn give_back(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_sub(bytes));
        self.of_worker.set(self.of_worker.get().saturating_sub(bytes));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.give_back(self.bytes.get());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Yields these frames, and then never anything more if `is_open`.
    struct Frames {
        frames: RefCell<VecDeque<Frame>>,
        is_open: bool,
    }

    impl Source for Frames {
        fn poll_frame(&self, _: u64, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
            match self.frames.borrow_mut().pop_front() {
                None if self.is_open => Poll::Pending,
                frame => Poll::Ready(frame.map(Ok)),
            }
        }
    }

    fn unread(parts: &[&'static str], is_open: bool, of_worker: &Rc<Cell<usize>>) -> Rc<Read> {
        let frames = parts.iter().map(|part| Frame::Data(Bytes::from_static(part.as_bytes()))).collect();
        let rest = Body::streamed(Rc::new(Frames { frames: RefCell::new(frames), is_open }), 0, None);
        let kept = Kept::new(Rc::clone(of_worker));
        Rc::new(Read { frames: RefCell::default(), rest: RefCell::new(rest), kept })
    }

    async fn fills(read: &Read, most: usize) -> Result<bool, Reason> {
        let allowance = Allowance::new(Duration::from_secs(60));
        fill(read, most, None, allowance).await.map_err(|failure| failure.reason)
    }

    async fn rest(read: Rc<Read>) -> Vec<u8> {
        let (mut body, mut all) = (Body::streamed(read, 0, None), Vec::new());
        while let Some(Ok(Frame::Data(data))) = body.frame().await {
            all.extend_from_slice(&data);
        }
        all
    }

    #[tokio::test]
    async fn what_was_read_is_still_there() {
        let of_worker = Rc::default();
        for (most, whole, seen) in
            [(100, true, "milk and butter"), (15, true, "milk and butter"), (6, false, "milk a")]
        {
            let read = unread(&["milk", " and", " butter"], false, &of_worker);
            assert_eq!(fills(&read, most).await, Ok(whole));
            let beginning = beginning(&read.frames.borrow(), most);
            assert_eq!((&*beginning.bytes, beginning.is_cut), (seen.as_bytes(), !whole));
            assert_eq!(rest(read).await, b"milk and butter");
            assert_eq!(of_worker.get(), 0);
        }
    }

    #[tokio::test]
    async fn a_worker_keeps_so_much_of_all_bodies_and_no_more() {
        let of_worker = Rc::new(Cell::new(OF_WORKER - 5));
        let read = unread(&["milk", "milk"], false, &of_worker);
        assert_eq!(fills(&read, 100).await, Err(Reason::UpstreamOverflow));
        drop(read);
        assert_eq!(of_worker.get(), OF_WORKER - 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_more_is_not_waited_for_long() {
        let read = unread(&["milk"], true, &Rc::default());
        let began = Instant::now();
        assert_eq!(fills(&read, 100).await, Err(Reason::DownstreamTimeout));
        assert!((60..=61).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    }
}
