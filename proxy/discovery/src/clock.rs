//! Wall-clock time as an input: certificates expire by the calendar, timers run by the monotonic clock.
//!
//! Long sleeps are taken in pieces, because a suspended machine's monotonic clock stands still while its certificate
//! grows old. Tests run on tokio's paused clock.

use std::time::{Duration, SystemTime};

/// Longest piece of a sleep: how late a renewal can be after a suspend.
const PIECE: Duration = Duration::from_secs(30);

/// Where wall-clock time comes from.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Clock {
    #[cfg(test)]
    paused: Option<(SystemTime, tokio::time::Instant)>,
}

impl Clock {
    /// A clock that follows tokio's, starting at the present.
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
            tokio::time::sleep(left.min(PIECE)).await;
        }
    }
}
