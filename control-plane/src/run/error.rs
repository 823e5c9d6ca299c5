//! Why the control plane could not start, as one line.

use std::io;

use thiserror::Error;
use tokio::task::JoinError;

use crate::ca::issuer::IssuerError;
use crate::kubernetes::client::ClientError;
use crate::listener::server_certificate::ServerCertificateError;
use crate::listener::tls::TlsError;
use crate::source::watch::SourceError;
use crate::state::StateError;

/// Why the control plane could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot listen on {address} ({flag}): {error}{}", in_use(flag, error))]
    Listen {
        /// The flag.
        flag: &'static str,
        /// The address or path.
        address: String,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The store or the state directory is not usable.
    #[error("--state-dir: {0}")]
    State(#[from] StateError),
    /// The operator's CA or the stored CA is not usable.
    #[error("the CA: {0}")]
    Issuer(#[from] IssuerError),
    /// The configuration cannot be read.
    #[error("--config: {0}")]
    Source(#[from] SourceError),
    /// The API server cannot be found.
    #[error("--kubernetes: {0}")]
    Kubernetes(#[from] ClientError),
    /// The control plane's own certificate cannot be issued.
    #[error("the control plane's certificate: {0}")]
    Certificate(#[from] ServerCertificateError),
    /// TLS cannot be configured.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
    /// A source of configuration ended before all had been read.
    #[error("a source of configuration ended before it was synced")]
    Unsynced,
    /// A start-up step panicked.
    #[error("start-up failed: {0}")]
    Join(#[from] JoinError),
}

/// Returns what to do if another process listens on an address.
fn in_use(flag: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("; another process listens there: stop it, or give {flag} another address")
        }
        _ => String::new(),
    }
}
