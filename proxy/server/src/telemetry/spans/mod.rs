//! Spans: exports the records of sampled requests by OTLP, off the data path.
//!
//! Workers send records into a bounded queue. [`run`], on the control thread, converts them to spans and exports them in
//! batches. While a collector is unreachable the queue fills and workers drop records, which are counted; nothing else is
//! affected.

mod convert;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use opentelemetry_sdk::trace::SpanData;

use self::convert::spans_of;
use super::local_identity::LocalIdentity;
use super::otlp::batches::Batches;
use super::otlp::exporter::Exporter;
use super::otlp::resource::{Workload, scope};

/// Exports until every sender of the queue is dropped and the last batch is sent.
pub(crate) async fn run(
    mut batches: Batches,
    mut exporter: Exporter,
    workload: Workload,
    identity: LocalIdentity,
) {
    while let Some(spans) =
        batches.next(|record, spans| spans_of(record, identity.get().as_ref(), spans)).await
    {
        let count = spans.len() as u64;
        exporter.export(&request(spans, workload.resource(identity.get().as_ref())), count).await;
    }
}

fn request(spans: Vec<SpanData>, resource: Resource) -> ExportTraceServiceRequest {
    let spans = spans.into_iter().map(Span::from).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }];
    let resource_spans = ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

#[cfg(test)]
mod tests;
