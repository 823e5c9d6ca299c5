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
    /// Counts every change of certificate or roots. Configurations, and with them sessions, are of one generation.
    pub generation: u64,
    /// Counts changes of `roots` alone, for whoever reports them.
    pub bundle_generation: u64,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .field("generation", &self.generation)
            .field("bundle_generation", &self.bundle_generation)
            .finish_non_exhaustive()
    }
}
