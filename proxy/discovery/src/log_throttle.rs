//! Limits how often a repeated failure is logged: at once when its text changes, then once a minute.
//!
//! Used by everything that retries, so that an outage of hours is a few lines that still say what is wrong.

use std::time::Duration;

use tokio::time::Instant;

/// Interval at which an unchanged failure is logged again.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

/// What was logged last, and when.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle(Option<(String, Instant)>);

impl LogThrottle {
    /// Returns whether to log `text` now.
    pub(crate) fn admits(&mut self, text: &str) -> bool {
        let now = Instant::now();
        let repeated = self
            .0
            .as_ref()
            .is_some_and(|(last, at)| last == text && now.duration_since(*at) < REPEAT_INTERVAL);
        if !repeated {
            self.0 = Some((text.to_owned(), now));
        }
        !repeated
    }

    /// Forgets what was logged: the next failure is logged.
    pub(crate) fn reset(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_repeated_text_is_logged_once_a_minute_and_another_one_at_once() {
        let mut throttle = LogThrottle::default();
        assert!(throttle.admits("down") && !throttle.admits("down") && throttle.admits("refused"));
        tokio::time::advance(REPEAT_INTERVAL - Duration::from_secs(1)).await;
        assert!(!throttle.admits("refused"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(throttle.admits("refused") && !throttle.admits("refused"));
        throttle.reset();
        assert!(throttle.admits("refused"));
    }
}
