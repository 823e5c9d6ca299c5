//! Why the proxy failed to start or ended with an error: one line with the flag, the value and the cause.
//!
//! The caller of [`crate::run`] prints the error; the exit status is then 1.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A fatal error of the process. Displayed as one line.
#[derive(Debug, Error)]
pub enum Error {
    /// A flag conflicts with another flag or with this machine.
    #[error("{flag} {value}: {problem}")]
    Flag {
        /// The flag, with its dashes.
        flag: &'static str,
        /// The value as given.
        value: String,
        /// What is wrong with the value.
        problem: String,
    },
    /// The proxy cannot listen on an address: in use, not local, or not permitted.
    #[error("{flag} {address}: cannot listen: {source}{}", next_step(flag, source))]
    Listen {
        /// The flag that named the address.
        flag: &'static str,
        /// The address.
        address: String,
        /// The system error.
        source: io::Error,
    },
    /// A file or directory that a flag names cannot be used.
    #[error("{flag} {}: {problem}: {source}", path.display())]
    Path {
        /// The flag that named the path.
        flag: &'static str,
        /// The path.
        path: PathBuf,
        /// The operation that failed.
        problem: &'static str,
        /// The system error.
        source: io::Error,
    },
    /// An environment variable has an invalid value.
    #[error("{variable}: {problem}")]
    Environment {
        /// The name of the variable.
        variable: String,
        /// What is wrong.
        problem: String,
    },
    /// A thread or runtime could not be started.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What could not be started.
        what: &'static str,
        /// The system error.
        source: io::Error,
    },
    /// A worker ended unexpectedly.
    #[error("{0}")]
    Failed(String),
}

/// Returns what to do about an address that cannot be bound.
fn next_step(flag: &str, source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            format!("; another process listens there: stop it, or give {flag} another address")
        }
        io::ErrorKind::AddrNotAvailable => format!("; no interface of this machine has it: correct {flag}"),
        io::ErrorKind::PermissionDenied => {
            format!("; a port below 1024 needs a privilege: give {flag} another port")
        }
        _ => String::new(),
    }
}
