//! Ends what stands still: a request of which no byte moves in either direction for the stream idle timeout.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Runs `work` as long as `moved` (a count of bytes) changes at least once every `idle`. `Err` when it stood still.
///
/// The timer is touched when it fires and not for every byte, so that stillness is noticed within twice `idle`.
pub(super) async fn moving<F: Future>(
    work: F,
    idle: Option<Duration>,
    moved: impl Fn() -> u64,
) -> Result<F::Output, Still> {
    let Some(idle) = idle else { return Ok(work.await) };
    let mut work = pin!(work);
    let mut timer = pin!(sleep(idle));
    let mut seen = moved();
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        while timer.as_mut().poll(cx).is_ready() {
            let now = moved();
            if now == seen {
                return Poll::Ready(Err(Still));
            }
            seen = now;
            timer.as_mut().reset(Instant::now() + idle);
        }
        Poll::Pending
    })
    .await
}

/// Nothing moved.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Still;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn what_stands_still_is_ended() {
        assert_eq!(moving(std::future::pending::<()>(), Some(IDLE), || 0).await, Err(Still));
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_goes_on() {
        let bytes = Cell::new(0);
        let work = async {
            for _ in 0..10 {
                sleep(IDLE / 2).await;
                bytes.set(bytes.get() + 1);
            }
        };
        assert_eq!(moving(work, Some(IDLE), || bytes.get()).await, Ok(()));
    }
}
