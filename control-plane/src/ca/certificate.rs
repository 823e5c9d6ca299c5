//! Reading certificates: the identity and the life of a leaf that TLS has already verified.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_core::identity::SpiffeId;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a certificate is no workload's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Not X.509.
    #[error("the certificate cannot be read: {0}")]
    Malformed(String),
    /// X509-SVID, section 2: exactly one URI SAN.
    #[error("the certificate has {0} URI names, not one")]
    UriNames(usize),
    /// The URI is no identity of ours.
    #[error("{0}")]
    Identity(String),
}

/// Who a verified leaf is and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafCertificate {
    /// Its only URI SAN.
    pub identity: SpiffeId,
    /// Its last second.
    pub not_after: SystemTime,
}

impl LeafCertificate {
    /// Reads a leaf. Verifies no signature: TLS did.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let malformed = |error: &dyn std::fmt::Display| CertificateError::Malformed(error.to_string());
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| malformed(&error))?;
        let names = certificate.subject_alternative_name().map_err(|error| malformed(&error))?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .collect();
        let &[uri] = uris.as_slice() else { return Err(CertificateError::UriNames(uris.len())) };
        let identity = SpiffeId::parse(uri).map_err(|error| CertificateError::Identity(error.to_string()))?;
        Ok(Self { identity, not_after: time(certificate.validity().not_after.timestamp()) })
    }
}

/// A certificate's time, seconds since the Unix epoch; what lies before it is the epoch.
pub(super) fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
