//! Who this workload is and whom it trusts: one consistent view, replaced whole on renewal and on a change of bundle.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use outrigger_core::identity::{SpiffeId, TrustDomain};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;

/// The workload's certificate, key and trust bundles.
#[derive(Clone)]
pub struct Credentials {
    /// The identity that the certificate carries.
    pub identity: SpiffeId,
    /// The chain, leaf first, and its private key.
    pub certified: Arc<CertifiedKey>,
    /// The roots that may vouch for identities, each for those of its own trust domain alone.
    pub roots: Arc<BTreeMap<TrustDomain, Arc<RootCertStore>>>,
    /// Changes when any root does: sessions are resumed within one bundle only.
    pub bundle_generation: u64,
}

impl Credentials {
    /// Whether both are of the same certificate and the same roots.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.certified, &other.certified) && self.bundle_generation == other.bundle_generation
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .field("bundle_generation", &self.bundle_generation)
            .finish_non_exhaustive()
    }
}
