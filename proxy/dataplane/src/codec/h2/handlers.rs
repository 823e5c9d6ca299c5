//! The handlers of the requests of a connection: futures that are polled within the task of the connection when they are woken.
//!
//! Called by the server. Unlike a `FuturesUnordered`, it uses the memory of a handler that has ended for the next one. A waker may
//! outlive its handler, and then wakes the next one there in vain.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::cause::Because;
use super::responder::ServerStream;
use super::wait::Wait;

/// Places whose memory is kept for the next handlers.
const KEPT: usize = 16;

/// The handlers of one connection.
pub(super) struct Handlers<F> {
    places: Vec<Place<F>>,
    /// The places without a handler.
    free: Vec<u32>,
    /// The places to be polled next.
    next: Vec<u32>,
    woken: Arc<Mutex<Woken>>,
}

/// Where one handler after the other is.
struct Place<F> {
    /// `None` if its memory was released. Boxed, since a future stays where it is.
    handler: Option<Pin<Box<Option<F>>>>,
    stream: Option<Rc<ServerStream>>,
    alarm: Arc<Alarm>,
    waker: Waker,
}

/// The places that were woken, and the task that polls them.
#[derive(Default)]
struct Woken {
    places: Vec<u32>,
    task: Wait,
}

/// What wakes one place.
struct Alarm {
    place: u32,
    /// Whether it is among those to be polled.
    rings: AtomicBool,
    woken: Arc<Mutex<Woken>>,
}

impl<F: Future<Output = ()>> Handlers<F> {
    pub(super) fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new(), next: Vec::new(), woken: Arc::default() }
    }

    /// Returns whether all handlers have ended.
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    /// Adds the handler of `stream`'s request, which the next [`Self::poll`] polls.
    pub(super) fn push(&mut self, handler: F, stream: Rc<ServerStream>) {
        let index = self.free.pop().unwrap_or_else(|| {
            // Far fewer than 2^32.
            let place = self.places.len() as u32;
            let alarm = Alarm { place, rings: AtomicBool::new(false), woken: Arc::clone(&self.woken) };
            let alarm = Arc::new(alarm);
            let waker = Waker::from(Arc::clone(&alarm));
            self.places.push(Place { handler: None, stream: None, alarm, waker });
            place
        });
        let Some(place) = self.places.get_mut(index as usize) else { return };
        place.stream = Some(stream);
        match &mut place.handler {
            Some(memory) => memory.set(Some(handler)),
            None => place.handler = Some(Box::pin(Some(handler))),
        }
        if !place.alarm.rings.swap(true, AcqRel) {
            self.next.push(index);
        }
    }

    /// Records that the task runs, and need not be woken.
    pub(super) fn runs(&self) {
        locked(&self.woken).task.runs();
    }

    /// Makes the task of `cx` the one that is woken with a handler. To be called at the end of each of its polls.
    pub(super) fn wait(&self, cx: &Context<'_>) {
        let mut woken = locked(&self.woken);
        woken.task.wait(cx);
        if !(woken.places.is_empty() && self.next.is_empty()) {
            woken.task.wake();
        }
    }

    /// Polls the handlers that were added or woken, and drops one whose client resets its stream before the response has begun. Returns
    /// whether one has ended.
    pub(super) fn poll(&mut self) -> bool {
        self.next.append(&mut locked(&self.woken).places);
        let mut ended = false;
        // One that is woken meanwhile is polled the next time, so that none can keep the others waiting.
        for index in self.next.drain(..) {
            let Some(place) = self.places.get_mut(index as usize) else { continue };
            if place.poll().is_ready() {
                if self.free.len() >= KEPT {
                    place.handler = None;
                }
                self.free.push(index);
                ended = true;
            }
        }
        ended
    }

    /// Releases memory that an idle connection does not need.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() && !self.places.is_empty() {
            // The wakers of the old places ring nowhere.
            *self = Self::new();
        }
    }
}

impl<F: Future<Output = ()>> Place<F> {
    /// Ready when its handler has ended and was dropped.
    fn poll(&mut self) -> Poll<()> {
        // Before the poll, so that a wake-up within it is not lost.
        self.alarm.rings.swap(false, AcqRel);
        let (Some(memory), Some(stream)) = (&mut self.handler, &self.stream) else { return Poll::Pending };
        let Some(handler) = memory.as_mut().as_pin_mut() else { return Poll::Pending };
        let cx = &mut Context::from_waker(&self.waker);
        let because = match handler.poll(cx) {
            Poll::Ready(()) => None,
            Poll::Pending => Some(Because::of_reset(std::task::ready!(stream.poll_given_up(cx)))),
        };
        memory.set(None);
        drop(because);
        stream.finish();
        self.stream = None;
        Poll::Ready(())
    }
}

