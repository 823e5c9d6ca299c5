//! Races two futures, the second of which starts if the first takes too long. The first one that succeeds wins.
//!
//! For work that precedes the writing of a request, so that losing has no side effect.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use outrigger_core::error::Failure;

/// The winner of a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Winner {
    /// The future that started first.
    First,
    /// The other one.
    Second,
}

/// Runs `first` and, if it is not ready after `patience`, also the future that `rival` returns. If one fails while the other is
/// pending, `failed` is called with it and the other decides the result. Cancel-safe if both futures are.
pub(crate) async fn race<T, F: Future<Output = Result<T, Failure>>>(
    mut first: Pin<&mut F>,
    patience: Duration,
    rival: impl FnOnce() -> Option<F>,
    failed: impl FnOnce(Winner, Failure),
) -> (Winner, Result<T, Failure>) {
    // Most futures are ready at once and need no timer.
    if let Some(ready) = futures_util::future::poll_immediate(first.as_mut()).await {
        return (Winner::First, ready);
    }
    if let Ok(ready) = tokio::time::timeout(patience, first.as_mut()).await {
        return (Winner::First, ready);
    }
    let Some(second) = rival() else { return (Winner::First, first.await) };
    // Boxed, because it is rare and would make every request larger.
    match select(first, Box::pin(second)).await {
        Either::Left((Ok(ready), _)) => (Winner::First, Ok(ready)),
        Either::Right((Ok(ready), _)) => (Winner::Second, Ok(ready)),
        Either::Left((Err(failure), second)) => {
            failed(Winner::First, failure);
            (Winner::Second, second.await)
        }
        Either::Right((Err(failure), first)) => {
            failed(Winner::Second, failure);
            (Winner::First, first.await)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use outrigger_core::error::Reached;
    use outrigger_core::reason::Reason;
    use tokio::time::{Instant, sleep};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(250);

    async fn takes(millis: u64, outcome: Result<u64, Failure>) -> Result<u64, Failure> {
        sleep(Duration::from_millis(millis)).await;
        outcome
    }

    fn refused() -> Failure {
        Failure::upstream(Reason::UpstreamConnectionFailure, Reached::NotWritten, "refused")
    }

    async fn raced(
        first: (u64, Result<u64, Failure>),
        second: Option<(u64, Result<u64, Failure>)>,
    ) -> (Winner, Option<u64>, u128, Option<Winner>) {
        let (began, mut lost) = (Instant::now(), None);
        let rival = || second.map(|(millis, outcome)| takes(millis, outcome));
        let (winner, outcome) =
            race(pin!(takes(first.0, first.1)), PATIENCE, rival, |winner, _| lost = Some(winner)).await;
        (winner, outcome.ok(), began.elapsed().as_millis(), lost)
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_ready_in_time_has_no_rival() {
        assert_eq!(raced((200, Ok(1)), Some((0, Ok(2)))).await, (Winner::First, Some(1), 200, None));
        let (winner, outcome, millis, lost) = raced((200, Err(refused())), Some((0, Ok(2)))).await;
        assert_eq!((winner, outcome, millis, lost), (Winner::First, None, 200, None), "for the retry");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_is_ready_wins() {
        assert_eq!(raced((9_000, Ok(1)), Some((2, Ok(2)))).await, (Winner::Second, Some(2), 252, None));
        assert_eq!(raced((300, Ok(1)), Some((900, Ok(2)))).await, (Winner::First, Some(1), 300, None));
        assert_eq!(raced((300, Ok(1)), None).await, (Winner::First, Some(1), 300, None));
    }

    #[tokio::test(start_paused = true)]
    async fn when_one_fails_the_other_decides() {
        let expected = (Winner::Second, Some(2), 650, Some(Winner::First));
        assert_eq!(raced((300, Err(refused())), Some((400, Ok(2)))).await, expected);
        let expected = (Winner::First, Some(1), 1_000, Some(Winner::Second));
        assert_eq!(raced((1_000, Ok(1)), Some((10, Err(refused())))).await, expected);
    }
}
