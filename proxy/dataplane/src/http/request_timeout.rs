//! The time that a client has for the whole of a request (`HttpConnectionManager.request_timeout`).
//!
//! It ends with the last byte of the request or when a response is there. Looked at while somebody waits for bytes of the
//! body, so that a client is not blamed for an endpoint that reads slowly.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::codec::body::{Body, Frame, Source};

/// The clock of one request. Dropped, it has stopped.
pub(super) struct RequestTimeout(Rc<RefCell<Option<Pin<Box<Sleep>>>>>);

impl RequestTimeout {
    /// Passes at `deadline`.
    pub(super) fn at(deadline: Instant) -> Self {
        Self(Rc::new(RefCell::new(Some(Box::pin(sleep_until(deadline))))))
    }

    /// The body, which fails when the time has passed.
    pub(super) fn limit(&self, body: Body) -> Body {
        if body.is_ended() {
            return body;
        }
        let length = body.length();
        let timed = Timed { body: RefCell::new(body), timer: Rc::clone(&self.0) };
        Body::streamed(Rc::new(timed), 0, length)
    }
}

impl Drop for RequestTimeout {
    fn drop(&mut self) {
        self.0.take();
    }
}

struct Timed {
    body: RefCell<Body>,
    timer: Rc<RefCell<Option<Pin<Box<Sleep>>>>>,
}

impl Source for Timed {
    fn poll_frame(&self, _: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        let frame = self.body.borrow_mut().poll_frame(cx);
        if frame.is_pending()
            && let Some(timer) = &mut *self.timer.borrow_mut()
            && timer.as_mut().poll(cx).is_ready()
        {
            let late = Failure::downstream(Reason::DownstreamTimeout, "the request came too slowly");
            return Poll::Ready(Some(Err(late)));
        }
        frame
    }

    fn poll_progress(&self, _: u64, cx: &mut Context<'_>) {
        self.body.borrow_mut().poll_progress(cx);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    /// Yields a byte every second.
    struct Slow(RefCell<Pin<Box<Sleep>>>);

    impl Source for Slow {
        fn poll_frame(&self, _: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
            let timer = &mut *self.0.borrow_mut();
            std::task::ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(Instant::now() + Duration::from_secs(1));
            Poll::Ready(Some(Ok(Frame::Data(Bytes::from_static(b"x")))))
        }
    }

    fn slow() -> Body {
        let timer = Box::pin(tokio::time::sleep(Duration::from_secs(1)));
        Body::streamed(Rc::new(Slow(RefCell::new(timer))), 0, None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_too_slowly_fails_in_time() {
        let began = Instant::now();
        let timeout = RequestTimeout::at(began + Duration::from_millis(3500));
        let mut body = timeout.limit(slow());
        let failure = loop {
            if let Err(failure) = body.frame().await.unwrap() {
                break failure;
            }
        };
        assert_eq!(
            (failure.reason, began.elapsed()),
            (Reason::DownstreamTimeout, Duration::from_millis(3500))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn once_a_response_is_there_the_rest_may_take_its_time() {
        let timeout = RequestTimeout::at(Instant::now() + Duration::from_millis(3500));
        let mut body = timeout.limit(slow());
        assert!(body.frame().await.unwrap().is_ok());
        drop(timeout);
        for _ in 0..10 {
            assert!(body.frame().await.unwrap().is_ok());
        }
    }
}
