//! This workload's own identity, as spans and metrics name it.

use std::sync::Arc;

use outrigger_core::identity::SpiffeId;

/// This workload's own identity, known once the first certificate is there. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LocalIdentity(Arc<dyn Fn() -> Option<SpiffeId> + Send + Sync>);

impl LocalIdentity {
    /// Asks `source` each time, so that a renewed certificate's identity is seen.
    pub(crate) fn new(source: impl Fn() -> Option<SpiffeId> + Send + Sync + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// The identity, now.
    pub(crate) fn get(&self) -> Option<SpiffeId> {
        (self.0)()
    }
}

impl std::fmt::Debug for LocalIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LocalIdentity").field(&self.get()).finish()
    }
}
