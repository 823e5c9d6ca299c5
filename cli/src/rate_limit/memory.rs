//! Counters in memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::window::{Hits, Window};

/// Counters by key. A counter whose window has passed begins again at 0.
#[derive(Debug)]
pub(super) struct Memory {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    counters: HashMap<Box<str>, Counter>,
    /// No counter ends before this time, so that further keys need not look for one that has.
    full_until: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Counter {
    count: u64,
    ends: Duration,
}

impl Memory {
    /// Creates the counters: `most` of them at a time.
    pub(super) fn new(most: usize) -> Self {
        Self { most, state: Mutex::default() }
    }

    /// Counts requests at the time `now`, since a fixed point. Returns `None` if there is no counter left for the key.
    pub(super) fn count(&self, hits: Hits, now: Duration) -> Option<Window> {
        let State { counters, full_until } = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if counters.len() >= self.most && !counters.contains_key(&hits.key) {
            if now < *full_until {
                return None;
            }
            counters.retain(|_, counter| counter.ends > now);
            if counters.len() >= self.most {
                *full_until = counters.values().map(|counter| counter.ends).min().unwrap_or_default();
                return None;
            }
        }
        let ends = hits.end(now);
        let counter = counters.entry(hits.key).or_insert(Counter { count: 0, ends });
        if counter.ends <= now {
            *counter = Counter { count: 0, ends };
        }
        counter.count = counter.count.saturating_add(hits.count);
        Some(Window { count: counter.count, left: counter.ends.saturating_sub(now) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(key: &str) -> Hits {
        Hits { key: key.into(), count: 1, length: Duration::from_secs(60) }
    }

    #[test]
    fn a_window_ends_at_a_whole_unit() {
        let counters = Memory::new(10);
        let count = |key: &str, seconds| {
            let window = counters.count(hit(key), Duration::from_secs(seconds)).unwrap();
            (window.count, window.left.as_secs())
        };
        assert_eq!([count("a", 130), count("a", 179), count("b", 179)], [(1, 50), (2, 1), (1, 1)]);
        assert_eq!([count("a", 180), count("a", 400)], [(1, 60), (1, 20)]);
    }

    #[test]
    fn there_are_only_so_many_counters_and_those_that_ended_give_way() {
        let counters = Memory::new(2);
        let is_counted =
            |key: &str, seconds| counters.count(hit(key), Duration::from_secs(seconds)).is_some();
        assert_eq!([is_counted("a", 1), is_counted("b", 1), is_counted("c", 1)], [true, true, false]);
        assert_eq!([is_counted("c", 59), is_counted("a", 59)], [false, true]);
        assert_eq!([is_counted("a", 59), is_counted("c", 60), is_counted("d", 60)], [true, true, true]);
    }
}
