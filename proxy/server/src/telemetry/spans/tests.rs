use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use outrigger_core::identity::SpiffeId;
use tokio_stream::wrappers::TcpListenerStream;

use super::*;
use crate::telemetry::access_log::entry::tests::record;
use crate::telemetry::losses::Losses;
use crate::telemetry::otlp::environment::Environment;
use crate::telemetry::otlp::settings::Settings;

/// The server of tonic, independent of our client.
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
    let environment = Environment::new([("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint)]);
    let Settings { workload, traces, .. } = Settings::read(&environment, None, Some("web"), "web-1").unwrap();
    let (destination, batching) = traces.unwrap();
    let losses = Arc::new(Losses::default());
    let identity = LocalIdentity::new(|| SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").ok());
    let (sender, batches) = batching.queue();
    sender.try_send(Arc::new(record())).unwrap();
    drop(sender);
    run(batches, Exporter::new(destination, Arc::clone(&losses)), workload, identity).await;
    assert_eq!((losses.counts().spans_exported, losses.counts().spans_lost), (2, 0));
    let requests = collector.0.lock().unwrap();
    let resource = requests[0].resource_spans[0].resource.as_ref().unwrap();
    let keys: Vec<_> = resource.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert!(keys.contains(&"service.name") && keys.contains(&"service.namespace"), "{keys:?}");
    let spans = &requests[0].resource_spans[0].scope_spans[0].spans;
    assert_eq!(spans.len(), 2);
}
