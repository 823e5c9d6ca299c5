//! The time that a client has to send its request: for the whole of it where the listener configures that
//! (`HttpConnectionManager.request_timeout`), and for letting us wait for its body in any case.
//!
//! Both end with the last byte of the request or when a response is there: watches, bidirectional gRPC and server-sent
//! events go on for as long as they like. Only the time counts in which the upstream waits for bytes of the body, so that a
//! client is not blamed for an endpoint that reads slowly. A client that has owed bytes for a moment is also cut when
//! another peer, which holds less, needs the capacity.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use crate::capacity::Debt;
use crate::codec::allowance::Allowance;
use crate::codec::body::{Body, Frame, Source};
use crate::codec::watchdog::Watchdog;

/// How long a client may owe bytes before its exchange may be cut for another peer's.
const GRACE: Duration = Duration::from_secs(1);

/// Lists an exchange as one whose client owes bytes.
pub(super) trait Owe: Fn(&Waker) -> Debt + 'static {}

impl<O: Fn(&Waker) -> Debt + 'static> Owe for O {}

/// The clock of one request with a body. Dropped, it has stopped.
pub(super) struct RequestTimeout<O>(Rc<Timed<O>>);

/// How long one request may take to come.
pub(super) struct RequestLimit {
    /// When all of it has to be here.
    pub(super) deadline: Option<Instant>,
    /// How long its client may let us wait for its body.
    pub(super) stillness: Duration,
}

impl RequestLimit {
    /// The body, which fails when its time has passed, and its clock. `owe` lists the exchange as one whose client owes
    /// bytes.
    pub(super) fn start<O: Owe>(self, body: Body, owe: O) -> (Body, Option<RequestTimeout<O>>) {
        if body.is_ended() {
            return (body, None);
        }
        let length = body.length();
        let clock = Clock {
            deadline: self.deadline,
            allowance: Allowance::new(self.stillness),
            timer: Watchdog::new(),
            debt: None,
        };
        let timed = Rc::new(Timed { body: RefCell::new(body), clock: RefCell::new(Some(clock)), owe });
        (Body::streamed(Rc::clone(&timed) as _, 0, length), Some(RequestTimeout(timed)))
    }
}

impl<O> Drop for RequestTimeout<O> {
    fn drop(&mut self) {
        self.0.clock.take();
    }
}

struct Clock {
    deadline: Option<Instant>,
    allowance: Allowance,
    timer: Watchdog,
    debt: Option<Debt>,
}

