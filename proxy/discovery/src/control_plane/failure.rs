//! Why the control plane is unreachable: each error names the cause and what to change.
//!
//! The channel creates them; [`describe`] finds them again in the status of a failed call, for the log and `/ready`.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use outrigger_config::verify::{VerifyError, rejection};
use outrigger_core::identity::SpiffeId;
use rustls::InvalidMessage;
use thiserror::Error;

use crate::control_plane::trust::RootsError;
use crate::dns::DnsError;

/// Why the control plane is unreachable.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The address is not of the form `HOST:PORT`.
    #[error("the control plane's address {0:?} is not HOST:PORT; correct --control-plane")]
    Address(String),
    /// The trust roots cannot be used.
    #[error("--control-plane-ca: {0}")]
    Roots(#[from] RootsError),
    /// The host has no address.
    #[error("{0}; correct --control-plane, or the DNS of this machine")]
    Dns(#[from] DnsError),
    /// No process listens at the address.
    #[error(
        "nothing listens at {0}; start the control plane there (outrigger control-plane --listen), or correct --control-plane"
    )]
    NotListening(SocketAddr),
    /// The TCP connection failed.
    #[error("cannot connect to {0}, the address of --control-plane: {1}")]
    Connect(SocketAddr, io::Error),
    /// The TLS handshake failed, with the cause and the next step.
    #[error("{0}")]
    Handshake(String),
    /// TLS cannot use our key or certificate.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The connection was not established in time.
    #[error("no connection to {0} within {1:?}; check --control-plane and the network")]
    TimedOut(String, Duration),
}

impl ChannelError {
    /// Creates the error of a connection attempt.
    pub(crate) fn connect(address: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::NotListening(address),
            _ => Self::Connect(address, error),
        }
    }

    /// Creates the error of a handshake with `address`, where `expected` was expected under the roots in `roots_file`.
    pub(crate) fn handshake(
        address: &str,
        expected: &SpiffeId,
        roots_file: &Path,
        error: &io::Error,
    ) -> Self {
        if let Some(rejected) = rejection(error) {
            return Self::Handshake(rejected_by_us(address, expected, roots_file, rejected));
        }
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        Self::Handshake(match cause {
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => format!(
                "{address} does not speak TLS; --control-plane is the address of the control plane's --listen (port 15010 by \
                 default), not that of its --admin (port 15011)"
            ),
            _ => format!("the TLS handshake with {address} failed: {error}; check --control-plane"),
        })
    }
}

/// Returns why the server at `address` is not the expected control plane, and what to correct.
fn rejected_by_us(address: &str, expected: &SpiffeId, roots_file: &Path, rejected: &VerifyError) -> String {
    match rejected {
        VerifyError::UnknownTrustDomain(found) => format!(
            "the control plane at {address} belongs to trust domain {found}, and this proxy to {}; correct --trust-domain",
            expected.trust_domain()
        ),
        VerifyError::Chain { reason, outside_validity: true, .. } => format!(
            "the certificate of {address} is not valid by this machine's clock ({reason}); compare the clocks of both machines"
        ),
        VerifyError::Chain { .. } => format!(
            "no root in {} issued the certificate of {address}; set --control-plane-ca to the roots.pem in the --state-dir of \
             that control plane",
            roots_file.display()
        ),
        VerifyError::WrongPeer { found, .. } => {
            format!("{address} is {found}, and not a control plane; correct --control-plane")
        }
        other => format!("{address} is not a control plane: {other}; correct --control-plane"),
    }
}

/// Formats a failed call: the channel's own error if there was no connection, else the code, the text and the causes.
pub(crate) fn describe(status: &tonic::Status) -> String {
    if let Some(error) = channel_error(status) {
        return error.to_string();
    }
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        // Each layer tends to repeat the text of the one below.
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Returns the channel's own error, if the call failed because there was no connection.
fn channel_error(status: &tonic::Status) -> Option<&ChannelError> {
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref() {
            return Some(error);
        }
        source = cause.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outrigger_core::identity::TrustDomain;
    use rustls::{CertificateError, OtherError};

    use super::*;

    fn handshake(error: rustls::Error) -> String {
        let expected = SpiffeId::control_plane(TrustDomain::parse("cluster.local").unwrap());
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        ChannelError::handshake("cp:15010", &expected, Path::new("/roots.pem"), &error).to_string()
    }

    fn refused(error: VerifyError) -> String {
        handshake(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error)))))
    }

    #[test]
    fn each_failed_handshake_names_its_cause_and_the_flag_to_correct() {
        let plain = handshake(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType));
        assert!(
            plain.contains("cp:15010 does not speak TLS") && plain.contains("--admin (port 15011)"),
            "{plain}"
        );
        let other = refused(VerifyError::UnknownTrustDomain(TrustDomain::parse("other.example").unwrap()));
        assert_eq!(
            other,
            "the control plane at cp:15010 belongs to trust domain other.example, and this proxy to cluster.local; correct \
             --trust-domain"
        );
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        let chain = |outside_validity| {
            refused(VerifyError::Chain { id: id.clone(), reason: "why".into(), outside_validity })
        };
        let roots = chain(false);
        assert!(
            roots.starts_with("no root in /roots.pem issued") && roots.contains("--control-plane-ca"),
            "{roots}"
        );
        let early = chain(true);
        assert!(early.contains("not valid by this machine's clock (why)"), "{early}");
        let expected = "x".to_owned();
        let wrong = refused(VerifyError::WrongPeer { found: id.clone(), expected });
        assert!(
            wrong.starts_with("cp:15010 is spiffe://cluster.local/ns/shop/sa/cart, and not a"),
            "{wrong}"
        );
    }

    #[test]
    fn a_refused_connection_says_that_nothing_listens() {
        let address = "127.0.0.1:15010".parse().unwrap();
        let refused = ChannelError::connect(address, io::ErrorKind::ConnectionRefused.into()).to_string();
        assert!(
            refused.starts_with("nothing listens at 127.0.0.1:15010; start the control plane"),
            "{refused}"
        );
    }
}
