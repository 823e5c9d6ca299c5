//! The log of configuration changes: written by a thread of its own, read by `outrigger history`.
//!
//! Changes that come together are written in one transaction, so that a directory of ten thousand files does not wait
//! for ten thousand disk writes. The thread ends when its [`HistoryLog`] is dropped, with everything written.
//!
//! A control plane that starts reads everything anew; what the log has already is not recorded again.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use crate::admin_client::{AdminAddress, AdminError, ask};
use crate::source::change::{Change, ChangeEvent};
use crate::state::history::HistoryEntry;
use crate::state::{StateError, Store};

/// How many changes are written in one transaction.
const BATCH: usize = 1_000;

/// The writer.
#[derive(Debug)]
pub struct HistoryLog {
    sender: Option<Sender<HistoryEntry>>,
    writer: Option<JoinHandle<()>>,
    known: Arc<Known>,
}

impl HistoryLog {
    /// Starts the thread.
    pub fn start(store: Store) -> Result<Self, HistoryError> {
        let known = Arc::new(Known::of(store.history(usize::MAX)?));
        let (sender, entries) = channel();
        let write = move || write(&store, &entries);
        let writer =
            thread::Builder::new().name("history".into()).spawn(write).map_err(HistoryError::Thread)?;
        Ok(Self { sender: Some(sender), writer: Some(writer), known })
    }

    /// The first reading of the configuration is over: from now on everything is news.
    pub fn started(&self) {
        self.known.consulted.store(false, Ordering::Relaxed);
    }