impl Clock {
    /// The client is waited for; ready, with what it did, when it has been for too long.
    fn poll_late(&mut self, owe: impl Fn(&Waker) -> Debt, cx: &mut Context<'_>) -> Poll<&'static str> {
        loop {
            let now = Instant::now();
            let grace = self.allowance.wait(now) + GRACE;
            let ends = self.deadline.into_iter().chain([self.allowance.ends(now)]).min().unwrap_or(now);
            if now >= ends {
                return Poll::Ready("the request came too slowly");
            }
            if self.debt.is_none() && now >= grace {
                self.debt = Some(owe(cx.waker()));
            }
            if self.debt.as_ref().is_some_and(|debt| debt.is_cut(cx.waker())) {
                self.debt = None;
                return Poll::Ready("the client owes bytes, and another needs its place");
            }
            let next = if self.debt.is_none() { grace.min(ends) } else { ends };
            self.timer.set(next.duration_since(now));
            if self.timer.poll_passed(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

struct Timed<O> {
    body: RefCell<Body>,
    clock: RefCell<Option<Clock>>,
    owe: O,
}

impl<O: Owe> Source for Timed<O> {
    fn poll_frame(&self, _: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        let frame = self.body.borrow_mut().poll_frame(cx);
        let clock = &mut *self.clock.borrow_mut();
        let Some(running) = clock else { return frame };
        match &frame {
            Poll::Pending => running.poll_late(&self.owe, cx).map(|what| {
                let late = Failure::downstream(Reason::DownstreamTimeout, what);
                Some(Err(late))
            }),
            Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                running.debt = None;
                running.allowance.moved(data.len() as u64, Instant::now());
                frame
            }
            Poll::Ready(_) => {
                *clock = None;
                frame
            }
        }
    }

    fn poll_progress(&self, _: u64, cx: &mut Context<'_>) {
        self.body.borrow_mut().poll_progress(cx);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use bytes::Bytes;
    use outrigger_core::peer::PeerKey;
    use tokio::time::sleep;

    use super::*;
    use crate::capacity::{Capacity, Debts, Holding};

    const STILLNESS: Duration = Duration::from_secs(60);

    /// Yields `bytes` bytes every `every`.
    struct Slow {
        bytes: usize,
        every: Duration,
        timer: RefCell<std::pin::Pin<Box<tokio::time::Sleep>>>,
    }

    impl Source for Slow {
        fn poll_frame(&self, _: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
            let timer = &mut *self.timer.borrow_mut();
            std::task::ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(Instant::now() + self.every);
            Poll::Ready(Some(Ok(Frame::Data(Bytes::from(vec![b'x'; self.bytes])))))
        }
    }

    fn slow(bytes: usize, every: Duration) -> Body {
        let timer = RefCell::new(Box::pin(sleep(every)));
        Body::streamed(Rc::new(Slow { bytes, every, timer }), 0, None)
    }

    struct World {
        debts: Arc<Debts>,
        hog: Arc<Holding>,
        guest: Arc<Holding>,
    }

    fn world() -> World {
        let debts = Arc::<Debts>::default();
        let capacity = Capacity::new(4, Arc::clone(&debts));
        let peer = |number| capacity.holding(&PeerKey::new(None, IpAddr::from([10, 0, 0, number])));
        World { hog: peer(1), guest: peer(2), debts }
    }

    impl World {
        fn limited(
            &self,
            body: Body,
            deadline: Option<Instant>,
        ) -> (Body, Option<RequestTimeout<impl Owe + use<>>>) {
            let (debts, hog) = (Arc::clone(&self.debts), Arc::clone(&self.hog));
            RequestLimit { deadline, stillness: STILLNESS }
                .start(body, move |waker| debts.list(&[&hog], waker))
        }
    }

    async fn read(body: &mut Body) -> Failure {
        loop {
            if let Err(failure) = body.frame().await.unwrap() {
                return failure;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_too_slowly_fails_in_time() {
        let began = Instant::now();
        let deadline = began + Duration::from_millis(3500);
        let (mut body, _clock) = world().limited(slow(1, Duration::from_secs(1)), Some(deadline));
        let failure = read(&mut body).await;
        assert_eq!(
            (failure.reason, began.elapsed()),
            (Reason::DownstreamTimeout, Duration::from_millis(3500))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_comes_or_drips_fails_and_a_slow_upload_does_not() {
        for (bytes, every, lasts) in [(0, 1000, 60..61), (1, 1, 60..70), (1, 50, 60..70)] {
            let (began, every) = (Instant::now(), Duration::from_secs(every));
            let (mut body, _clock) = world().limited(slow(bytes, every), None);
            assert_eq!(read(&mut body).await.reason, Reason::DownstreamTimeout);
            assert!(lasts.contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        }
        let (mut body, _clock) = world().limited(slow(1024, Duration::from_secs(50)), None);
        for _ in 0..100 {
            assert!(body.frame().await.unwrap().is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_does_not_use_up_the_clients_time() {
        let (mut body, _clock) = world().limited(slow(1, Duration::from_secs(1)), None);
        for _ in 0..30 {
            assert!(body.frame().await.unwrap().is_ok());
            sleep(Duration::from_secs(60)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn once_a_response_is_there_the_rest_may_take_its_time() {
        let deadline = Instant::now() + Duration::from_millis(3500);
        let (mut body, clock) = world().limited(slow(1, Duration::from_secs(100)), Some(deadline));
        drop(clock);
        for _ in 0..10 {
            assert!(body.frame().await.unwrap().is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_client_is_cut_when_a_peer_with_less_needs_the_permit() {
        let world = world();
        let mut held: Vec<_> = std::iter::from_fn(|| world.hog.try_take()).collect();
        let (mut body, _clock) = world.limited(slow(0, Duration::from_secs(1000)), None);
        let began = Instant::now();
        let guest = Arc::clone(&world.guest);
        let cut = async {
            let failure = read(&mut body).await;
            held.pop();
            failure
        };
        let (failure, share) = tokio::join!(cut, guest.take_by(Instant::now() + Duration::from_secs(10)));
        assert!(failure.reason == Reason::DownstreamTimeout && failure.detail.contains("another"));
        assert!(share.is_some() && began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_resumes_is_not_cut() {
        let world = world();
        let _held: Vec<_> = std::iter::from_fn(|| world.hog.try_take()).collect();
        let (mut body, _clock) = world.limited(slow(100, Duration::from_millis(900)), None);
        let guest = Arc::clone(&world.guest);
        let until = Instant::now() + Duration::from_secs(10);
        tokio::select! {
            _ = read(&mut body) => panic!("it was cut"),
            share = guest.take_by(until) => assert!(share.is_none()),
        }
    }
}
