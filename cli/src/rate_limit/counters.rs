//! Counters of requests in windows of time, which begin at whole units.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Counters by key. A counter whose window has passed begins again at 0.
#[derive(Debug)]
pub(super) struct Counters {
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

/// The state of a window after a request was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// The requests in it, this one included.
    pub(super) count: u64,
    /// How long it lasts.
    pub(super) left: Duration,
}

impl Counters {
    /// Creates the counters: `most` of them at a time.
    pub(super) fn new(most: usize) -> Self {
        Self { most, state: Mutex::default() }
    }

    /// Counts `hits` requests at the time `now`, since a fixed point. Returns `None` if there is no counter left for the key.
    pub(super) fn count(&self, key: Box<str>, hits: u64, length: Duration, now: Duration) -> Option<Window> {
        let State { counters, full_until } = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if counters.len() >= self.most && !counters.contains_key(&key) {
            if now < *full_until {
                return None;
            }
            counters.retain(|_, counter| counter.ends > now);
            if counters.len() >= self.most {
                *full_until = counters.values().map(|counter| counter.ends).min().unwrap_or_default();
                return None;
            }
        }
        let window = now.as_secs() / length.as_secs().max(1) + 1;
        let ends = Duration::from_secs(window.saturating_mul(length.as_secs().max(1)));
        let counter = counters.entry(key).or_insert(Counter { count: 0, ends });
        if counter.ends <= now {
            *counter = Counter { count: 0, ends };
        }
        counter.count = counter.count.saturating_add(hits);
        Some(Window { count: counter.count, left: counter.ends.saturating_sub(now) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_window_ends_at_a_whole_unit() {
        let counters = Counters::new(10);
        let count = |key: &str, seconds| {
            let window = counters.count(key.into(), 1, MINUTE, Duration::from_secs(seconds)).unwrap();
            (window.count, window.left.as_secs())
        };
        assert_eq!([count("a", 130), count("a", 179), count("b", 179)], [(1, 50), (2, 1), (1, 1)]);
        assert_eq!([count("a", 180), count("a", 400)], [(1, 60), (1, 20)]);
    }

    #[test]
    fn there_are_only_so_many_counters_and_those_that_ended_give_way() {
        let counters = Counters::new(2);
        let is_counted = |key: &str, seconds| {
            counters.count(key.into(), 1, MINUTE, Duration::from_secs(seconds)).is_some()
        };
        assert_eq!([is_counted("a", 1), is_counted("b", 1), is_counted("c", 1)], [true, true, false]);
        assert_eq!([is_counted("c", 59), is_counted("a", 59)], [false, true]);
        assert_eq!([is_counted("a", 59), is_counted("c", 60), is_counted("d", 60)], [true, true, true]);
    }
}
