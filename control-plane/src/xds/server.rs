//! The ADS service: one task a stream, which moves messages between the client, the protocol and the hub.
//!
//! The wiring makes one [`Server`], publishes every version of the mesh to it and gives [`Server::service`] to tonic. A
//! stream ends when its client leaves or breaks the protocol, or when the server closes; nothing of it stays.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_proto::xds::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use outrigger_proto::xds::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::hub::{Hub, Mailbox};
use super::node::{BadNode, Node};
use super::status::{self, StreamStatus};
use super::stream::{Source, Stream};
use super::subscription::{WILDCARD, cut};
use super::unserved;
use crate::metrics::Metrics;
use crate::model::mesh::Mesh;
use crate::model::registration::WorkloadKey;
use crate::peer::{PeerIdentity, expired, until, verified};
use crate::quota::Slots;
use crate::translate::catalog::{Catalog, Settings, Viewer};
use crate::translate::resource::{Kind, Resource};

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
pub struct Server {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    hub: Hub,
    sessions: Mutex<HashMap<u64, Arc<Session>>>,
    of_identity: Slots<SpiffeId>,
    of_instance: Slots<WorkloadKey>,
    metrics: Arc<Metrics>,
    closing: AtomicBool,
}

/// One stream as its task and `/status` share it.
#[derive(Debug)]
struct Session {
    node: Node,
    since: Timestamp,
    stream: Mutex<Stream>,
}

impl Server {
    /// A server that serves nothing until the first [`publish`](Self::publish): streams are accepted and wait.
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        let shared = Shared {
            hub: Hub::new(settings),
            sessions: Mutex::default(),
            of_identity: Slots::new(OF_IDENTITY),
            of_instance: Slots::new(OF_INSTANCE),
            metrics,
            closing: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Serves this version of the mesh from now on. The first one must hold what every source has.
    pub fn publish(&self, mesh: Arc<Mesh>) {
        self.shared.hub.publish(mesh);
    }

    /// The gRPC service. Its requests must carry a [`PeerIdentity`]; those without are refused.
    pub fn service(&self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self.clone()).max_decoding_message_size(REQUEST_BYTES)
    }

    /// Every stream, by node.
    pub fn status(&self) -> Vec<StreamStatus> {
        let sessions: Vec<_> = lock(&self.shared.sessions).values().cloned().collect();
        let mut all: Vec<_> = sessions.iter().map(|session| session.status()).collect();
        all.sort_by(|a, b| (&a.node, &a.since).cmp(&(&b.node, &b.since)));
        all
    }

    /// How many there are, for `/metrics`.
    pub fn count(&self) -> Count {
        let sessions: Vec<_> = lock(&self.shared.sessions).values().cloned().collect();
        let proxies: HashSet<_> = sessions.iter().map(|session| &session.node.viewer.workload).collect();
        let refused = |session: &Arc<Session>| lock(&session.stream).refused();
        Count { streams: sessions.len(), proxies: proxies.len(), refused: sessions.iter().map(refused).sum() }
    }

    /// Ends every stream, so that the proxies turn to another server, or come back.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.hub.wake_all();
    }
}

/// What is connected at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Open streams.
    pub streams: usize,
    /// Workloads that have one or more.
    pub proxies: usize,
    /// Resources whose refusal stands, over all streams.
    pub refused: usize,
}

impl Session {
    fn status(&self) -> StreamStatus {
        status::of(&self.node, self.since, &lock(&self.stream))
    }
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

type Responses = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

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
        let node = Node::read(first.node.as_ref(), &identity).map_err(refused)?;
        let workload = &node.viewer.workload;
        let place = self.of_instance.take(workload);
        let _place = place.ok_or_else(|| self.full("instance-limit", workload, OF_INSTANCE))?;
        let ended = until(not_after);
        tokio::pin!(ended);
        let watch = Watch::begin(self, node);
        watch.take(&first)?;
        loop {
            if self.closing.load(Ordering::Acquire) {
                return Err(Status::unavailable("the control plane shuts down"));
            }
            watch.answer(responses)?;
            tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => watch.take(&request)?,
                    None => return Ok(()),
                },
                () = watch.mailbox.wake.notified() => watch.changed(),
                () = responses.closed() => return Ok(()),
                () = &mut ended => {
                    tracing::info!(workload = %watch.session.node.viewer.workload, "certificate expired: xDS stream ended");
                    return Err(expired());
                }
            }
        }
    }

    /// The refusal of a stream for which its caller has no room left.
    fn full(&self, reason: &'static str, who: &dyn std::fmt::Display, limit: usize) -> Status {
        self.metrics.xds_stream_refused(reason);
        tracing::warn!(reason, %who, limit, "xDS stream refused");
        Status::resource_exhausted(format!("{who} has {limit} xDS streams open already"))
    }
}

