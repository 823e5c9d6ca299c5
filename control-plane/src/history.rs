//! The log of configuration changes: written by a thread of its own, read by `outrigger history`.
//!
//! Changes that come together are written in one transaction, so that a directory of ten thousand files does not wait
//! for ten thousand disk writes. The thread ends when its [`HistoryLog`] is dropped, with everything written.

use std::path::Path;
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
}

impl HistoryLog {
    /// Starts the thread.
    pub fn start(store: Store) -> std::io::Result<Self> {
        let (sender, entries) = channel();
        let writer = thread::Builder::new().name("history".into()).spawn(move || write(&store, &entries))?;
        Ok(Self { sender: Some(sender), writer: Some(writer) })
    }

    /// A function that records each change, for the source.
    pub fn recorder(&self) -> impl Fn(&ChangeEvent) + Send + 'static {
        let sender = self.sender.clone();
        move |event| {
            let entry = entry(event);
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
        Change::Removed => ("removed", 0, None),
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

/// Why the history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
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
    use crate::source::change::Refusal;

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