fn locked(woken: &Mutex<Woken>) -> MutexGuard<'_, Woken> {
    // Nothing in it is left half changed.
    woken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rings.swap(true, AcqRel) {
            let mut woken = locked(&self.woken);
            woken.places.push(self.place);
            woken.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::poll_fn;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;

    use tokio::time::Instant;

    use super::super::connection::{Config, Connection};
    use super::super::frame::{Settings, write};
    use super::super::handle::Handle;
    use super::super::head_memory::HeadMemory;
    use super::super::hpack::{Encoder, Pseudo};
    use super::super::request;
    use super::*;
    use crate::codec::limits::{FieldSize, Limits};

    /// The stream of a request that a server has accepted.
    fn stream() -> Rc<ServerStream> {
        let (limits, now) = (Rc::<Limits>::default(), Instant::now());
        let mut connection = Connection::server(Config::new(&limits, 1 << 20), now);
        let mut bytes = super::super::frame::PREFACE.to_vec();
        write::settings(&mut bytes, &Settings::default());
        let pseudo = Pseudo::Request {
            method: &http::Method::GET,
            scheme: Some("http"),
            authority: Some("cart"),
            path: Some("/"),
            protocol: None,
        };
        let encode = |out: &mut Vec<u8>| Encoder::default().encode(pseudo, &http::HeaderMap::new(), out);
        write::headers(&mut bytes, 1, true, 16384, encode);
        connection.receive(&mut bytes::BytesMut::from(&bytes[..]), now);
        let Some(super::super::connection::Incoming::Request { key, .. }) = connection.accept() else {
            panic!()
        };
        let handle = Handle::new(&Rc::new(RefCell::new(connection)), key);
        let held = HeadMemory::default().hold(FieldSize::default(), 0).unwrap();
        ServerStream::new(request::incoming(handle, &limits), false, held)
    }

    #[derive(Default)]
    struct Task(AtomicU32);
    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[tokio::test]
    async fn a_handler_is_polled_when_it_is_woken_and_its_memory_serves_the_next_one() {
        let (mut handlers, task) = (Handlers::new(), Arc::<Task>::default());
        let waker = Waker::from(Arc::clone(&task));
        let cx = Context::from_waker(&waker);
        let (kept, polls) = (Rc::new(RefCell::new(None)), Rc::new(Cell::new(0)));
        let handler = |left: u32| {
            let (kept, polls, mut left) = (Rc::clone(&kept), Rc::clone(&polls), left);
            poll_fn(move |cx| {
                polls.set(polls.get() + 1);
                *kept.borrow_mut() = Some(cx.waker().clone());
                left -= 1;
                if left == 0 { Poll::Ready(()) } else { Poll::Pending }
            })
        };
        handlers.push(handler(2), stream());
        assert!(!handlers.poll() && !handlers.poll() && !handlers.is_empty());
        handlers.wait(&cx);
        assert_eq!((polls.get(), task.0.load(Relaxed)), (1, 0));
        let stale = kept.borrow().clone().unwrap();
        std::thread::spawn({
            let waker = stale.clone();
            move || waker.wake_by_ref()
        })
        .join()
        .unwrap();
        stale.wake_by_ref();
        assert_eq!(task.0.load(Relaxed), 1, "its task is woken once");
        handlers.runs();
        assert!(handlers.poll() && handlers.is_empty());
        let memory = handlers.places[0].handler.as_deref().map(std::ptr::from_ref);

        handlers.push(handler(1), stream());
        assert_eq!(handlers.places[0].handler.as_deref().map(std::ptr::from_ref), memory);
        stale.wake_by_ref();
        assert!(handlers.poll() && handlers.is_empty());
        stale.wake_by_ref();
        assert!(!handlers.poll(), "the waker of a handler that has ended wakes nothing");
        assert_eq!(polls.get(), 3);
        handlers.shrink();
        assert!(handlers.places.is_empty() && handlers.is_empty());
    }

    #[tokio::test]
    async fn one_that_wakes_itself_leaves_the_others_their_turn() {
        let (mut handlers, polls) = (Handlers::new(), Rc::new(Cell::new([0, 0])));
        for at in 0..2 {
            let polls = Rc::clone(&polls);
            let handler = poll_fn(move |cx| {
                let mut counts = polls.get();
                counts[at] += 1;
                polls.set(counts);
                cx.waker().wake_by_ref();
                Poll::<()>::Pending
            });
            handlers.push(handler, stream());
        }
        (0..3).for_each(|_| assert!(!handlers.poll()));
        assert_eq!(polls.get(), [3, 3]);
        let task = Arc::<Task>::default();
        handlers.wait(&Context::from_waker(&Waker::from(Arc::clone(&task))));
        assert_eq!(task.0.load(Relaxed), 1, "they are to be polled again");
    }
}
