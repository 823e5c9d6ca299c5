//! Trust: the operator's roots, and the verification of the control plane under them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_config::secrets;
use outrigger_config::verify::PeerVerifier;
use outrigger_core::identity::{SpiffeId, TrustDomain};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use thiserror::Error;

/// Trust roots: at least one certificate.
#[derive(Debug)]
pub(crate) struct Roots {
    /// The content of the file.
    pem: Vec<u8>,
    certificates: Vec<CertificateDer<'static>>,
    store: RootCertStore,
}

impl Roots {
    /// Reads a PEM file of one or more CA certificates. Each must be usable: a root that is skipped silently would be noticed only
    /// when it is needed.
    pub(crate) fn from_file(path: &Path) -> Result<Self, RootsError> {
        let pem = std::fs::read(path).map_err(|error| RootsError::new(path, error))?;
        Self::from_pem(path, pem)
    }

    /// Rereads the file. Returns None if its bytes have not changed.
    pub(crate) fn changed(&self, path: &Path) -> Result<Option<Self>, RootsError> {
        let pem = std::fs::read(path).map_err(|error| RootsError::new(path, error))?;
        if pem == self.pem { Ok(None) } else { Self::from_pem(path, pem).map(Some) }
    }

    fn from_pem(path: &Path, pem: Vec<u8>) -> Result<Self, RootsError> {
        let refuse = |reason: String| RootsError::new(path, reason);
        let certificates = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| refuse(error.to_string()))?;
        if certificates.is_empty() {
            return Err(refuse("holds no certificate".into()));
        }
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            store.add(certificate.clone()).map_err(|error| refuse(error.to_string()))?;
        }
        Ok(Self { pem, certificates, store })
    }

    /// Returns the certificates in the file's order.
    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Returns a verifier that accepts this peer only. The name that was dialled is ignored.
    pub(crate) fn verifier(&self, peer: SpiffeId) -> PeerVerifier {
        let roots = Arc::new(self.of_domain(peer.trust_domain().clone(), 0));
        PeerVerifier::new(roots, Some(Arc::new([peer])))
    }

    /// Returns the roots as those of one trust domain, since operators' roots vouch for that domain only.
    pub(crate) fn of_domain(&self, domain: TrustDomain, generation: u64) -> secrets::Roots {
        let by_domain = [(domain, Arc::new(self.store.clone()))].into_iter().collect();
        secrets::Roots { generation, by_domain }
    }

    /// Verifies that a chain, leaf first, leads to one of the roots at `now`.
    pub(crate) fn verify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), Error> {
        let [leaf, intermediates @ ..] = chain else { return Err(CertificateError::BadEncoding.into()) };
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &self.store,
            intermediates,
            UnixTime::since_unix_epoch(since),
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all,
        )
    }
}

/// Why a file of roots cannot be used.
#[derive(Debug, Error)]
#[error("trust roots {path:?}: {reason}")]
pub struct RootsError {
    path: PathBuf,
    reason: String,
}

impl RootsError {
    fn new(path: &Path, reason: impl ToString) -> Self {
        Self { path: path.into(), reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};

    use super::*;
    use crate::testing::{CONTROL_PLANE, Ca};

    fn verifier(ca: &Ca, identity: &str) -> PeerVerifier {
        Roots::from_file(ca.roots_file()).unwrap().verifier(SpiffeId::parse(identity).unwrap())
    }

    fn judge(verifier: &PeerVerifier, leaf: &CertificateDer<'_>) -> Result<ServerCertVerified, Error> {
        verifier.verify_server_cert(leaf, &[], &"x".try_into().unwrap(), &[], UnixTime::now())
    }

    #[test]
    fn only_the_control_planes_own_identity_under_our_roots_passes() {
        let (ca, foreign) = (Ca::new(), Ca::new());
        let (leaf, _) = ca.server(CONTROL_PLANE);
        assert!(judge(&verifier(&ca, CONTROL_PLANE), &leaf).is_ok());
        assert!(judge(&verifier(&foreign, CONTROL_PLANE), &leaf).is_err(), "another CA's");
        let (workload, _) = ca.server("spiffe://cluster.local/ns/shop/sa/cart");
        assert!(judge(&verifier(&ca, CONTROL_PLANE), &workload).is_err(), "a workload's certificate");
    }

    #[test]
    fn a_file_without_a_usable_root_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Roots::from_file(file.path()).unwrap_err().to_string();
        assert!(error.contains(file.path().to_str().unwrap()), "{error}");
        assert!(Roots::from_file(Path::new("/nonexistent/roots.pem")).is_err());
    }
}
