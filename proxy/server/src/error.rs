//! Why the proxy did not start, or ended badly: one line that names the flag, the value and the cause.
//!
//! Made where the fact is known, printed once by whoever called [`crate::run`]; the exit status is then 1.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A fatal error of the process. Its text is one line.
#[derive(Debug, Error)]
pub enum Error {
    /// Two flags, or a flag and what the machine is like, do not go together.
    #[error("{flag} {value}: {problem}")]
    Flag {
        /// With its dashes.
        flag: &'static str,
        /// As given.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An address cannot be listened on: taken, not of this machine, or forbidden.
    #[error("{flag} {address}: cannot listen: {source}")]
    Listen {
        /// The flag that named the address.
        flag: &'static str,
        /// The address.
        address: String,
        /// As the kernel says.
        source: io::Error,
    },
    /// A file or directory that a flag names cannot be used.
    #[error("{flag} {}: {problem}: {source}", path.display())]
    Path {
        /// The flag that named the path.
        flag: &'static str,
        /// The path.
        path: PathBuf,
        /// What was tried.
        problem: &'static str,
        /// As the kernel says.
        source: io::Error,
    },
    /// A variable of the environment says something that cannot be done.
    #[error("{variable}: {problem}")]
    Environment {
        /// Its name.
        variable: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A thread or runtime could not be made.
    #[error("cannot start {what}: {source}")]
    Start {
        /// Which.
        what: &'static str,
        /// As the kernel says.
        source: io::Error,
    },
    /// A worker ended while the proxy should have gone on.
    #[error("{0}")]
    Failed(String),
}
