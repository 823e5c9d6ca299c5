//! The log of configuration changes. It is appended to and pruned, never changed.

use std::sync::{MutexGuard, PoisonError};

use redb::{ReadableTable, ReadableTableMetadata};
use serde::{Deserialize, Serialize};

use super::table::{HISTORY, decode, encode};
use super::{StateError, Store};

/// Number of changes that are kept. They use about 2 MB.
const KEPT: usize = 10_000;

/// One change of the configuration, or one refusal of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// The origin: a file with its document, or an address.
    pub source: String,
    /// The kind, namespace and name of the resource, and what happened (added, changed, removed, refused).
    pub what: String,
    /// The version of an accepted resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why it was refused. None if it was accepted.
    pub refused: Option<String>,
}

impl Store {
    /// Appends changes in order, in one transaction, and drops the oldest beyond 10,000. If it fails, they are written
    /// with the next changes or when the store works again.
    pub fn append_history(&self, entries: &[HistoryEntry]) -> Result<(), StateError> {
        let mut unwritten = self.unwritten();
        unwritten.extend_from_slice(entries);
        let surplus = unwritten.len().saturating_sub(KEPT);
        unwritten.drain(..surplus);
        if unwritten.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            let mut history = transaction.open_table(HISTORY)?;
            let mut number = history.last()?.map_or(0, |(number, _)| number.value());
            for entry in unwritten.iter() {
                number += 1;
                history.insert(number, encode(entry)?.as_slice())?;
            }
            while history.len()? > KEPT as u64 {
                history.pop_first()?;
            }
            Ok(())
        })?;
        unwritten.clear();
        Ok(())
    }

    /// Returns the last `count` changes, oldest first.
    pub fn history(&self, count: usize) -> Result<Vec<HistoryEntry>, StateError> {
        let unwritten = self.unwritten();
        let written = count.saturating_sub(unwritten.len());
        let mut last = self.read(|transaction| {
            let history = transaction.open_table(HISTORY)?;
            let last = history.iter()?.rev().take(written);
            last.map(|entry| decode("a change", entry?.1.value())).collect::<Result<Vec<_>, _>>()
        })?;
        last.reverse();
        let from = unwritten.len().saturating_sub(count);
        last.extend_from_slice(&unwritten[from..]);
        Ok(last)
    }

    /// Locked while they are written, so that their order is kept.
    fn unwritten(&self) -> MutexGuard<'_, Vec<HistoryEntry>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> HistoryEntry {
        let (source, what) = ("a.yaml".into(), "Service shop/cart added".into());
        HistoryEntry { at_unix_ms: number, source, what, version: None, refused: None }
    }

    #[test]
    fn the_log_keeps_its_order_across_a_reopening() {
        let directory = tempfile::tempdir().unwrap();
        Store::open(directory.path()).unwrap().append_history(&[entry(1), entry(2)]).unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.append_history(&[entry(3)]).unwrap();
        assert_eq!(store.history(2).unwrap(), [entry(2), entry(3)]);
    }

    #[test]
    fn the_log_is_bounded_and_loses_its_oldest_first() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let many: Vec<_> = (0..KEPT as u64 + 5).map(entry).collect();
        store.append_history(&many).unwrap();
        let kept = store.history(usize::MAX).unwrap();
        assert_eq!((kept.len(), kept[0].at_unix_ms), (KEPT, 5));
    }
}
