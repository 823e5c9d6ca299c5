//! A collector that accepts spans over OTLP/gRPC and counts them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tonic::transport::{Server, server::TcpIncoming};
use tonic::{Request, Response, Status};

/// A collector without new spans for this long has them all: an exporter sends after a second at most.
const QUIET: Duration = Duration::from_secs(3);

/// The running collector. It serves until the program ends.
pub(crate) struct SpanSink {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    spans: Arc<AtomicUsize>,
}

impl SpanSink {
    /// Listens on a free port of loopback.
    pub(crate) async fn start() -> Result<Self, String> {
        let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into())
            .map_err(|error| format!("cannot listen for spans: {error}"))?;
        let address = incoming.local_addr().map_err(|error| error.to_string())?;
        let spans = Arc::new(AtomicUsize::new(0));
        let service = TraceServiceServer::new(Counter(Arc::clone(&spans)));
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Ok(Self { address, spans })
    }

    /// Returns how many spans have arrived.
    pub(crate) fn spans(&self) -> usize {
        self.spans.load(Ordering::Relaxed)
    }

    /// Waits until no more spans arrive.
    pub(crate) async fn settle(&self) {
        let mut seen = None;
        while seen != Some(self.spans()) {
            seen = Some(self.spans());
            tokio::time::sleep(QUIET).await;
        }
    }
}

struct Counter(Arc<AtomicUsize>);

#[tonic::async_trait]
impl TraceService for Counter {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources.flat_map(|resource| resource.scope_spans).map(|scope| scope.spans.len()).sum();
        self.0.fetch_add(spans, Ordering::Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
