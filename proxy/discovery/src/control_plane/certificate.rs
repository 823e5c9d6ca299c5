//! The workload's key pair, the certificate signing request, and the issued certificate.
//!
//! A [`Certificate`] matches the key it was read with, names exactly one SPIFFE ID, and was issued by one of the roots. The
//! private key is ECDSA P-256, generated here, and leaves this module only to rustls and the state directory.

use std::time::{Duration, SystemTime};

use outrigger_config::verify::{VerifyError, peer_identity};
use outrigger_core::identity::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// Maximum size of a PEM chain.
const CHAIN_BYTES: usize = 256 * 1024;

/// The workload's key pair.
pub(crate) struct Key(KeyPair);

impl Key {
    /// Generates a new pair.
    pub(crate) fn generate() -> Result<Self, CertificateError> {
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map(Self).map_err(CertificateError::Key)
    }

    /// Reads a PKCS #8 private key in PEM.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let pem = std::str::from_utf8(pem).map_err(|_| CertificateError::Pem)?;
        KeyPair::from_pem(pem).map(Self).map_err(CertificateError::Key)
    }

    /// Returns PKCS #8 in PEM. For the state directory only.
    pub(crate) fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// Returns the key for rustls.
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }

    /// Returns a signing request without a name: the issuer derives the identity from the token or the client certificate.
    pub(crate) fn signing_request(&self) -> Result<String, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.0).map_err(CertificateError::Key)?;
        request.pem().map_err(CertificateError::Key)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// The workload's certificate with its intermediates, without the root.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    pub(crate) identity: SpiffeId,
    /// Leaf first; presented to peers.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Hexadecimal.
    pub(crate) serial: String,
}

impl Certificate {
    /// Parses a chain as in `IstioCertificateResponse.cert_chain`: PEM, leaf first, root last. Self-issued certificates at its
    /// end are dropped, because peers do not accept roots from the wire.
    pub(crate) fn from_pem(pem: &[u8], key: &Key) -> Result<Self, CertificateError> {
        if pem.len() > CHAIN_BYTES {
            return Err(CertificateError::Pem);
        }
        let mut chain = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| CertificateError::Pem)?;
        while chain.len() > 1 && chain.last().is_some_and(|last| is_self_issued(last)) {
            chain.pop();
        }
        let leaf = chain.first().ok_or(CertificateError::Empty)?;
        let (_, x509) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::Malformed)?;
        if x509.public_key().raw != key.0.subject_public_key_info() {
            return Err(CertificateError::OtherKey);
        }
        let identity = peer_identity(leaf)?;
        let validity = x509.validity();
        let (not_before, not_after) = (time(validity.not_before), time(validity.not_after));
        let serial = x509.raw_serial_as_string().replace(':', "");
        Ok(Self { identity, not_before, not_after, serial, chain })
    }

    /// Returns true if the certificate is valid at `now`.
    pub(crate) fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

fn is_self_issued(der: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, x509)| x509.issuer() == x509.subject())
}

fn time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Why a key or a certificate cannot be used.
#[derive(Debug, Error)]
pub(crate) enum CertificateError {
    #[error("not PEM, or more than {CHAIN_BYTES} bytes of it")]
    Pem,
    #[error("the chain holds no certificate")]
    Empty,
    #[error("the leaf is not an X.509 certificate")]
    Malformed,
    #[error("the certificate is for another key than the one that was sent")]
    OtherKey,
    #[error(transparent)]
    Identity(#[from] VerifyError),
    #[error(
        "the certificate has expired, or is not valid yet, by this machine's clock; compare it with the control plane's"
    )]
    NotValidNow,
    #[error("the certificate does not lead to a trusted root: {0}")]
    Untrusted(String),
    #[error("the key: {0}")]
    Key(rcgen::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ca;

    #[test]
    fn a_certificate_for_our_key_is_read_and_its_root_left_out() {
        let (ca, key) = (Ca::new(), Key::generate().unwrap());
        let pem = ca.issue(&key.signing_request().unwrap(), "spiffe://cluster.local/ns/shop/sa/cart");
        let certificate = Certificate::from_pem(pem.as_bytes(), &key).unwrap();
        assert_eq!(certificate.identity.service_account(), "cart");
        assert_eq!(certificate.chain.len(), 1);
        assert!(certificate.is_valid_at(SystemTime::now()));
        assert!(!certificate.is_valid_at(certificate.not_after));
    }

    #[test]
    fn a_certificate_for_another_key_or_name_is_refused() {
        let (ca, key) = (Ca::new(), Key::generate().unwrap());
        let read = |request: &Key, uri: &str| {
            Certificate::from_pem(ca.issue(&request.signing_request().unwrap(), uri).as_bytes(), &key)
        };
        let other = read(&Key::generate().unwrap(), "spiffe://cluster.local/ns/shop/sa/cart");
        assert!(matches!(other, Err(CertificateError::OtherKey)));
        assert!(matches!(read(&key, "spiffe://cluster.local/x"), Err(CertificateError::Identity(_))));
        assert!(matches!(Certificate::from_pem(b"", &key), Err(CertificateError::Empty)));
        assert!(matches!(
            Certificate::from_pem(b"-----BEGIN CERTIFICATE-----\n!", &key),
            Err(CertificateError::Pem)
        ));
    }

    #[test]
    fn a_key_survives_the_state_directory() {
        let key = Key::generate().unwrap();
        let again = Key::from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!(again.0.subject_public_key_info(), key.0.subject_public_key_info());
        assert!(Key::from_pem(b"nonsense").is_err());
    }
}
