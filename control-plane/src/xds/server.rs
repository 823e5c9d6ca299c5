//! The ADS service: who may open a stream, and when it ends.
//!
//! The wiring makes one [`Server`], publishes every version of the mesh to it and gives [`Server::service`] to tonic. A
//! stream ends when its client leaves or breaks the protocol, with the client's certificate, or when the server closes;
//! nothing of it stays.

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
use super::status::StreamStatus;
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

/// For the first message, which says who the stream is for.
const FIRST_MESSAGE: Duration = Duration::from_secs(15);
/// Responses between the stream's task and the client's connection. The protocol lets one response of each type wait,
/// so it never fills.
const RESPONSES: usize = Kind::ALL.len() + unserved::TYPES + 1;
/// The largest request. A client that comes back says the version of everything it holds: some 100 bytes a resource.
const REQUEST_BYTES: usize = 32 << 20;
/// Streams of one identity: of all instances of a workload together.
const OF_IDENTITY: usize = 1024;
/// Streams of one instance. It has one, and a few that broke without a word are not found dead yet.
const OF_INSTANCE: usize = 8;

/// The xDS server. Clones are the same server.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hub: Arc<Hub>,
    workers: Workers,
    /// Every stream, by a number of its own.
    streams: Mutex<HashMap<u64, Arc<Stream>>>,
    of_identity: Slots<SpiffeId>,
    of_instance: Slots<WorkloadKey>,
    metrics: Arc<Metrics>,
    closing: watch::Sender<bool>,
}

impl Server {
    /// A server that serves nothing until the first [`publish`](Self::publish): streams are accepted and wait.
    pub(crate) fn new(settings: MeshSettings, metrics: Arc<Metrics>) -> Self {
        let shared = Shared {
            hub: Arc::new(Hub::new(settings)),
            workers: Workers::new(),
            streams: Mutex::default(),
            of_identity: Slots::new(OF_IDENTITY),
            of_instance: Slots::new(OF_INSTANCE),
            metrics,
            closing: watch::Sender::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Serves this version of the mesh from now on. The first one must hold what every source has.
    pub(crate) fn publish(&self, mesh: Arc<Mesh>) {
        self.shared.hub.publish(mesh);
    }

    /// The gRPC service. Its requests must carry a [`PeerIdentity`]; those without are refused.
    pub(crate) fn service(&self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self.clone()).max_decoding_message_size(REQUEST_BYTES)
    }

    /// Every stream, by node. May wait for translations: not for the runtime's thread.
    pub(crate) fn status(&self) -> Vec<StreamStatus> {
        let mut all: Vec<_> = self.streams().iter().filter_map(|stream| stream.status()).collect();
        all.sort_by(|a, b| (&a.node, &a.since).cmp(&(&b.node, &b.since)));
        all
    }

    /// How many there are, for `/metrics`.
    pub(crate) fn count(&self) -> Count {
        let streams = self.streams();
        let proxies: HashSet<_> = streams.iter().map(|stream| &stream.viewer.workload).collect();
        let refused = streams.iter().map(|stream| stream.refused()).sum();
        Count { streams: streams.len(), proxies: proxies.len(), refused }
    }

    /// Ends every stream, so that the proxies turn to another server, or come back.
    pub(crate) fn close(&self) {
        self.shared.closing.send_replace(true);
    }

    fn streams(&self) -> Vec<Arc<Stream>> {
        lock(&self.shared.streams).values().cloned().collect()
    }
}

/// What is connected at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    /// Open streams.
    pub streams: usize,
    /// Workloads that have one or more.
    pub proxies: usize,
    /// Resources whose refusal stands, over all streams.
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
        let place = shared.of_identity.take(&peer.identity);
        let place = place.ok_or_else(|| shared.full("identity-limit", &peer.identity, OF_IDENTITY))?;
        let (responses, stream) = mpsc::channel(RESPONSES);
        // Owned by the stream: it ends with the client's half or with ours, with the client's certificate, or when the
        // server closes.
        tokio::spawn(async move {
            let _place = place;
            if let Err(status) = shared.serve(peer, request.into_inner(), &responses).await {
                tracing::debug!(%status, "xDS stream ended");
                // Full or closed: nobody is left to read it.
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
        let first = tokio::time::timeout(FIRST_MESSAGE, requests.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no first message"))??;
        let Some(first) = first else { return Ok(()) };
        let viewer = node::read(first.node.as_ref(), &identity);
        let viewer = viewer.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let workload = viewer.workload.clone();
        let place = self.of_instance.take(&workload);
        let _place = place.ok_or_else(|| self.full("instance-limit", &workload, OF_INSTANCE))?;
        let broken = |error: JoinError| Status::internal(error.to_string());
        let (hub, metrics) = (Arc::clone(&self.hub), Arc::clone(&self.metrics));
        let stream = self.workers.run(move || Arc::new(Stream::join(viewer, hub, metrics))).await;
        let stream = stream.map_err(broken)?;
        lock(&self.streams).insert(stream.id, Arc::clone(&stream));
        let mut closing = self.closing.subscribe();
        let ended = tokio::select! {
            ended = stream.converse(first, requests, responses, &self.workers) => ended,
            () = responses.closed() => Ok(()),
            () = until(not_after) => {
                tracing::info!(%workload, "certificate expired: xDS stream ended");
                Err(expired())
            }
            _ = closing.wait_for(|closing| *closing) => {
                Err(Status::unavailable("the control plane shuts down"))
            }
        };
        lock(&self.streams).remove(&stream.id);
        self.workers.run(move || stream.leave()).await.map_err(broken)?;
        ended
    }

    /// The refusal of a stream for which its caller has no room left.
    fn full(&self, reason: &'static str, who: &dyn std::fmt::Display, limit: usize) -> Status {
        self.metrics.xds_stream_refused(reason);
        tracing::warn!(reason, %who, limit, "xDS stream refused");
        Status::resource_exhausted(format!("{who} has {limit} xDS streams open already"))
    }
}

#[cfg(test)]
mod tests;
