//! The proxy's log about itself, to stderr, with a level that can be changed while it runs.
//!
//! Installed once, before anything else can fail; the handle goes to `/log-level`. In a process that has a subscriber
//! already (a test harness), that one stays, and the handle says so.

use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::args::{LogFormat, log_filter};

/// Changes what is logged. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct LevelHandle {
    filter: reload::Handle<Targets, Registry>,
    /// The directives as they were given: a filter prints itself in an order of its own.
    directives: Arc<Mutex<String>>,
}

/// Starts logging by `directives`.
pub(crate) fn install(directives: &str, format: LogFormat) -> LevelHandle {
    // Read once already, by the command line.
    let filter =
        log_filter::parse(directives).unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // Fails only where another subscriber is installed already: that one stays.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    LevelHandle { filter: handle, directives: Arc::new(Mutex::new(directives.to_owned())) }
}

impl LevelHandle {
    /// What is logged now.
    pub(crate) fn directives(&self) -> String {
        self.directives.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs by `directives` from now on. Fails on what is no filter, and where another subscriber decides.
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
        assert!(handle.set("info").is_err(), "nobody listens to this handle any more");
    }
}
