//! Counters of requests in windows of time: in this process, or in a store that several instances share.

use std::time::Duration;

use super::memory::Memory;
use super::shared::Shared;
use super::window::{Hits, Window};

/// The counters.
#[derive(Debug)]
pub(super) enum Counters {
    Memory(Memory),
    Shared(Shared),
}

impl Counters {
    /// Counts all of these at the time `now`, since the epoch. Returns the window of each, in order; `None` if there is no counter left for it.
    ///
    /// Returns an error if the store does not answer. Some or all of them may have been counted then.
    pub(super) async fn count(&self, hits: Vec<Hits>, now: Duration) -> Result<Vec<Option<Window>>, String> {
        match self {
            Self::Memory(memory) => Ok(hits.into_iter().map(|hits| memory.count(hits, now)).collect()),
            Self::Shared(shared) => {
                let windows = shared.count(&hits, now).await?;
                Ok(windows.into_iter().map(Some).collect())
            }
        }
    }

    /// Returns whether the store is connected, or `None` if the counters are in memory.
    pub(super) fn is_connected(&self) -> Option<bool> {
        match self {
            Self::Memory(_) => None,
            Self::Shared(shared) => Some(shared.is_connected()),
        }
    }
}
