//! `roots.pem` in the state directory: the roots for workloads' `--control-plane-ca`.
//!
//! The file outlives the store with the key. Replacing the root that workloads trust with an unknown one would lock all of
//! them out, so the control plane refuses to start instead, with an error that says what to do.

use std::path::PathBuf;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::service::pem;
use crate::state::StateError;
use crate::state::directory::replace;

/// The content of the file at start-up.
#[derive(Debug)]
pub(crate) struct KnownRoots {
    path: PathBuf,
    text: Vec<u8>,
}

impl KnownRoots {
    /// Reads the file. A missing file is like an empty one.
    pub(crate) fn read(path: PathBuf) -> Result<Self, StateError> {
        match std::fs::read(&path) {
            Ok(text) => Ok(Self { path, text }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self { path, text: Vec::new() }),
            Err(error) => Err(StateError::Io { path, error }),
        }
    }

    /// Returns an error if workloads already trust a root, whose key is then missing.
    pub(crate) fn allow_new(&self) -> Result<(), StateError> {
        match self.text.iter().all(u8::is_ascii_whitespace) {
            true => Ok(()),
            false => Err(StateError::RootsWithoutKey { roots: self.path.clone() }),
        }
    }

    /// Returns an error unless one of these roots is in the file, or the file has no certificate.
    pub(crate) fn allow(&self, roots: &[CertificateDer<'_>]) -> Result<(), StateError> {
        let known: Vec<_> = CertificateDer::pem_slice_iter(&self.text).filter_map(Result::ok).collect();
        match known.is_empty() || roots.iter().any(|root| known.contains(root)) {
            true => Ok(()),
            false => Err(StateError::OtherRoots { roots: self.path.clone() }),
        }
    }

    /// Writes the roots if they differ from the file, so that a normal start writes nothing.
    pub(crate) fn replace(&self, roots: &[CertificateDer<'_>]) -> Result<(), StateError> {
        let text: String = roots.iter().map(pem).collect();
        match self.text == text.as_bytes() {
            true => Ok(()),
            false => replace(&self.path, text.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use outrigger_core::identity::TrustDomain;

    use super::super::issuer::CertificateIssuer;
    use super::*;

    fn root() -> CertificateDer<'static> {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let record = CertificateIssuer::make_root(&domain, SystemTime::now()).unwrap();
        CertificateDer::from_pem_slice(record.chain.as_bytes()).unwrap()
    }

    #[test]
    fn a_new_root_never_replaces_a_trusted_one() {
        let directory = tempfile::tempdir().unwrap();
        let known = || KnownRoots::read(directory.path().join("roots.pem")).unwrap();
        let (old, new) = (root(), root());
        known().allow_new().unwrap();
        known().allow(std::slice::from_ref(&old)).unwrap();
        known().replace(std::slice::from_ref(&old)).unwrap();
        let refused = known().allow_new().unwrap_err().to_string();
        assert!(refused.contains("roots.pem") && refused.contains("start afresh"), "{refused}");
        let refused = known().allow(std::slice::from_ref(&new)).unwrap_err().to_string();
        assert!(refused.contains("another root") && refused.contains("start afresh"), "{refused}");
        known().allow(&[new, old.clone()]).unwrap();
        std::fs::write(directory.path().join("roots.pem"), "no certificate").unwrap();
        known().allow(&[old]).unwrap();
        known().allow_new().unwrap_err();
    }
}
