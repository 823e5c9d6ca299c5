//! Progress of what takes long, on stderr: a line that is rewritten, if stderr is a terminal, and lines that stay.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::print_error;

/// One line with a spinner and the elapsed time, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Spinner(ProgressBar);

impl Spinner {
    /// Shows `message`.
    pub(crate) fn start(message: &str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(message.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// Shows another message.
    pub(crate) fn message(&self, message: String) {
        self.0.set_message(message);
    }

    /// Writes a line that stays, above the spinner; also if stderr is not a terminal.
    pub(crate) fn line(&self, line: &str) {
        self.0.suspend(|| print_error(line));
    }

    /// Removes the line.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.finish();
    }
}
