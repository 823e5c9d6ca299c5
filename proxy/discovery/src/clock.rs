//! The wall clock as an input: certificates expire by the calendar, timers use the monotonic clock.
//!
//! Long sleeps are split, because the monotonic clock does not advance while a machine is suspended. Tests use tokio's paused clock.

use std::time::{Duration, SystemTime};

/// Longest part of a sleep; bounds how late a renewal can be after a suspend.
const MAX_SLEEP: Duration = Duration::from_secs(30);

/// The source of wall-clock time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    #[cfg(test)]
    paused: Option<(SystemTime, tokio::time::Instant)>,
}

impl Clock {
    /// Returns a clock that follows tokio's, starting now.
    #[cfg(test)]
    pub(crate) fn paused() -> Self {
        Self { paused: Some((SystemTime::now(), tokio::time::Instant::now())) }
    }

    pub(crate) fn now(&self) -> SystemTime {
        #[cfg(test)]
        if let Some((wall, instant)) = self.paused {
            return wall + instant.elapsed();
        }
        SystemTime::now()
    }

    /// Sleeps until the wall clock shows `at`. Cancel-safe.
    pub(crate) async fn sleep_until(&self, at: SystemTime) {
        while let Ok(left) = at.duration_since(self.now())
            && !left.is_zero()
        {
            tokio::time::sleep(left.min(MAX_SLEEP)).await;
        }
    }
}
