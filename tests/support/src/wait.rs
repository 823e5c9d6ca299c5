//! Waiting with a deadline, so that a test that would hang fails instead.

use std::time::Duration;

/// Longer than anything that a test waits for, also where many tests share few cores.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The pause between two polls.
const INTERVAL: Duration = Duration::from_millis(10);

/// Calls `poll` until it returns a value. Panics with `what` after [`DEADLINE`].
pub async fn eventually<T>(what: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
    let polling = async {
        loop {
            if let Some(value) = poll().await {
                return value;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    in_time(what, polling).await
}

/// Waits for `future`. Panics with `what` after [`DEADLINE`].
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}
