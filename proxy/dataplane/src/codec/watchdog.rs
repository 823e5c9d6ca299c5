//! A deadline that moves often and rarely passes: one timer per connection instead of one per request.
//!
//! Moving the deadline later costs a store; the timer is reset only if it fires too early.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// The deadline of one connection.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// `None` until a deadline is set.
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    timer: Pin<Box<Sleep>>,
    deadline: Instant,
}

impl Watchdog {
    /// Creates a watchdog without a deadline.
    pub(crate) fn new() -> Self {
        Self { running: None }
    }

    /// Sets the deadline to `within` from now.
    pub(crate) fn set(&mut self, within: Duration) {
        self.set_at(Instant::now() + within);
    }

    /// Sets the deadline.
    pub(crate) fn set_at(&mut self, at: Instant) {
        match &mut self.running {
            Some(Running { timer, deadline }) => {
                *deadline = at;
                if timer.deadline() > at {
                    timer.as_mut().reset(at);
                }
            }
            None => {
                self.running = Some(Running { timer: Box::pin(tokio::time::sleep_until(at)), deadline: at });
            }
        }
    }

    /// Returns whether the deadline has passed.
    pub(crate) fn has_passed(&self) -> bool {
        self.running.as_ref().is_some_and(|running| Instant::now() >= running.deadline)
    }

    /// Ready when the deadline has passed.
    pub(crate) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(Running { timer, deadline }) = &mut self.running else { return Poll::Pending };
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= *deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(*deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_deadline_that_was_set_last_counts() {
        let mut watchdog = Watchdog::new();
        for (first, then) in [(1, 5), (5, 1)] {
            let start = Instant::now();
            watchdog.set(Duration::from_secs(first));
            watchdog.set(Duration::from_secs(then));
            poll_fn(|cx| watchdog.poll_passed(cx)).await;
            assert_eq!(start.elapsed().as_secs(), then);
        }
    }
}
