//! This workload's identity, as used by spans and metrics.

use std::sync::Arc;

use outrigger_core::identity::SpiffeId;

/// This workload's identity, available once there is a certificate. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LocalIdentity(Arc<dyn Fn() -> Option<SpiffeId> + Send + Sync>);

impl LocalIdentity {
    /// Reads `source` on each call, so that a renewed certificate is seen.
    pub(crate) fn new(source: impl Fn() -> Option<SpiffeId> + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// Returns the current identity.
    pub(crate) fn get(&self) -> Option<SpiffeId> {
        (self.0)()
    }
}

impl std::fmt::Debug for LocalIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LocalIdentity").field(&self.get()).finish()
    }
}