    /// A function that records each change, for the source.
    pub fn recorder(&self) -> impl Fn(&ChangeEvent) + Send + 'static {
        let (sender, known) = (self.sender.clone(), Arc::clone(&self.known));
        move |event| {
            let entry = entry(event);
            if known.has(&entry) {
                return;
            }
            match &entry.refused {
                None => tracing::info!(source = entry.source, what = entry.what, "configuration changed"),
                Some(reason) => {
                    tracing::warn!(source = entry.source, what = entry.what, reason, "configuration refused");
                }
            }
            if let Some(sender) = &sender {
                let _ = sender.send(entry);
            }
        }
    }

    /// Waits until everything that was recorded is written. The recorders must be gone.
    pub fn finish(mut self) {
        self.sender = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// What the log said last of each resource, while the configuration is read for the first time.
#[derive(Debug)]
struct Known {
    consulted: AtomicBool,
    /// Whether each resource was there.
    present: HashMap<String, bool>,
    /// The reason of each refusal, by source and resource.
    refused: HashMap<(String, String), String>,
}

impl Known {
    fn of(entries: Vec<HistoryEntry>) -> Self {
        let (mut present, mut refused) = (HashMap::new(), HashMap::new());
        for HistoryEntry { source, what, refused: reason, .. } in entries {
            let Some((resource, verb)) = what.rsplit_once(' ') else { continue };
            match reason {
                Some(reason) => drop(refused.insert((source, resource.to_owned()), reason)),
                None => drop(present.insert(resource.to_owned(), verb != REMOVED)),
            }
        }
        Self { consulted: AtomicBool::new(true), present, refused }
    }

    /// Whether the entry repeats what the log has.
    fn has(&self, entry: &HistoryEntry) -> bool {
        let Some((resource, _)) = entry.what.rsplit_once(' ') else { return false };
        self.consulted.load(Ordering::Relaxed)
            && match &entry.refused {
                None => self.present.get(resource) == Some(&true),
                Some(reason) => {
                    self.refused.get(&(entry.source.clone(), resource.to_owned())) == Some(reason)
                }
            }
    }
}

const REMOVED: &str = "removed";

fn write(store: &Store, entries: &Receiver<HistoryEntry>) {
    while let Ok(first) = entries.recv() {
        let batch: Vec<_> = std::iter::once(first).chain(entries.try_iter().take(BATCH - 1)).collect();
        if let Err(error) = store.append_history(&batch) {
            tracing::error!(%error, entries = batch.len(), "the history is not written");
        }
    }
}

fn entry(event: &ChangeEvent) -> HistoryEntry {
    let ChangeEvent { at, file, resource, change } = event;
    let resource = resource.as_deref().unwrap_or("?");
    let (verb, document, refused) = match change {
        Change::Added => ("added", 0, None),
        Change::Changed => ("changed", 0, None),
        Change::Removed => (REMOVED, 0, None),
        Change::Refused(refusal) => {
            let field = if refusal.field.is_empty() { "" } else { &format!("{}: ", refusal.field) };
            ("refused", refusal.document, Some(format!("{field}{}", refusal.reason)))
        }
    };
    let source = match document {
        0 => file.display().to_string(),
        document => format!("{}, document {document}", file.display()),
    };
    HistoryEntry {
        at_unix_ms: u64::try_from(at.as_millisecond()).unwrap_or(0),
        source,
        what: format!("{resource} {verb}"),
        refused,
    }
}

/// The last `count` changes of the mesh whose state is in `directory`, the oldest of them first: from its control
/// plane when one runs, else from the store.
pub async fn read(directory: &Path, count: usize) -> Result<Vec<HistoryEntry>, HistoryError> {
    let socket = AdminAddress::of_state_directory(directory);
    let failed = |error: &dyn std::fmt::Display| AdminError::Failed(socket.clone(), error.to_string());
    match ask(&socket, &format!("/history?count={count}"), None).await {
        Ok(body) => Ok(serde_json::from_slice(&body).map_err(|error| failed(&error))?),
        Err(AdminError::Absent(_)) => {
            let directory = directory.to_owned();
            let read = tokio::task::spawn_blocking(move || Store::open(&directory)?.history(count));
            Ok(read.await.map_err(|error| failed(&error))??)
        }
        Err(error) => Err(error.into()),
    }
}

/// Why the history cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The control plane failed.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The writer's thread cannot be started.
    #[error("no thread for the history: {0}")]
    Thread(std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::change::Refusal;

    #[test]
    fn a_restart_repeats_nothing_and_misses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let event = |resource: &str, change| ChangeEvent {
            at: jiff::Timestamp::UNIX_EPOCH,
            file: "shop.yaml".into(),
            resource: Some(resource.into()),
            change,
        };
        let start = |events: &[ChangeEvent]| {
            let store = Store::open(directory.path()).unwrap();
            let log = HistoryLog::start(store.clone()).unwrap();
            let record = log.recorder();
            events.iter().for_each(&record);
            log.started();
            record(&event("Service shop/gone", Change::Removed));
            drop(record);
            log.finish();
            store.history(usize::MAX).unwrap().into_iter().map(|entry| entry.what).collect::<Vec<_>>()
        };
        let all = [event("Service shop/cart", Change::Added), event("Service shop/gone", Change::Added)];
        let first = ["Service shop/cart added", "Service shop/gone added", "Service shop/gone removed"];
        assert_eq!(start(&all), first);
        assert_eq!(start(&all)[3..], ["Service shop/gone added", "Service shop/gone removed"]);
    }

    #[tokio::test]
    async fn what_was_recorded_is_read_back_with_its_place_and_reason() {
        let directory = tempfile::tempdir().unwrap();
        let log = HistoryLog::start(Store::open(directory.path()).unwrap()).unwrap();
        let event = |change| ChangeEvent {
            at: jiff::Timestamp::from_millisecond(1_800_000_000_123).unwrap(),
            file: "shop.yaml".into(),
            resource: Some("HTTPRoute shop/cart".into()),
            change,
        };
        let refusal = Refusal {
            file: "shop.yaml".into(),
            document: 2,
            resource: None,
            field: "spec.rules".into(),
            reason: "is no list".into(),
        };
        let record = log.recorder();
        record(&event(Change::Added));
        record(&event(Change::Refused(refusal)));
        drop(record);
        log.finish();
        let entry = |source: &str, what: &str, refused: Option<&str>| HistoryEntry {
            at_unix_ms: 1_800_000_000_123,
            source: source.into(),
            what: what.into(),
            refused: refused.map(Into::into),
        };
        assert_eq!(
            read(directory.path(), 10).await.unwrap(),
            [
                entry("shop.yaml", "HTTPRoute shop/cart added", None),
                entry("shop.yaml, document 2", "HTTPRoute shop/cart refused", Some("spec.rules: is no list")),
            ]
        );
    }
}
