//! Whether a peer is who it must be: the chain by the roots of the peer's own trust domain, the SPIFFE ID exactly.
//!
//! The one place where certificates of others are believed. Used on both sides of mutual TLS and towards the control plane.
//! DNS names are never looked at.

use std::sync::Arc;

use outrigger_core::identity::{IdentityError, SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::secrets::Roots;

/// Verifies peers, as server or as client.
#[derive(Debug, Clone)]
pub struct PeerVerifier {
    roots: Arc<Roots>,
    peers: Option<Arc<[SpiffeId]>>,
    required: bool,
}

impl PeerVerifier {
    /// Believes whoever has a certificate of a known trust domain; with `peers`, only those.
    pub fn new(roots: Arc<Roots>, peers: Option<Arc<[SpiffeId]>>) -> Self {
        Self { roots, peers, required: true }
    }

    /// As a server, also lets in clients that show no certificate.
    #[must_use]
    pub fn optional(self) -> Self {
        Self { required: false, ..self }
    }
}

/// The identity in a certificate: its one URI subject alternative name.
///
/// Says nothing of whether the certificate is to be believed: call it on what a [`PeerVerifier`] let through.
pub fn peer_identity(certificate: &CertificateDer<'_>) -> Result<SpiffeId, VerifyError> {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| VerifyError::Malformed)?;
    let names = parsed.subject_alternative_name().map_err(|_| VerifyError::Malformed)?;
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    let mut uris = names.filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    // SPIFFE X.509-SVID, section 2: exactly one URI.
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(SpiffeId::parse(uri)?),
        (None, _) => Err(VerifyError::NoIdentity),
        (Some(_), Some(_)) => Err(VerifyError::SeveralIdentities),
    }
}

/// Why a peer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// The certificate cannot be read.
    #[error("the certificate is malformed")]
    Malformed,
    /// It names nobody.
    #[error("the certificate has no SPIFFE ID")]
    NoIdentity,
    /// It names several.
    #[error("the certificate has several URI names")]
    SeveralIdentities,
    /// What it names is no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Nobody vouches for its trust domain.
    #[error("no roots are known for trust domain {0}")]
    UnknownTrustDomain(TrustDomain),
    /// Its chain does not lead to a root of its trust domain, or is out of date.
    #[error("the chain of {id} is not valid: {reason}")]
    Chain {
        /// Whom it names.
        id: SpiffeId,
        /// What is wrong with it.
        reason: String,
    },
    /// It is somebody else.
    #[error("the peer is {found}, expected {expected}")]
    WrongPeer {
        /// Who it is.
        found: SpiffeId,
        /// Who it must be.
        expected: String,
    },
}