/// A stream in the hub's index and in the list of streams; out of both when dropped.
struct Watch<'a> {
    shared: &'a Shared,
    id: u64,
    mailbox: Arc<Mailbox>,
    session: Arc<Session>,
}

impl<'a> Watch<'a> {
    fn begin(shared: &'a Shared, node: Node) -> Self {
        let (id, mailbox) = shared.hub.join();
        let session = Arc::new(Session { node, since: Timestamp::now(), stream: Mutex::default() });
        lock(&shared.sessions).insert(id, Arc::clone(&session));
        Self { shared, id, mailbox, session }
    }

    fn take(&self, request: &DeltaDiscoveryRequest) -> Result<(), Status> {
        if !self.session.node.same(request.node.as_ref()) {
            return Err(refused(BadNode::Changed));
        }
        if let Some(error) = &request.error_detail {
            let node = &self.session.node.viewer.workload;
            if let Some(kind) = Kind::from_type_url(&request.type_url) {
                self.shared.metrics.xds_nacked(kind.as_str());
            }
            tracing::warn!(
                identity = %node.identity, instance = %node.instance, type_url = request.type_url,
                detail = %cut(&error.message), "a proxy refused configuration"
            );
        }
        let interest = lock(&self.session.stream).on_request(request, Timestamp::now());
        let interest = interest.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        self.shared.hub.watch(self.id, &self.session.node.viewer, &interest);
        Ok(())
    }

    fn changed(&self) {
        let changed = self.mailbox.take();
        let mut stream = lock(&self.session.stream);
        changed.into_iter().for_each(|(kind, name)| stream.on_change(kind, name));
    }

    /// Sends all that may be sent now. Until every source has synced that is nothing.
    fn answer(&self, responses: &Responses) -> Result<(), Status> {
        if !self.shared.hub.catalog.is_ready() {
            return Ok(());
        }
        let view = View { catalog: &self.shared.hub.catalog, viewer: &self.session.node.viewer };
        let mut stream = lock(&self.session.stream);
        while let Some(response) = stream.poll(&view) {
            if let Some(kind) = Kind::from_type_url(&response.type_url) {
                let resources = response.resources.len() + response.removed_resources.len();
                self.shared.metrics.xds_pushed(kind.as_str(), resources);
            }
            let sent = responses.try_send(Ok(response));
            sent.map_err(|_| Status::resource_exhausted("responses answered that were not read"))?;
        }
        Ok(())
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        lock(&self.shared.sessions).remove(&self.id);
        let stream = lock(&self.session.stream);
        let subscribed = stream.kinds().iter().flat_map(|state| {
            let wildcard = state.kind.has_wildcard().then(|| Name::from(WILDCARD));
            wildcard.into_iter().chain(state.names.iter().cloned()).map(|name| (state.kind, name))
        });
        self.shared.hub.leave(self.id, &self.session.node.viewer, subscribed.collect());
    }
}

/// The catalogue as one client sees it.
struct View<'a> {
    catalog: &'a Catalog,
    viewer: &'a Viewer,
}

impl Source for View<'_> {
    fn resource(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        self.catalog.resource(self.viewer, kind, name)
    }

    fn wildcard(&self, kind: Kind) -> Vec<Name> {
        self.catalog.wildcard(self.viewer, kind)
    }

    fn in_wildcard(&self, kind: Kind, name: &str) -> bool {
        self.catalog.in_wildcard(self.viewer, kind, name)
    }
}

fn refused(error: BadNode) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Locks; no code that holds one of these locks can panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
