//! How much one caller may have at a time and how fast it may ask, so that no caller costs the others.
//!
//! [`Slots`] counts what is held, and a [`Slot`] gives its place back when dropped; [`Pace`] is a rate with a burst, and
//! a [`Meter`] what somebody used of it. Both remember a caller only while it holds or used something. Reads no clock.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many places for each key.
#[derive(Debug)]
pub(crate) struct Slots<K> {
    limit: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// A place taken; given back on drop.
#[derive(Debug)]
pub(crate) struct Slot<K: Eq + Hash> {
    key: K,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Eq + Hash + Clone> Slots<K> {
    /// `limit` places for each key.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, taken: Arc::default() }
    }

    /// A place, if one is free.
    pub(crate) fn take(&self, key: &K) -> Option<Slot<K>> {
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
pub(crate) struct Pace {
    /// How many may come at once after a rest.
    pub(crate) burst: u32,
    /// One more may come each time that this has passed.
    pub(crate) interval: Duration,
}

/// What was used of a pace: until when it is used up (GCRA's theoretical arrival time).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Meter {
    booked: Option<Instant>,
}

impl Meter {
    /// Whether one more may come now; if so, it is counted.
    pub(crate) fn admit(&mut self, pace: Pace, now: Instant) -> bool {
        let booked = self.booked.map_or(now, |booked| booked.max(now));
        let next = booked + pace.interval;
        let admitted = next <= now + pace.interval * pace.burst;
        if admitted {
            self.booked = Some(next);
        }
        admitted
    }

    fn is_rested(&self, now: Instant) -> bool {
        self.booked.is_none_or(|booked| booked <= now)
    }
}

/// A meter for each key.
#[derive(Debug)]
pub(crate) struct Meters<K> {
    pace: Pace,
    state: Mutex<Metered<K>>,
}

#[derive(Debug)]
struct Metered<K> {
    meters: HashMap<K, Meter>,
    /// The rested are forgotten when there are so many: the cost of that is spread over as many newcomers.
    sweep_at: usize,
}

const FIRST_SWEEP: usize = 64;

impl<K: Eq + Hash + Clone> Meters<K> {
    /// The same pace for each key.
    pub(crate) fn new(pace: Pace) -> Self {
        let state = Metered { meters: HashMap::new(), sweep_at: FIRST_SWEEP };
        Self { pace, state: Mutex::new(state) }
    }

    /// Whether one more of this key may come now; if so, it is counted.
    pub(crate) fn admit(&self, key: &K, now: Instant) -> bool {
        let mut state = lock(&self.state);
        if state.meters.len() >= state.sweep_at {
            state.meters.retain(|_, meter| !meter.is_rested(now));
            state.sweep_at = (state.meters.len() * 2).max(FIRST_SWEEP);
        }
        state.meters.entry(key.clone()).or_default().admit(self.pace, now)
    }
}

/// Locks; no code that holds one of these locks can panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { burst: 3, interval: Duration::from_millis(100) };

    #[test]
    fn a_place_is_free_again_when_its_slot_is_dropped_and_nothing_of_it_stays() {
        let slots = Slots::new(2);
        let (first, _second) = (slots.take(&"a").unwrap(), slots.take(&"a").unwrap());
        assert!(slots.take(&"a").is_none() && slots.take(&"b").is_some());
        drop(first);
        drop(slots.take(&"a").unwrap());
        assert_eq!(*lock(&slots.taken), HashMap::from([("a", 1)]));
    }

    #[test]
    fn a_burst_passes_and_then_the_pace() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        let admitted = |meter: &mut Meter, at: u64| {
            let now = start + Duration::from_millis(at);
            (0..10).filter(|_| meter.admit(PACE, now)).count()
        };
        assert_eq!(admitted(&mut meter, 0), 3);
        assert_eq!(admitted(&mut meter, 99), 0);
        assert_eq!(admitted(&mut meter, 250), 2);
        assert_eq!(admitted(&mut meter, 10_000), 3);
    }

    #[test]
    fn the_rested_are_forgotten() {
        let (meters, start) = (Meters::new(PACE), Instant::now());
        for key in 0..10_000_u64 {
            assert!(meters.admit(&key, start + PACE.interval * u32::try_from(key).unwrap()));
        }
        assert!(lock(&meters.state).meters.len() <= FIRST_SWEEP);
    }
}
