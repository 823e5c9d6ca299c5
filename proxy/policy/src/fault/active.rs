//! The limit on faults that are active at the same time (`max_active_faults`).
//!
//! It counts for the whole process and through changed configurations. Without a limit nothing is counted.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// The limit of one filter or route.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    most: Option<u32>,
    active: OnceLock<Arc<AtomicU32>>,
}

/// A fault that is active until this is dropped.
#[derive(Debug)]
pub(super) struct ActiveFault(Arc<AtomicU32>);

/// As many faults are active as may be.
#[derive(Debug)]
pub(super) struct LimitReached;

impl Limit {
    pub(super) fn new(most: Option<u32>) -> Self {
        Self { most, active: OnceLock::new() }
    }

    /// Begins a fault, which is not counted without a limit. Returns an error if as many are active as may be.
    pub(super) fn begin(&self) -> Result<Option<ActiveFault>, LimitReached> {
        let Some(most) = self.most else { return Ok(None) };
        let active = self.active.get_or_init(Arc::default);
        let one_more = |count: u32| (count < most).then(|| count + 1);
        let begun = active.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        begun.map(|_| Some(ActiveFault(Arc::clone(active)))).map_err(|_| LimitReached)
    }

    /// Takes over the count of `before`, unless this limit has been used already.
    pub(super) fn adopt(&self, before: &Self) {
        // Fails only if there is a count, which is in use.
        let _ = self.active.set(Arc::clone(before.active.get_or_init(Arc::default)));
    }
}

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_active_until_it_is_dropped_in_all_versions_of_a_limit() {
        let limit = Limit::new(Some(2));
        let faults = [limit.begin().unwrap().unwrap(), limit.begin().unwrap().unwrap()];
        assert!(limit.begin().is_err());
        let lower = Limit::new(Some(1));
        lower.adopt(&limit);
        assert!(lower.begin().is_err());
        let [first, second] = faults;
        drop(first);
        assert!(lower.begin().is_err() && limit.begin().is_ok_and(|active| active.is_some()));
        drop(second);
        assert!(lower.begin().is_ok_and(|active| active.is_some()));
        assert!(Limit::new(Some(0)).begin().is_err());
        assert!(Limit::new(None).begin().is_ok_and(|active| active.is_none()));
    }
}
