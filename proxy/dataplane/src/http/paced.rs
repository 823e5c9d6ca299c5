//! The body of a response that passes at a limited rate, as fault injection wants it (`FaultRateLimit`).
//!
//! Only such a body has a pacer and its timer. What waits here stays unread, so that the upstream is not read faster either. If the body
//! is dropped or fails, so does the upstream's.

use std::cell::RefCell;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use outrigger_core::error::Failure;
use tokio::time::Instant;

use crate::codec::body::{Body, Frame, Source};
use crate::codec::watchdog::Watchdog;

/// The bytes of one of so many parts of a second may pass at once, as in Envoy (`StreamRateLimiter`).
const SLICES: u64 = 20;
const SLICE: Duration = Duration::from_millis(1000 / SLICES);

/// Returns a body that passes at this rate at most, in bytes per second.
pub(super) fn paced(body: Body, rate: NonZeroU64) -> Body {
    if body.is_ended() {
        return body;
    }
    let length = body.length();
    let state = State { body, rest: Bytes::new(), rate, free_at: Instant::now(), timer: Watchdog::new() };
    Body::streamed(Rc::new(Paced(RefCell::new(state))), 0, length)
}

struct Paced(RefCell<State>);

struct State {
    body: Body,
    /// What was read of the body and may not pass yet.
    rest: Bytes,
    rate: NonZeroU64,
    /// When all bytes that have passed are paid for.
    free_at: Instant,
    timer: Watchdog,
}

impl State {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        let now = Instant::now();
        if self.free_at > now + SLICE {
            self.timer.set_at(self.free_at - SLICE);
            ready!(self.timer.poll_passed(cx));
        }
        if self.rest.is_empty() {
            match ready!(self.body.poll_frame(cx)) {
                Some(Ok(Frame::Data(bytes))) => self.rest = bytes,
                other => return Poll::Ready(other),
            }
        }
        let most = usize::try_from(self.rate.get() / SLICES).unwrap_or(usize::MAX).max(1);
        let bytes = self.rest.split_to(self.rest.len().min(most));
        let nanos = (bytes.len() as u64).saturating_mul(1_000_000_000) / self.rate;
        self.free_at = self.free_at.max(Instant::now()) + Duration::from_nanos(nanos);
        Poll::Ready(Some(Ok(Frame::Data(bytes))))
    }
}

impl Source for Paced {
    fn poll_frame(&self, _: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        self.0.borrow_mut().poll_frame(cx)
    }

    fn poll_progress(&self, _: u64, cx: &mut Context<'_>) {
        self.0.borrow_mut().body.poll_progress(cx);
    }

    fn abandon(&self, _: u64) {
        self.0.borrow_mut().body = Body::empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn seconds(body: Body, kib: u64) -> (f64, usize) {
        let (began, mut bytes) = (Instant::now(), 0);
        let mut body = paced(body, NonZeroU64::new(kib * 1024).unwrap());
        while let Some(frame) = body.frame().await {
            let Ok(Frame::Data(data)) = frame else { panic!("{frame:?}") };
            assert!(data.len() as u64 <= kib * 1024 / SLICES);
            bytes += data.len();
        }
        (began.elapsed().as_secs_f64(), bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_takes_the_time_of_its_bytes() {
        for (bytes, kib) in [(10 * 1024, 1), (1024 * 1024, 100), (300, 1)] {
            let (took, passed) = seconds(Body::full(Bytes::from(vec![b'x'; bytes])), kib).await;
            let due = bytes as f64 / (kib * 1024) as f64;
            assert_eq!(passed, bytes);
            assert!(took <= due && took >= due - 0.11, "{bytes} bytes at {kib} KiB/s: {took} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_body_saves_nothing_up_and_keeps_its_length() {
        let mut body = paced(Body::full(Bytes::from(vec![b'x'; 2048])), NonZeroU64::new(1024).unwrap());
        assert_eq!(body.length(), Some(2048));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = Instant::now();
        while body.frame().await.is_some() {}
        assert!(began.elapsed() > Duration::from_millis(1850), "{:?}", began.elapsed());
        assert!(paced(Body::empty(), NonZeroU64::MIN).is_ended());
    }
}
