//! The identity of this workload and its trust bundles: one consistent view, replaced as a whole on renewal and on a change of
//! bundle.

use std::fmt;
use std::sync::Arc;

use outrigger_config::secrets::Roots;
use outrigger_core::identity::SpiffeId;
use rustls::sign::CertifiedKey;

/// The workload's certificate, key and trust bundles.
#[derive(Clone)]
pub(crate) struct Credentials {
    /// The identity that the certificate carries.
    pub identity: SpiffeId,
    /// The chain, leaf first, and its private key.
    pub certified: Arc<CertifiedKey>,
    /// The roots that may certify identities. Sessions are resumed only within one generation of them.
    pub roots: Arc<Roots>,
}

impl Credentials {
    /// Returns whether both are of the same certificate and the same roots.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.certified, &other.certified) && self.roots.generation == other.roots.generation
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .field("roots", &self.roots.generation)
            .finish_non_exhaustive()
    }
}
