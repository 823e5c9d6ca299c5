//! The ADS service: accepts streams, and ends them.
//!
//! The control plane creates one [`Server`], publishes every version of the mesh to it, and passes [`Server::service`] to
//! tonic. A stream ends when its client disconnects or violates the protocol, when the client's certificate expires, or
//! when the server closes. Its state is dropped then.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_core::identity::SpiffeId;
use outrigger_proto::xds::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use outrigger_proto::xds::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::hub::Hub;
use super::status::{ClientFacts, Rejection, StreamStatus};
use super::stream::{Responses, Stream};
use super::workers::Workers;
use super::{lock, node, unserved};
use crate::metrics::Metrics;
use crate::model::mesh::Mesh;
use crate::model::registration::WorkloadKey;
use crate::peer::{PeerIdentity, expired, until, verified};
use crate::quota::Slots;
use crate::translate::resource::Kind;
use crate::translate::scope::MeshSettings;

/// Time within which the first message must arrive. It identifies the client.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(15);
/// Capacity of the queue between a stream's task and its connection. The protocol allows one outstanding response of each
/// type, so the queue never fills.
const RESPONSE_QUEUE: usize = Kind::ALL.len() + unserved::MAX_TYPES + 1;
/// Maximum size of a request. A client that reconnects lists the versions of all its resources: about 100 bytes each.
const MAX_REQUEST_BYTES: usize = 32 << 20;
/// Maximum number of rejections that are returned at once.
const MAX_REJECTIONS: usize = 10_000;
/// Maximum number of streams of one identity, over all its instances.
const STREAMS_PER_IDENTITY: usize = 1024;
/// Maximum number of streams of one instance. It has one, and a few broken ones that are not detected yet.
const STREAMS_PER_INSTANCE: usize = 8;

/// The xDS server. Clones share their state.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hub: Arc<Hub>,
    workers: Workers,
    /// The open streams by ID.
    streams: Mutex<HashMap<u64, Arc<Stream>>>,
    per_identity: Slots<SpiffeId>,
    per_instance: Slots<WorkloadKey>,
    metrics: Arc<Metrics>,
    closing: watch::Sender<bool>,
}

