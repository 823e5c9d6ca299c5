//! The log of configuration changes, which `outrigger history` reads.
//!
//! After a start, every resource is reported as new. Changes that are already in the log are not written again. Changes
//! that happened while no control plane ran are written as changes or removals, with the time of the start.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::admin_client::{AdminAddress, AdminError, ask};
use crate::source::change::{Change, ChangeEvent};
pub use crate::state::history::HistoryEntry;
use crate::state::{StateError, Store};

/// Maximum number of changes of one update that are logged as lines.
const MAX_LOGGED: usize = 100;

/// Returns a function for the assembler that logs and stores the changes of each update. It blocks on the disk, once for
/// each update; the assembler publishes after it, so that active changes are in the log. A failure of the store is logged
/// and prevents nothing.
pub fn recorder(store: Store) -> Result<impl Fn(&[ChangeEvent]) + Send + 'static, StateError> {
    let logged = RefCell::new(LoggedState::of(store.history(usize::MAX)?));
    Ok(move |events: &[ChangeEvent]| {
        let new_entries = logged.borrow_mut().new_entries(events);
        for HistoryEntry { source, what, refused, .. } in new_entries.iter().take(MAX_LOGGED) {
            match refused {
                None => tracing::info!(source, what, "configuration changed"),
                Some(reason) => tracing::warn!(source, what, reason, "configuration refused"),
            }
        }
        if new_entries.len() > MAX_LOGGED {
            tracing::info!(more = new_entries.len() - MAX_LOGGED, "configuration changed; see the history");
        }
        if let Err(error) = store.append_history(&new_entries) {
            // The entries are kept in memory until the store works again.
            tracing::error!(%error, entries = new_entries.len(), "cannot write the history yet");
        }
    })
}

/// Logs the changes of an update in full: on Kubernetes, the log is the history. The resources that exist at the start are counted.
pub(crate) fn logger() -> impl Fn(&[ChangeEvent]) + Send + 'static {
    let logged = RefCell::new(LoggedState::of(Vec::new()));
    move |events: &[ChangeEvent]| {
        let mut logged = logged.borrow_mut();
        let first_reading = logged.first_reading;
        let mut added = 0_usize;
        for HistoryEntry { source, what, version, refused, .. } in logged.new_entries(events) {
            match refused {
                Some(reason) => tracing::warn!(source, what, reason, "configuration refused"),
                None if first_reading => added += 1,
                None => tracing::info!(source, what, version, "configuration changed"),
            }
        }
        if first_reading {
            tracing::info!(resources = added, "configuration read");
        }
    }
}

/// The last logged state of each resource.
#[derive(Debug)]
struct LoggedState {
    /// The file and version of each existing resource.
    present: BTreeMap<String, (String, Option<String>)>,
    /// The current refusals by resource: source and reason. A resource may have several.
    refused: BTreeMap<String, BTreeSet<(String, String)>>,
    first_reading: bool,
}

impl LoggedState {
    fn of(entries: Vec<HistoryEntry>) -> Self {
        let mut logged = Self { present: BTreeMap::new(), refused: BTreeMap::new(), first_reading: true };
        for entry in &entries {
            logged.apply(entry);
        }
        logged
    }

    fn apply(&mut self, entry: &HistoryEntry) {
        let Some((resource, verb)) = entry.what.rsplit_once(' ') else { return };
        match &entry.refused {
            Some(reason) => {
                let refusals = self.refused.entry(resource.into()).or_default();
                refusals.insert((entry.source.clone(), reason.clone()));
                return;
            }
            None if verb == REMOVED => drop(self.present.remove(resource)),
            None => {
                self.present.insert(resource.into(), (entry.source.clone(), entry.version.clone()));
            }
        }
        self.refused.remove(resource);
    }

    /// Returns the entries for these events.
    fn new_entries(&mut self, events: &[ChangeEvent]) -> Vec<HistoryEntry> {
        let mut new_entries: Vec<_> = events.iter().filter_map(|event| self.entry(event)).collect();
        if std::mem::take(&mut self.first_reading) {
            let seen: BTreeSet<&str> = events.iter().filter_map(|event| event.resource.as_deref()).collect();
            let at_unix_ms = unix_ms(events.first().map_or_else(jiff::Timestamp::now, |event| event.at));
            let gone = self.present.iter().filter(|(resource, _)| !seen.contains(resource.as_str()));
            new_entries.extend(gone.map(|(resource, (source, _))| HistoryEntry {
                at_unix_ms,
                source: source.clone(),
                what: format!("{resource} {REMOVED}"),
                version: None,
                refused: None,
            }));
        }
        new_entries.iter().for_each(|entry| self.apply(entry));
        new_entries
    }

    /// Returns the entry for an event, or None if the log has it from before this start.
    fn entry(&self, event: &ChangeEvent) -> Option<HistoryEntry> {
        let ChangeEvent { at, origin, resource, version, change } = event;
        let resource = resource.as_deref().unwrap_or("?");
        let source = origin.to_string();
        let mut refused = None;
        let verb = match change {
            Change::Added if self.first_reading => match self.present.get(resource) {
                Some((_, logged)) if logged == version => return None,
                Some(_) => "changed",
                None => "added",
            },
            Change::Added => "added",
            Change::Changed => "changed",
            Change::Removed => REMOVED,
            Change::Refused(refusal) => {
                let reason = refusal.problem.to_string();
                let logged = (source.clone(), reason.clone());
                if self.first_reading && self.refused.get(resource).is_some_and(|all| all.contains(&logged)) {
                    return None;
                }
                refused = Some(reason);
                "refused"
            }
        };
        Some(HistoryEntry {
            at_unix_ms: unix_ms(*at),
            source,
            what: format!("{resource} {verb}"),
            version: version.clone(),
            refused,
        })
    }
}

