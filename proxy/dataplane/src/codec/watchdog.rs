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
    timer: Option<Pin<Box<Sleep>>>,
    deadline: Instant,
}

impl Watchdog {
    /// Creates a watchdog without a deadline.
    pub(crate) fn new() -> Self {
        Self { timer: None, deadline: Instant::now() }
    }

    /// Sets the deadline to `within` from now.
    pub(crate) fn set(&mut self, within: Duration) {
        self.deadline = Instant::now() + within;
        match &mut self.timer {
            Some(timer) if timer.deadline() > self.deadline => timer.as_mut().reset(self.deadline),
            Some(_) => {}
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(self.deadline))),
        }
    }

    /// Returns whether the deadline has passed.
    pub(crate) fn has_passed(&self) -> bool {
        self.timer.is_some() && Instant::now() >= self.deadline
    }

    /// Ready when the deadline has passed.
    pub(crate) fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= self.deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(self.deadline);
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
