//! Spans: exports the records of sampled requests as OTLP over gRPC, off the data path.
//!
//! Workers send records into a bounded channel. [`SpanExport::run`], on the control thread, converts them to spans and exports
//! them in batches of [`BATCH`] or after [`BATCH_DELAY`], whichever comes first, one export at a time. While a collector is
//! unreachable the channel fills and workers drop records, which are counted; nothing else is affected. The exporter ends when
//! all workers are gone and the last batch is sent.

mod convert;
pub(crate) mod settings;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use outrigger_core::record::RequestRecord;
use tokio::sync::mpsc::{self, error::TryRecvError};
use tokio::time::Instant;

use self::convert::spans_of;
use self::settings::Export;
use super::local_identity::LocalIdentity;
use super::losses::Losses;
use crate::error::Error;

/// Spans per export; also OpenTelemetry's default (OTEL_BSP_MAX_EXPORT_BATCH_SIZE).
const BATCH: usize = 512;

/// Maximum time that spans wait for a batch.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// How often the channel is polled while spans gather, so that a busy proxy does not wake this task for each record.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Capacity of the channel: 20,000 requests a second for two polls.
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

/// Creates the channel and its exporter, which connects on the first batch. Call it inside the control runtime.
pub(crate) fn exporter(
    export: Export,
    identity: LocalIdentity,
    losses: Arc<Losses>,
) -> Result<(mpsc::Sender<Arc<RequestRecord>>, SpanExport), Error> {
    let mut builder = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&export.endpoint)
        .with_timeout(export.timeout)
        // Retry a batch only once, because later batches are worth as much.
        .with_retry_policy(RetryPolicy::recommended().with_max_retries(1));
    if let Some(tls) = &export.tls {
        builder = builder.with_tls_config(tls.config());
    }
    let exporter = builder
        .build()
        .map_err(|error| Error::Environment { variable: export.variable, problem: error.to_string() })?;
    let (sender, records) = mpsc::channel(QUEUE);
    Ok((sender, SpanExport { records, exporter, export, identity, losses }))
}

impl SpanExport {
    /// Exports until every sender is dropped.
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

    /// Returns the next batch, or None when every sender is dropped and nothing is left. Cancel-safe only between batches.
    async fn gather(&mut self) -> Option<Vec<SpanData>> {
        let mut batch = Vec::with_capacity(BATCH);
        while batch.is_empty() {
            let first = self.records.recv().await?;
            spans_of(&first, self.identity.get().as_ref(), &mut batch);
        }
        let deadline = Instant::now() + BATCH_DELAY;
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
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn send(&self, batch: Vec<SpanData>) -> Result<(), String> {
        // The exporter bounds each attempt; this bounds all of them, including connecting.
        let limit = self.export.timeout;
        match tokio::time::timeout(limit, self.exporter.export(batch)).await {
            Ok(exported) => exported.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no response within {limit:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
        TraceService, TraceServiceServer,
    };
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
    };
    use outrigger_core::identity::SpiffeId;
    use tokio_stream::wrappers::TcpListenerStream;

    use super::settings::Settings;
    use super::*;
    use crate::telemetry::access_log::entry::tests::record;

    #[derive(Clone, Default)]
    struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(
            &self,
            request: tonic::Request<ExportTraceServiceRequest>,
        ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
            self.0.lock().unwrap().push(request.into_inner());
            Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
        }
    }

    fn export_to(endpoint: &str) -> Export {
        export_verified(endpoint, None)
    }

    fn export_verified(endpoint: &str, roots: Option<&std::path::Path>) -> Export {
        let variable = |name: &str| match name {
            "OTEL_EXPORTER_OTLP_CERTIFICATE" => roots.map(|path| path.display().to_string()),
            "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(endpoint.to_owned()),
            "OTEL_EXPORTER_OTLP_TIMEOUT" => Some("2000".to_owned()),
            _ => None,
        };
        Settings::read(variable, None, Some("web"), "web-1").unwrap().export.unwrap()
    }

    #[tokio::test]
    async fn spans_reach_a_collector_with_their_resource() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let collector = Collector::default();
        let service = TraceServiceServer::new(collector.clone());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        let losses = Arc::new(Losses::default());
        let identity = LocalIdentity::new(|| SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").ok());
        let (sender, export) = exporter(export_to(&endpoint), identity, Arc::clone(&losses)).unwrap();
        sender.try_send(Arc::new(record())).unwrap();
        drop(sender);
        export.run().await;
        assert_eq!((losses.counts().spans_exported, losses.counts().spans_lost), (3, 0));
        let requests = collector.0.lock().unwrap();
        let resource = requests[0].resource_spans[0].resource.as_ref().unwrap();
        let mut keys: Vec<_> = resource.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
        keys.sort_unstable();
        assert!(keys.contains(&"service.name") && keys.contains(&"service.namespace"), "{keys:?}");
        let spans = &requests[0].resource_spans[0].scope_spans[0].spans;
        assert_eq!(spans.len(), 3);
        assert_eq!(spans[1].parent_span_id, spans[0].span_id);
    }

    #[tokio::test]
    async fn an_https_collector_is_verified_by_the_configured_roots_only() {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let shown = tonic::transport::Identity::from_pem(own.cert.pem(), own.signing_key.serialize_pem());
        let collector = Collector::default();
        tokio::spawn(
            tonic::transport::Server::builder()
                .tls_config(tonic::transport::ServerTlsConfig::new().identity(shown))
                .unwrap()
                .add_service(TraceServiceServer::new(collector.clone()))
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        let roots = tempfile::NamedTempFile::new().unwrap();
        for (root, taken) in [(own.cert.pem(), 3), (other.cert.pem(), 0)] {
            std::fs::write(roots.path(), root).unwrap();
            let losses = Arc::new(Losses::default());
            let export = export_verified(&endpoint, Some(roots.path()));
            let (sender, export) =
                exporter(export, LocalIdentity::new(|| None), Arc::clone(&losses)).unwrap();
            sender.try_send(Arc::new(record())).unwrap();
            drop(sender);
            export.run().await;
            assert_eq!((losses.counts().spans_exported, losses.counts().spans_lost), (taken, 3 - taken));
        }
    }

    #[tokio::test]
    async fn a_dead_collector_costs_counted_spans_and_nothing_else() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let losses = Arc::new(Losses::default());
        let export = export_to(&format!("http://{closed}"));
        let (sender, export) = exporter(export, LocalIdentity::new(|| None), Arc::clone(&losses)).unwrap();
        let refused = (0..QUEUE + 10).filter(|_| sender.try_send(Arc::new(record())).is_err()).count();
        assert_eq!(refused, 10, "a full queue refuses at once");
        // The receivers of a stopped exporter count their losses; one batch is enough to observe it.
        let run = tokio::time::timeout(Duration::from_secs(5), export.run());
        drop(sender);
        let _ = run.await;
        assert!(losses.counts().spans_lost >= BATCH as u64);
        assert_eq!(losses.counts().spans_exported, 0);
    }
}