const REMOVED: &str = "removed";

fn unix_ms(at: jiff::Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

/// Returns the last `count` changes, oldest first, of the control plane whose state is in `directory`: from its process
/// if it runs, otherwise from the store.
pub async fn read(directory: &Path, count: usize) -> Result<Vec<HistoryEntry>, HistoryError> {
    let socket = AdminAddress::of_state_directory(directory);
    match fetch(&socket, count).await {
        Ok(entries) => Ok(entries),
        Err(AdminError::Absent(_)) if !Store::exists(directory) => {
            Err(HistoryError::NoState(directory.to_owned()))
        }
        Err(AdminError::Absent(_)) => {
            let directory = directory.to_owned();
            let read = tokio::task::spawn_blocking(move || Store::open(&directory)?.history(count));
            Ok(read.await.map_err(|error| AdminError::Failed(socket, error.to_string()))??)
        }
        Err(error) => Err(error.into()),
    }
}

/// Fetches the last `count` changes, oldest first, of a running control plane.
pub async fn fetch(address: &AdminAddress, count: usize) -> Result<Vec<HistoryEntry>, AdminError> {
    let body = ask(address, &format!("/history?count={count}"), None).await?;
    serde_json::from_slice(&body).map_err(|error| AdminError::Failed(address.clone(), error.to_string()))
}

/// Why the history cannot be read.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The directory has no state of a control plane.
    #[error("{}: no state of a control plane is there; --state-dir is that of outrigger control-plane", .0.display())]
    NoState(PathBuf),
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The control plane failed.
    #[error(transparent)]
    Admin(#[from] AdminError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::diagnostic::Problem;
    use crate::source::change::Diagnostic;
    use crate::source::origin::Origin;

    fn event(resource: &str, version: &str, change: Change) -> ChangeEvent {
        ChangeEvent {
            at: jiff::Timestamp::from_millisecond(1_800_000_000_123).unwrap(),
            origin: Origin::file("shop.yaml"),
            resource: Some(resource.into()),
            version: (!version.is_empty()).then(|| version.into()),
            change,
        }
    }

    fn refused(reason: &str) -> ChangeEvent {
        let refusal = Diagnostic {
            origin: Origin::File { path: "shop.yaml".into(), document: 2 },
            resource: None,
            problem: Problem::new("spec.rules", reason),
        };
        let origin = refusal.origin.clone();
        ChangeEvent { origin, ..event("HTTPRoute shop/cart", "", Change::Refused(refusal)) }
    }

    #[tokio::test]
    async fn recorded_changes_are_read_back_with_origin_and_reason() {
        let directory = tempfile::tempdir().unwrap();
        let record = recorder(Store::open(directory.path()).unwrap()).unwrap();
        record(&[event("HTTPRoute shop/cart", "1", Change::Added)]);
        record(&[refused("is no list")]);
        drop(record);
        let entry = |source: &str, what: &str, version: Option<&str>, refused: Option<&str>| HistoryEntry {
            at_unix_ms: 1_800_000_000_123,
            source: source.into(),
            what: what.into(),
            version: version.map(Into::into),
            refused: refused.map(Into::into),
        };
        let reason = Some("spec.rules: is no list [invalid-value]");
        assert_eq!(
            read(directory.path(), 10).await.unwrap(),
            [
                entry("shop.yaml", "HTTPRoute shop/cart added", Some("1"), None),
                entry("shop.yaml, document 2", "HTTPRoute shop/cart refused", None, reason),
            ]
        );
    }

    #[test]
    fn a_restart_repeats_no_change_and_misses_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let added =
            |name: &str, version: &str| event(&format!("Service shop/{name}"), version, Change::Added);
        let start = |events: &[ChangeEvent]| {
            let before = store.history(usize::MAX).unwrap().len();
            recorder(store.clone()).unwrap()(events);
            let entries = store.history(usize::MAX).unwrap();
            entries[before..].iter().map(|entry| entry.what.clone()).collect::<Vec<_>>()
        };
        let broken = [refused("is no list"), refused("is no name")];
        let first = start(&[&[added("cart", "1"), added("stock", "1")], &broken[..]].concat());
        assert_eq!(
            first,
            [
                "Service shop/cart added",
                "Service shop/stock added",
                "HTTPRoute shop/cart refused",
                "HTTPRoute shop/cart refused"
            ]
        );
        assert!(start(&[&[added("cart", "1"), added("stock", "1")], &broken[..]].concat()).is_empty());
        let away = start(&[added("cart", "2"), refused("is no map")]);
        assert_eq!(
            away,
            ["Service shop/cart changed", "HTTPRoute shop/cart refused", "Service shop/stock removed"]
        );
        // An emptied directory is logged as removals.
        assert_eq!(start(&[]), ["Service shop/cart removed"]);
    }

    #[test]
    fn every_change_at_run_time_is_logged() {
        let mut logged = LoggedState::of(Vec::new());
        logged.new_entries(&[event("Service shop/cart", "1", Change::Added)]);
        for (change, what) in [
            (Change::Changed, "Service shop/cart changed"),
            (Change::Removed, "Service shop/cart removed"),
            (Change::Added, "Service shop/cart added"),
        ] {
            assert_eq!(logged.new_entries(&[event("Service shop/cart", "1", change)])[0].what, what);
        }
    }
}
