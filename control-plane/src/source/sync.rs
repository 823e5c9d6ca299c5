//! Which parts of the configuration are not synced, and which cannot be read at the moment, for `/ready` and `/status`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state of each part. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct SyncStatus(Arc<Mutex<BTreeMap<&'static str, PartState>>>);

#[derive(Debug, Clone, Default)]
struct PartState {
    synced: bool,
    failure: Option<String>,
}

impl SyncStatus {
    /// Adds a part, which is not synced.
    pub(crate) fn add(&self, part: &'static str) {
        self.parts().entry(part).or_default();
    }

    /// Records that a part is synced. It stays synced.
    pub(crate) fn synced(&self, part: &'static str) {
        self.parts().entry(part).or_default().synced = true;
    }

    /// Records why a part cannot be read, or None if it can. Returns true if that is news.
    pub(crate) fn set_failure(&self, part: &'static str, failure: Option<String>) -> bool {
        let mut parts = self.parts();
        let state = parts.entry(part).or_default();
        let news = state.failure != failure;
        state.failure = failure;
        news
    }

    /// Returns a line for each part that is not synced.
    pub(crate) fn waiting(&self) -> Vec<String> {
        let parts = self.parts();
        let waiting = parts.iter().filter(|(_, state)| !state.synced);
        waiting.map(|(part, state)| line(part, state, "is not synced yet")).collect()
    }

    /// Returns a line for each part that is not synced or cannot be read.
    pub(crate) fn problems(&self) -> Vec<String> {
        let parts = self.parts();
        let problem = |(part, state): (&&str, &PartState)| match (state.synced, &state.failure) {
            (true, None) => None,
            (true, Some(_)) => Some(line(part, state, "cannot be read now")),
            (false, _) => Some(line(part, state, "is not synced yet")),
        };
        parts.iter().filter_map(problem).collect()
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<&'static str, PartState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn line(part: &str, state: &PartState, what: &str) -> String {
    let reason = state.failure.as_ref().map_or_else(String::new, |failure| format!(": {failure}"));
    format!("{part} {what}{reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_synced_is_named_with_its_reason() {
        let sync = SyncStatus::default();
        ["Service", "HTTPRoute"].into_iter().for_each(|part| sync.add(part));
        assert!(sync.set_failure("Service", Some("refused".into())));
        assert!(!sync.set_failure("Service", Some("refused".into())));
        sync.synced("HTTPRoute");
        assert_eq!(sync.waiting(), ["Service is not synced yet: refused"]);
        sync.synced("Service");
        assert!(sync.waiting().is_empty());
        assert_eq!(sync.problems(), ["Service cannot be read now: refused"]);
        assert!(sync.set_failure("Service", None));
        assert!(sync.problems().is_empty());
    }
}
