//! Waiting for what has to happen.

use std::time::Duration;

/// Nothing that a test waits for takes this long, also where many tests share few cores.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Asks again and again until there is an answer; panics with `what` when the deadline has passed.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let answered = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(DEADLINE, answered).await {
        Ok(answer) => answer,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// Waits for one thing; panics with `what` when the deadline has passed.
pub async fn in_time<T>(what: &str, happens: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, happens).await {
        Ok(happened) => happened,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}