impl Server {
    /// Creates a server. Streams are accepted and wait until the first [`publish`](Self::publish).
    pub(crate) fn new(settings: MeshSettings, metrics: Arc<Metrics>) -> Self {
        let shared = Shared {
            hub: Arc::new(Hub::new(settings)),
            workers: Workers::new(),
            streams: Mutex::default(),
            per_identity: Slots::new(STREAMS_PER_IDENTITY),
            per_instance: Slots::new(STREAMS_PER_INSTANCE),
            metrics,
            closing: watch::Sender::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Publishes a version of the mesh. The first one must be complete: all sources have synced.
    pub(crate) fn publish(&self, mesh: Arc<Mesh>) {
        self.shared.hub.publish(mesh);
    }

    /// Returns the gRPC service. Requests without a [`PeerIdentity`] are refused.
    pub(crate) fn service(&self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    /// Returns true once a mesh was published.
    pub(crate) fn is_ready(&self) -> bool {
        self.shared.hub.catalog.is_ready()
    }

    /// Returns the status of all streams, sorted by node. It may wait for translations, so it must not run on the
    /// runtime's thread.
    pub(crate) fn status(&self) -> Vec<StreamStatus> {
        let mut all: Vec<_> = self.streams().iter().filter_map(|stream| stream.status()).collect();
        all.sort_by(|a, b| (&a.node, &a.since).cmp(&(&b.node, &b.since)));
        all
    }

    /// Returns what connected proxies reject, at most [`MAX_REJECTIONS`]. It may wait for translations, so it must not run on the
    /// runtime's thread.
    pub(crate) fn rejections(&self) -> Vec<Rejection> {
        let rejecting = self.streams().into_iter().filter(|stream| stream.refused() > 0);
        rejecting.flat_map(|stream| stream.rejections()).take(MAX_REJECTIONS).collect()
    }

    /// Counts streams and proxies for `/metrics`.
    pub(crate) fn count(&self) -> StreamCounts {
        let streams = self.streams();
        let proxies: HashSet<_> = streams.iter().map(|stream| &stream.viewer.workload).collect();
        let refused = streams.iter().map(|stream| stream.refused()).sum();
        StreamCounts { streams: streams.len(), proxies: proxies.len(), refused }
    }

    /// Ends all streams, so that the proxies reconnect, possibly to another server.
    pub(crate) fn close(&self) {
        self.shared.closing.send_replace(true);
    }

    fn streams(&self) -> Vec<Arc<Stream>> {
        lock(&self.shared.streams).values().cloned().collect()
    }
}

/// Numbers of open streams and connected proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamCounts {
    /// Open streams.
    pub streams: usize,
    /// Workloads with at least one stream.
    pub proxies: usize,
    /// Rejected resources, over all streams.
    pub refused: usize,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Server {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("state-of-the-world xDS is not served: use the incremental variant"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let peer = verified(&request)?;
        let shared = Arc::clone(&self.shared);
        let slot = shared.per_identity.acquire(&peer.identity);
        let slot = slot
            .ok_or_else(|| shared.limit_exceeded("identity-limit", &peer.identity, STREAMS_PER_IDENTITY))?;
        let (responses, stream) = mpsc::channel(RESPONSE_QUEUE);
        // The task ends with either direction of the stream, with the client's certificate, or when the server closes.
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(status) = shared.serve(peer, request.into_inner(), &responses).await {
                tracing::debug!(%status, "xDS stream ended");
                // Fails if the client has disconnected.
                let _ = responses.try_send(Err(status));
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Shared {
    async fn serve(
        &self,
        PeerIdentity { identity, not_after }: PeerIdentity,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        responses: &Responses,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, requests.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no first message in time"))??;
        let Some(first) = first else { return Ok(()) };
        let viewer = node::read(first.node.as_ref(), &identity);
        let viewer = viewer.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let software = first.node.as_ref().map(node::software).unwrap_or_default();
        let client = ClientFacts { software, not_after };
        let workload = viewer.workload.clone();
        let slot = self.per_instance.acquire(&workload);
        let _slot =
            slot.ok_or_else(|| self.limit_exceeded("instance-limit", &workload, STREAMS_PER_INSTANCE))?;
        let broken = |error: JoinError| Status::internal(error.to_string());
        let (hub, metrics) = (Arc::clone(&self.hub), Arc::clone(&self.metrics));
        let stream = self.workers.run(move || Arc::new(Stream::join(viewer, client, hub, metrics))).await;
        let stream = stream.map_err(broken)?;
        lock(&self.streams).insert(stream.id, Arc::clone(&stream));
        let mut closing = self.closing.subscribe();
        let ended = tokio::select! {
            ended = stream.run(first, requests, responses, &self.workers) => ended,
            () = responses.closed() => Ok(()),
            () = until(not_after) => {
                tracing::info!(%workload, "xDS stream ended because the certificate expired");
                Err(expired())
            }
            _ = closing.wait_for(|closing| *closing) => {
                Err(Status::unavailable("the control plane is shutting down"))
            }
        };
        lock(&self.streams).remove(&stream.id);
        self.workers.run(move || stream.leave()).await.map_err(broken)?;
        ended
    }

    /// Returns the refusal of a stream because of a limit.
    fn limit_exceeded(&self, reason: &'static str, caller: &dyn std::fmt::Display, limit: usize) -> Status {
        self.metrics.xds_stream_refused(reason);
        tracing::warn!(reason, caller = %caller, limit, "xDS stream refused");
        Status::resource_exhausted(format!("{caller} already has {limit} open xDS streams"))
    }
}

#[cfg(test)]
mod tests;
