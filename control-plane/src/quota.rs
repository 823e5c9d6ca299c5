//! Limits of one caller: how much it may hold at a time, and the rate of its requests.
//!
//! [`Slots`] counts what each key holds; a dropped [`Slot`] is free again. A [`RateLimiter`] admits requests at a [`Rate`]. Both
//! store a key only while it holds a slot or its rate is not idle. Nothing here reads a clock.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A number of slots for each key.
#[derive(Debug)]
pub(crate) struct Slots<K> {
    limit: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// An occupied slot. Dropping it frees the slot.
#[derive(Debug)]
pub(crate) struct Slot<K: Eq + Hash> {
    key: K,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Eq + Hash + Clone> Slots<K> {
    /// Creates `limit` slots for each key.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, taken: Arc::default() }
    }

    /// Occupies a slot of this key. Returns None if none is free.
    pub(crate) fn acquire(&self, key: &K) -> Option<Slot<K>> {
        let mut taken = lock(&self.taken);
        let count = taken.entry(key.clone()).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Slot { key: key.clone(), taken: Arc::clone(&self.taken) })
    }
}

impl<K: Eq + Hash> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

/// A rate: `burst` at once, then one in each `interval`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// Number of requests that are admitted at once after an idle time.
    pub(crate) burst: u32,
    /// Time after which one more is admitted.
    pub(crate) interval: Duration,
}

/// A rate limiter (the generic cell rate algorithm).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RateLimiter {
    theoretical_arrival: Option<Instant>,
}

impl RateLimiter {
    /// Admits a request if the rate allows it, and counts it.
    pub(crate) fn admit(&mut self, rate: Rate, now: Instant) -> bool {
        let theoretical_arrival =
            self.theoretical_arrival.map_or(now, |theoretical_arrival| theoretical_arrival.max(now));
        let next = theoretical_arrival + rate.interval;
        let admitted = next <= now + rate.interval * rate.burst;
        if admitted {
            self.theoretical_arrival = Some(next);
        }
        admitted
    }

    fn refund(&mut self, rate: Rate) {
        self.theoretical_arrival =
            self.theoretical_arrival.and_then(|arrival| arrival.checked_sub(rate.interval));
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.theoretical_arrival.is_none_or(|theoretical_arrival| theoretical_arrival <= now)
    }
}

/// A rate limiter for each key.
#[derive(Debug)]
pub(crate) struct KeyedRateLimiter<K> {
    rate: Rate,
    state: Mutex<Limiters<K>>,
}

#[derive(Debug)]
struct Limiters<K> {
    limiters: HashMap<K, RateLimiter>,
    /// Number of limiters at which the idle ones are removed. It doubles, so that the cost is amortized.
    sweep_at: usize,
}

const FIRST_SWEEP: usize = 64;

impl<K: Eq + Hash + Clone> KeyedRateLimiter<K> {
    /// Creates a limiter with the same rate for each key.
    pub(crate) fn new(rate: Rate) -> Self {
        let state = Limiters { limiters: HashMap::new(), sweep_at: FIRST_SWEEP };
        Self { rate, state: Mutex::new(state) }
    }

    /// Admits a request of this key if the rate allows it, and counts it.
    pub(crate) fn admit(&self, key: &K, now: Instant) -> bool {
        let mut state = lock(&self.state);
        if state.limiters.len() >= state.sweep_at {
            state.limiters.retain(|_, limiter| !limiter.is_idle(now));
            state.sweep_at = (state.limiters.len() * 2).max(FIRST_SWEEP);
        }
        state.limiters.entry(key.clone()).or_default().admit(self.rate, now)
    }

    /// Makes a request of this key that was admitted count no more.
    pub(crate) fn refund(&self, key: &K) {
        if let Some(limiter) = lock(&self.state).limiters.get_mut(key) {
            limiter.refund(self.rate);
        }
    }
}

/// Locks a mutex. A poisoned lock is used: no code panics between two steps of a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, interval: Duration::from_millis(100) };

    #[test]
    fn a_dropped_slot_is_free_and_its_key_is_removed() {
        let slots = Slots::new(2);
        let (first, _second) = (slots.acquire(&"a").unwrap(), slots.acquire(&"a").unwrap());
        assert!(slots.acquire(&"a").is_none() && slots.acquire(&"b").is_some());
        drop(first);
        drop(slots.acquire(&"a").unwrap());
        assert_eq!(*lock(&slots.taken), HashMap::from([("a", 1)]));
    }

    #[test]
    fn a_burst_is_admitted_and_then_the_rate() {
        let (mut limiter, start) = (RateLimiter::default(), Instant::now());
        let admitted = |limiter: &mut RateLimiter, at: u64| {
            let now = start + Duration::from_millis(at);
            (0..10).filter(|_| limiter.admit(RATE, now)).count()
        };
        assert_eq!(admitted(&mut limiter, 0), 3);
        assert_eq!(admitted(&mut limiter, 99), 0);
        assert_eq!(admitted(&mut limiter, 250), 2);
        assert_eq!(admitted(&mut limiter, 10_000), 3);
    }

    #[test]
    fn refunded_requests_do_not_count() {
        let (limiters, now) = (KeyedRateLimiter::new(RATE), Instant::now());
        for _ in 0..100 {
            assert!(limiters.admit(&"a", now));
            limiters.refund(&"a");
        }
        assert_eq!((0..10).filter(|_| limiters.admit(&"a", now)).count(), 3);
        limiters.refund(&"a");
        limiters.refund(&"unknown");
        assert!(limiters.admit(&"a", now) && !limiters.admit(&"a", now));
    }

    #[test]
    fn idle_limiters_are_removed() {
        let (limiters, start) = (KeyedRateLimiter::new(RATE), Instant::now());
        for key in 0..10_000_u64 {
            assert!(limiters.admit(&key, start + RATE.interval * u32::try_from(key).unwrap()));
        }
        assert!(lock(&limiters.state).limiters.len() <= FIRST_SWEEP);
    }
}
