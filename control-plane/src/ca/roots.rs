//! `roots.pem` in the state directory: the roots that workloads were told to trust, for their `--control-plane-ca`.
//!
//! It outlives the store that has the key. A root that nobody was told of locks every workload out that trusts the old
//! one, and so none is put in its place by accident: the control plane does not start, and says what to do.

use std::path::PathBuf;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::service::pem;
use crate::state::StateError;
use crate::state::directory::replace;

/// What the file said at start.
#[derive(Debug)]
pub(crate) struct KnownRoots {
    path: PathBuf,
    text: Vec<u8>,
}

impl KnownRoots {
    /// Reads the file; nothing is known where there is none, or an empty one.
    pub(crate) fn read(path: PathBuf) -> Result<Self, StateError> {
        match std::fs::read(&path) {
            Ok(text) => Ok(Self { path, text }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self { path, text: Vec::new() }),
            Err(error) => Err(StateError::Io { path, error }),
        }
    }

    /// Whether a root may be made. Not where workloads trust one already whose key is gone.
    pub(crate) fn allow_new(&self) -> Result<(), StateError> {
        match self.text.iter().all(u8::is_ascii_whitespace) {
            true => Ok(()),
            false => Err(StateError::RootsWithoutKey { roots: self.path.clone() }),
        }
    }

    /// Whether these may take the place of the known ones: one of them is among those. A file without any certificate
    /// tells nobody whom to trust.
    pub(crate) fn allow(&self, roots: &[CertificateDer<'_>]) -> Result<(), StateError> {
        let known: Vec<_> = CertificateDer::pem_slice_iter(&self.text).filter_map(Result::ok).collect();
        match known.is_empty() || roots.iter().any(|root| known.contains(root)) {
            true => Ok(()),
            false => Err(StateError::OtherRoots { roots: self.path.clone() }),
        }
    }

    /// Writes the roots of now, if the file says otherwise: a start needs no space on the disk.
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
    fn a_root_takes_the_place_of_none_that_workloads_trust() {
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
