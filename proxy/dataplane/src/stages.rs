//! What the benches of single stages (`benches/stages.rs`) call: a pick of a balancer, the record of a request, and the field sections of
//! HTTP/2.

use std::sync::Arc;

use outrigger_core::record::RequestRecord;

pub use crate::codec::FieldSections;
pub use crate::upstream::Picks;

use crate::metrics::Registry;
use crate::record::{Recorder, Sinks};

/// Takes the records of finished requests as one worker does.
pub struct Records {
    recorder: Recorder,
    registry: Arc<Registry>,
}

impl Records {
    /// Counts, and sends to `sinks` what they take.
    pub fn new(sinks: Sinks) -> Self {
        let registry = Registry::new();
        Self { recorder: Recorder::new(registry.worker(), sinks), registry }
    }

    /// Takes one record.
    pub fn finish(&self, record: RequestRecord) {
        self.recorder.finish(record);
    }

    /// Returns how many requests were counted.
    pub fn counted(&self) -> u64 {
        self.registry.totals().responses.values().sum()
    }
}
