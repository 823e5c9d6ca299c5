//! Reads and writes certificate fields: the identity and validity of a leaf that TLS has verified, and the serial number
//! and validity of a new certificate.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_core::identity::SpiffeId;
use rcgen::{CertificateParams, SerialNumber};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a certificate is not a workload's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Not X.509.
    #[error("the certificate cannot be read: {0}")]
    Malformed(String),
    /// X509-SVID, section 2: exactly one URI SAN.
    #[error("the certificate has {0} URI names, not one")]
    UriNames(usize),
    /// The URI is not a valid identity.
    #[error("{0}")]
    Identity(String),
}

/// The identity and validity of a verified leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafCertificate {
    /// Its only URI SAN.
    pub identity: SpiffeId,
    /// The end of validity.
    pub not_after: SystemTime,
}

impl LeafCertificate {
    /// Reads a leaf certificate. TLS has verified its signature.
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

/// Converts a certificate's time, in seconds since the Unix epoch. Earlier times become the epoch.
pub(super) fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Returns a random serial number of 127 bits: serial numbers are positive and have at most 20 bytes (RFC 5280, section
/// 4.1.2.2).
pub(super) fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; 16];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| rcgen::Error::RemoteKeyError)?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from(bytes.to_vec()))
}

/// Sets the validity of a certificate, in whole seconds.
pub(super) fn set_validity(params: &mut CertificateParams, begin: SystemTime, end: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    params.not_before = epoch + Duration::from_secs(since(begin));
    params.not_after = epoch + Duration::from_secs(since(end));
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, SanType};

    use super::*;

    #[test]
    fn a_workloads_certificate_has_exactly_one_identity() {
        let uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
        let cart = "spiffe://cluster.local/ns/shop/sa/cart";
        let read = |names: &[SanType]| {
            let mut params = CertificateParams::default();
            params.subject_alt_names = names.to_vec();
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            LeafCertificate::read(certificate.der())
        };
        assert_eq!(read(&[uri(cart)]).unwrap().identity.as_str(), cart);
        assert_eq!(read(&[]), Err(CertificateError::UriNames(0)));
        assert_eq!(read(&[SanType::DnsName("cart".try_into().unwrap())]), Err(CertificateError::UriNames(0)));
        assert_eq!(read(&[uri(cart), uri(cart)]), Err(CertificateError::UriNames(2)));
        assert!(matches!(read(&[uri("https://cart")]), Err(CertificateError::Identity(_))));
        let junk = CertificateDer::from(b"junk".as_slice());
        assert!(matches!(LeafCertificate::read(&junk), Err(CertificateError::Malformed(_))));
    }
}
