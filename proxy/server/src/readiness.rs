//! Readiness: a set of conditions, each of which becomes true once.
//!
//! `/ready` lists the conditions that are not met. Without a reachable control plane, a proxy is ready once it has read its
//! saved configuration. A draining proxy is not ready. Warnings are listed too, but a proxy with warnings is ready: an
//! orchestrator may start the application only once its sidecar is ready.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Pending conditions, and whether the process is draining. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Names of the pending conditions, each with a reason if one is known.
    pending: Mutex<Vec<(&'static str, Option<String>)>>,
    draining: AtomicBool,
    warnings: Mutex<Vec<String>>,
}

/// A readiness condition. If it is dropped without [`Latch::open`], the process never becomes ready.
#[derive(Debug)]
#[must_use = "the process is not ready until the latch is opened"]
pub(crate) struct Latch {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a condition; `/ready` shows it under `name`.
    pub(crate) fn latch(&self, name: &'static str) -> Latch {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner).push((name, None));
        Latch { name, readiness: self.clone() }
    }

    /// Replaces the warnings.
    pub(crate) fn warn(&self, warnings: Vec<String>) {
        *self.0.warnings.lock().unwrap_or_else(PoisonError::into_inner) = warnings;
    }

    /// Returns the warnings.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.0.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the process permanently unready.
    pub(crate) fn drain(&self) {
        self.0.draining.store(true, Relaxed);
    }

    /// Returns the pending conditions with their reasons. Empty if the process is ready.
    pub(crate) fn missing(&self) -> Vec<String> {
        self.pending(|(name, why)| match why {
            Some(why) => format!("{name} ({why})"),
            None => (*name).to_owned(),
        })
    }

    /// Returns the names of the pending conditions. Unlike the reasons they contain no address and no path.
    pub(crate) fn missing_names(&self) -> Vec<String> {
        self.pending(|(name, _)| (*name).to_owned())
    }

    fn pending(&self, text: impl Fn(&(&'static str, Option<String>)) -> String) -> Vec<String> {
        let pending = self.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let draining = self.0.draining.load(Relaxed).then(|| "draining".to_owned());
        pending.iter().map(text).chain(draining).collect()
    }

    /// Returns true if no condition is pending and the process is not draining.
    pub(crate) fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }
}

impl Latch {
    /// Sets the reason why the condition is not met yet.
    pub(crate) fn explain(&self, why: String) {
        let mut pending = self.readiness.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, known) in pending.iter_mut().filter(|(name, _)| *name == self.name) {
            *known = Some(why.clone());
        }
    }

    /// Marks the condition as met.
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
        assert_eq!(readiness.missing_names(), ["configuration"]);
        config.open();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_proxy_with_a_warning_is_ready() {
        let readiness = Readiness::default();
        readiness.warn(vec!["no application".into()]);
        assert!(readiness.is_ready());
        assert_eq!(readiness.warnings(), ["no application"]);
    }

    #[test]
    fn draining_is_not_ready() {
        let readiness = Readiness::default();
        readiness.drain();
        assert_eq!(readiness.missing(), ["draining"]);
    }
}
