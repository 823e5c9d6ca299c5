//! Spans: exports the records of sampled requests by OTLP, off the data path.
//!
//! Workers send records into a bounded queue. [`run`], on the control thread, converts them to spans and exports them in
//! batches. While a collector is unreachable the queue fills and workers drop records, which are counted; nothing else is
//! affected.

mod convert;
mod encode;

use self::convert::spans_of;
use self::encode::EncodedSpans;
use super::local_identity::LocalIdentity;
use super::otlp::batches::{Batches, Gathered as _};
use super::otlp::exporter::Exporter;
use super::otlp::exports::Exports;
use super::otlp::resource::Workload;

/// Exports until every sender of the queue is dropped and the last batch is sent.
pub(crate) async fn run(
    mut batches: Batches,
    exporter: Exporter,
    workload: Workload,
    identity: LocalIdentity,
) {
    let mut exports = Exports::new(exporter);
    let convert = |record: &_, spans: &mut EncodedSpans| spans_of(record, identity.get().as_ref(), spans);
    while let Some(spans) = batches.next(convert).await {
        let request = spans.request(workload.resource(identity.get().as_ref()));
        exports.start(request, spans.items() as u64).await;
    }
    exports.finish().await;
}

#[cfg(test)]
mod tests;
