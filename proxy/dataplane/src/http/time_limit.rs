//! A limit on time: a deadline, and how long no byte may move.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Both limits. `None` means unlimited.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TimeLimit {
    /// The deadline.
    pub(super) deadline: Option<Instant>,
    /// The longest time without a byte moved.
    pub(super) idle: Option<Duration>,
}

/// Which limit was reached.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TimedOut {
    /// The deadline passed.
    Deadline,
    /// No byte moved for the idle time.
    Idle,
}

impl TimeLimit {
    /// Runs `work` within the limits. `moved` counts bytes.
    ///
    /// There is no timer before there is something to wait for. It is reset when it fires and not for every byte, so idleness
    /// is noticed within twice `idle`.
    pub(super) fn run<F: Future + Unpin>(
        self,
        mut work: F,
        moved: impl Fn() -> u64 + Unpin,
    ) -> impl Future<Output = Result<F::Output, TimedOut>> + Unpin {
        let Self { deadline, idle } = self;
        let (mut timer, mut still_at, mut seen) = (None::<Pin<Box<Sleep>>>, None, 0);
        poll_fn(move |cx| {
            if let Poll::Ready(done) = Pin::new(&mut work).poll(cx) {
                return Poll::Ready(Ok(done));
            }
            let timer = match &mut timer {
                Some(timer) => timer,
                None => {
                    still_at = idle.map(|idle| Instant::now() + idle);
                    seen = moved();
                    let Some(first) = deadline.into_iter().chain(still_at).min() else {
                        return Poll::Pending;
                    };
                    timer.insert(Box::pin(sleep_until(first)))
                }
            };
            while timer.as_mut().poll(cx).is_ready() {
                let now = Instant::now();
                if deadline.is_some_and(|deadline| now >= deadline) {
                    return Poll::Ready(Err(TimedOut::Deadline));
                }
                if let (Some(idle), Some(at)) = (idle, &mut still_at)
                    && now >= *at
                {
                    if moved() == seen {
                        return Poll::Ready(Err(TimedOut::Idle));
                    }
                    seen = moved();
                    *at = now + idle;
                }
                timer.as_mut().reset(deadline.into_iter().chain(still_at).min().unwrap_or(now));
            }
            Poll::Pending
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;

    use tokio::time::sleep;

    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    fn idle() -> TimeLimit {
        TimeLimit { deadline: None, idle: Some(IDLE) }
    }

    /// Moves a byte every half of the time that it may stand still, ten times.
    async fn moving(bytes: &Cell<u64>) {
        for _ in 0..10 {
            sleep(IDLE / 2).await;
            bytes.set(bytes.get() + 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_stands_still_is_ended() {
        assert_eq!(idle().run(pin!(std::future::pending::<()>()), || 0).await, Err(TimedOut::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_goes_on() {
        let bytes = Cell::new(0);
        assert_eq!(idle().run(pin!(moving(&bytes)), || bytes.get()).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_ends_at_its_deadline_and_what_stands_still_before() {
        let (bytes, began) = (Cell::new(0), Instant::now());
        let limit = TimeLimit { deadline: Some(began + IDLE * 4), ..idle() };
        assert_eq!(limit.run(pin!(moving(&bytes)), || bytes.get()).await, Err(TimedOut::Deadline));
        assert_eq!(began.elapsed(), IDLE * 4);
        let limit = TimeLimit { deadline: Some(Instant::now() + IDLE * 4), ..idle() };
        assert_eq!(limit.run(pin!(std::future::pending::<()>()), || 0).await, Err(TimedOut::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_is_late() {
        assert_eq!(TimeLimit::default().run(pin!(sleep(IDLE * 1000)), || 0).await, Ok(()));
    }
}
