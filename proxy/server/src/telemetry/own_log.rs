//! The proxy's own log on stderr, with a level that can be changed at runtime.
//!
//! A thread writes the lines. If stderr is a pipe whose reader has stopped, lines are dropped and counted; no thread that carries
//! traffic waits for the reader.
//!
//! Installed once, before anything else can fail. If the process already has a subscriber (a test harness), that one stays and
//! [`LevelHandle::set`] returns an error.

use std::sync::{Arc, Mutex, PoisonError};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::args::{LogFormat, log_filter};

/// Maximum number of lines that wait to be written.
const QUEUE: usize = 4096;

/// Changes the log filter. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LevelHandle {
    filter: reload::Handle<Targets, Registry>,
    /// The directives as given; a filter prints them in a different order.
    directives: Arc<Mutex<String>>,
}

/// The thread that writes the log. Dropping this waits up to about a second until the remaining lines are written.
#[derive(Debug)]
pub(crate) struct LogThread {
    _guard: WorkerGuard,
    dropped: ErrorCounter,
}

impl LogThread {
    /// Returns the counter of lines dropped because the queue was full.
    pub(crate) fn dropped(&self) -> ErrorCounter {
        self.dropped.clone()
    }
}

/// Installs the log with `directives` as its filter.
pub(crate) fn install(directives: &str, format: LogFormat) -> (LevelHandle, LogThread) {
    // The command line has validated the directives.
    let filter =
        log_filter::parse(directives).unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let (filter, handle) = reload::Layer::new(filter);
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(QUEUE)
        .lossy(true)
        .thread_name("own-log")
        .finish(std::io::stderr());
    let thread = LogThread { dropped: writer.error_counter(), _guard: guard };
    let lines = fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // Fails only if another subscriber is installed, which then stays.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    (LevelHandle { filter: handle, directives: Arc::new(Mutex::new(directives.to_owned())) }, thread)
}

impl LevelHandle {
    /// Returns the current directives.
    pub(crate) fn directives(&self) -> String {
        self.directives.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the filter. Returns an error if `directives` are invalid or another subscriber is installed.
    pub(crate) fn set(&self, directives: &str) -> Result<(), String> {
        let filter = log_filter::parse(directives)?;
        self.filter.reload(filter).map_err(|error| error.to_string())?;
        directives.clone_into(&mut self.directives.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_changes_and_nonsense_does_not() {
        let (layer, filter) = reload::Layer::new(log_filter::parse("info").unwrap());
        let handle = LevelHandle { filter, directives: Arc::new(Mutex::new("info".into())) };
        handle.set("debug,h2=warn").unwrap();
        assert_eq!(handle.directives(), "debug,h2=warn");
        assert!(handle.set("outrigger=shout").is_err() && handle.set("shout").is_err());
        assert_eq!(handle.directives(), "debug,h2=warn");
        drop(layer);
        assert!(handle.set("info").is_err(), "the handle has no subscriber");
    }
}
