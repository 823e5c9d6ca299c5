//! Readiness: a list of named things that must have happened, each of which happens once.
//!
//! `/ready` shows what is still missing. A proxy whose control plane is away is ready when it has read its saved
//! configuration; one that drains is not ready any more.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// What is waited for, and whether the process drains. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// What is waited for, and why it has not happened, where that is known.
    pending: Mutex<Vec<(&'static str, Option<String>)>>,
    draining: AtomicBool,
}

/// One thing that is waited for. Dropping it without [`Latch::open`] leaves the process unready for good.
#[derive(Debug)]
#[must_use = "the process is not ready until the latch is opened"]
pub(crate) struct Latch {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Adds something to wait for, named as `/ready` shows it.
    pub(crate) fn latch(&self, name: &'static str) -> Latch {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner).push((name, None));
        Latch { name, readiness: self.clone() }
    }

    /// From now on the process is not ready.
    pub(crate) fn drain(&self) {
        self.0.draining.store(true, Relaxed);
    }

    /// What is missing, and why; empty when the process is ready.
    pub(crate) fn missing(&self) -> Vec<String> {
        let pending = self.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let text = |(name, why): &(&str, Option<String>)| match why {
            Some(why) => format!("{name} ({why})"),
            None => (*name).to_owned(),
        };
        let draining = self.0.draining.load(Relaxed).then(|| "draining".to_owned());
        pending.iter().map(text).chain(draining).collect()
    }

    /// Whether nothing is missing.
    pub(crate) fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }
}

impl Latch {
    /// Says why it has not happened yet.
    pub(crate) fn explain(&self, why: String) {
        let mut pending = self.readiness.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, known) in pending.iter_mut().filter(|(name, _)| *name == self.name) {
            *known = Some(why.clone());
        }
    }

    /// It has happened.
    pub(crate) fn open(self) {
        let mut pending = self.readiness.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = pending.iter().position(|(name, _)| *name == self.name) {
            pending.remove(at);
        }
        tracing::debug!(what = self.name, missing = ?*pending, "ready");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_every_latch_is_open() {
        let readiness = Readiness::default();
        let (identity, config) = (readiness.latch("identity"), readiness.latch("configuration"));
        identity.open();
        assert_eq!(readiness.missing(), ["configuration"]);
        config.explain("the saved one is torn".into());
        assert_eq!(readiness.missing(), ["configuration (the saved one is torn)"]);
        config.open();
        assert!(readiness.is_ready());
    }

    #[test]
    fn draining_is_not_ready() {
        let readiness = Readiness::default();
        readiness.drain();
        assert_eq!(readiness.missing(), ["draining"]);
    }
}
