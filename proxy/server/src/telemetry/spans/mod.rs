//! Spans: from records of sampled requests to OTLP over gRPC, off the data path.
//!
//! Workers put records into a bounded channel; [`SpanExport::run`], on the control thread, makes spans of them and
//! exports them in batches of [`BATCH`] or after [`GATHER`], whichever comes first, one export at a time. While a
//! collector is away the channel fills, and then workers drop records: a dead collector costs dropped spans, which are
//! counted, and nothing else. It ends when every worker is gone and the last batch is out.

pub(crate) mod convert;
mod attributes;
pub(crate) mod settings;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use outrigger_core::record::RequestRecord;
use tokio::sync::mpsc::{self, error::TryRecvError};
use tokio::time::Instant;

use self::convert::{LocalIdentity, spans_of};
use self::settings::Export;
use super::losses::Losses;
use crate::error::Error;

/// Spans in one export; also OpenTelemetry's default (OTEL_BSP_MAX_EXPORT_BATCH_SIZE).
const BATCH: usize = 512;

/// How long spans gather before they are exported.
const GATHER: Duration = Duration::from_secs(1);

/// How often the channel is looked into while spans gather, so that a busy proxy does not wake this task for each.
const LOOK: Duration = Duration::from_millis(50);

/// Records that may wait: what 20,000 requests a second make in two looks.
const QUEUE: usize = 2048;

/// The exporting end of the span channel.
#[derive(Debug)]
pub(crate) struct SpanExport {
    records: mpsc::Receiver<Arc<RequestRecord>>,
    exporter: SpanExporter,
    export: Export,
    identity: LocalIdentity,
    losses: Arc<Losses>,
}

/// Makes the channel and its exporter. Connects when the first batch is there. Call it inside the control runtime.
pub(crate) fn exporter(
    export: Export,
    identity: LocalIdentity,
    losses: Arc<Losses>,
) -> Result<(mpsc::Sender<Arc<RequestRecord>>, SpanExport), Error> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&export.endpoint)
        .with_timeout(export.timeout)
        // A batch is tried again once; what comes behind it is worth as much.
        .with_retry_policy(RetryPolicy::recommended().with_max_retries(1))
        .build()
        .map_err(|error| Error::Environment { variable: export.variable, problem: error.to_string() })?;
    let (sender, records) = mpsc::channel(QUEUE);
    Ok((sender, SpanExport { records, exporter, export, identity, losses }))
}

impl SpanExport {
    /// Exports until every sender is gone.
    pub(crate) async fn run(mut self) {
        self.exporter.set_resource(&self.export.resource(None));
        let (mut identified, mut failing) = (false, false);
        while let Some(batch) = self.gather().await {
            if !identified && let Some(identity) = self.identity.get() {
                self.exporter.set_resource(&self.export.resource(Some(&identity)));
                identified = true;
            }
            let count = batch.len() as u64;
            let outcome = self.send(batch).await;
            self.losses.spans(outcome.is_ok(), count);
            let endpoint = &self.export.endpoint;
            match &outcome {
                Err(problem) if !failing => tracing::warn!(endpoint, problem, "spans are being dropped"),
                Ok(()) if failing => tracing::info!(endpoint, "spans are exported again"),
                Ok(()) | Err(_) => {}
            }
            failing = outcome.is_err();
        }
    }

    /// The next batch; `None` when every sender is gone and nothing is left. Cancel-safe only between batches.
    async fn gather(&mut self) -> Option<Vec<SpanData>> {
        let mut batch = Vec::with_capacity(BATCH);
        while batch.is_empty() {
            let first = self.records.recv().await?;
            spans_of(&first, self.identity.get().as_ref(), &mut batch);
        }
        let deadline = Instant::now() + GATHER;
        loop {
            let local = self.identity.get();
            while batch.len() < BATCH {
                match self.records.try_recv() {
                    Ok(record) => spans_of(&record, local.as_ref(), &mut batch),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Some(batch),
                }
            }
            if batch.len() >= BATCH || Instant::now() >= deadline {
                return Some(batch);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn send(&self, batch: Vec<SpanData>) -> Result<(), String> {
        // The exporter bounds each of its tries; this bounds all of them, connecting included.
        let limit = self.export.timeout;
        match tokio::time::timeout(limit, self.exporter.export(batch)).await {
            Ok(exported) => exported.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    }
}
