//! The access log: one line per finished request or connection, written by a dedicated thread.
//!
//! Workers send records into a bounded channel and never wait. The thread writes all available records with one call and pauses
//! for [`BATCH_DELAY`], so that it wakes a few hundred times a second at most. It ends when all workers are gone and the last line
//! is written.

pub(crate) mod entry;
mod json;
mod milliseconds;
mod output;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use outrigger_core::record::RequestRecord;
use tokio::sync::mpsc;

use self::entry::Entry;
use self::output::Output;
use super::losses::Losses;
use crate::args::{AccessLog, LogFormat};
use crate::error::Error;

/// Capacity of the channel; at 1 KiB per record, 4 MiB in the worst case.
const QUEUE: usize = 4096;

/// Pause in which records gather before they are written.
const BATCH_DELAY: Duration = Duration::from_millis(5);

/// Handle of the access log's thread.
#[derive(Debug)]
pub(crate) struct AccessLogThread {
    thread: JoinHandle<()>,
    reopen: Arc<AtomicBool>,
}

/// Accepts finished requests from workers.
pub(crate) type RecordSender = mpsc::Sender<Arc<RequestRecord>>;

/// Opens the log and starts its thread. Returns None if the log is off.
pub(crate) fn start(
    destination: &AccessLog,
    format: LogFormat,
    losses: Arc<Losses>,
) -> Result<Option<(RecordSender, AccessLogThread)>, Error> {
    let Some(output) = Output::open(destination)? else { return Ok(None) };
    let (sender, records) = mpsc::channel(QUEUE);
    let reopen = Arc::new(AtomicBool::new(false));
    let writer = Writer { records, output, format, losses, reopen: Arc::clone(&reopen) };
    let thread = std::thread::Builder::new()
        .name("access-log".into())
        .spawn(move || writer.run())
        .map_err(|source| Error::Start { what: "the access log's thread", source })?;
    Ok(Some((sender, AccessLogThread { thread, reopen })))
}

impl AccessLogThread {
    /// Reopens the file before the next line, after it was renamed (logrotate).
    pub(crate) fn reopen(&self) {
        self.reopen.store(true, Relaxed);
    }

    /// Returns true once everything is written, soon after the last worker has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

struct Writer {
    records: mpsc::Receiver<Arc<RequestRecord>>,
    output: Output,
    format: LogFormat,
    losses: Arc<Losses>,
    reopen: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self) {
        let mut lines = Vec::with_capacity(64 * 1024);
        while let Some(record) = self.records.blocking_recv() {
            let mut count = 1;
            self.append(&record, &mut lines);
            while count < QUEUE as u64
                && let Ok(record) = self.records.try_recv()
            {
                self.append(&record, &mut lines);
                count += 1;
            }
            if self.reopen.swap(false, Relaxed)
                && let Err(error) = self.output.reopen()
            {
                tracing::warn!(%error, "access log: the file cannot be reopened; the old one stays in use");
            }
            let written = self.output.write(&lines);
            self.losses.lines(written.is_ok(), count);
            lines.clear();
            std::thread::sleep(BATCH_DELAY);
        }
    }

    fn append(&self, record: &RequestRecord, lines: &mut Vec<u8>) {
        let entry = Entry::of(record);
        match self.format {
            LogFormat::Json => entry.write_json(lines),
            LogFormat::Text => entry.write_text(lines),
        }
        lines.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::access_log::entry::tests::record;

    fn written(log: &AccessLogThread) {
        while !log.is_finished() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn every_record_is_written_before_the_thread_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let losses = Arc::new(Losses::default());
        let destination = AccessLog::File(path.clone());
        let (sender, log) = start(&destination, LogFormat::Json, Arc::clone(&losses)).unwrap().unwrap();
        for _ in 0..100 {
            sender.try_send(Arc::new(record())).unwrap();
        }
        drop(sender);
        written(&log);
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 100);
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
        assert_eq!(losses.counts().log_lines_written, 100);
    }

    #[test]
    fn after_a_rename_lines_go_to_a_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
        let destination = AccessLog::File(path.clone());
        let (sender, log) = start(&destination, LogFormat::Text, Arc::default()).unwrap().unwrap();
        std::fs::rename(&path, &old).unwrap();
        log.reopen();
        sender.try_send(Arc::new(record())).unwrap();
        drop(sender);
        written(&log);
        assert_eq!(std::fs::read_to_string(old).unwrap(), "");
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/access.log");
        let error = start(&AccessLog::File(path.clone()), LogFormat::Json, Arc::default()).unwrap_err();
        assert!(error.to_string().starts_with(&format!("--access-log {}: ", path.display())), "{error}");
        assert!(start(&AccessLog::Off, LogFormat::Json, Arc::default()).unwrap().is_none());
    }
}
