//! One ADS stream: its task moves messages; the translation threads do all work on them.
//!
//! The task submits one piece of work at a time: apply the client's message, apply changes of the mesh, send all updates
//! that may be sent now. Meanwhile the client's next message waits in its connection. Only this work locks the session
//! and the hub's index, never the runtime's thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use outrigger_core::Name;
use outrigger_proto::xds::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::delta::Delta;
use super::hub::{Hub, Mailbox};
use super::lock;
use super::nack::shorten;
use super::node::{self, NodeError};
use super::session::ResourceView;
use super::status::{self, ClientFacts, Rejection, StreamStatus};
use super::subscription::WILDCARD;
use super::workers::Workers;
use crate::metrics::Metrics;
use crate::translate::catalog::Catalog;
use crate::translate::resource::{Kind, Resource};
use crate::translate::scope::Viewer;

/// The queue of a stream's responses.
pub(super) type Responses = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

/// One stream, shared by its task, its work and `/status`.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) viewer: Viewer,
    client: ClientFacts,
    since: Timestamp,
    pub(super) id: u64,
    mailbox: Arc<Mailbox>,
    /// None after the stream has left the hub.
    delta: Mutex<Option<Delta>>,
    refused: AtomicUsize,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
}

impl Stream {
    /// Creates a stream and adds it to the hub's index until [`Stream::leave`].
    pub(super) fn join(viewer: Viewer, client: ClientFacts, hub: Arc<Hub>, metrics: Arc<Metrics>) -> Self {
        let (id, mailbox) = hub.join(&viewer);
        let since = Timestamp::now();
        Self {
            viewer,
            client,
            since,
            id,
            mailbox,
            delta: Mutex::new(Some(Delta::default())),
            refused: AtomicUsize::new(0),
            hub,
            metrics,
        }
    }

    /// Handles messages until the client ends the stream or violates the protocol.
    pub(super) async fn run(
        self: &Arc<Self>,
        first: DeltaDiscoveryRequest,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        responses: &Responses,
        workers: &Workers,
    ) -> Result<(), Status> {
        let mut request = Some(first);
        loop {
            let (stream, responses) = (Arc::clone(self), responses.clone());
            let work = workers.run(move || stream.process(request, &responses));
            work.await.map_err(|error| Status::internal(error.to_string()))??;
            request = tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => Some(request),
                    None => return Ok(()),
                },
                () = self.mailbox.wake.notified() => None,
            };
        }
    }

    /// Runs `work` while the stream is locked.
    #[cfg(test)]
    pub(super) fn while_locked<T>(&self, work: impl FnOnce() -> T) -> T {
        let _held = lock(&self.delta);
        work()
    }

    /// Removes the stream from the hub's index. Later work does nothing.
    pub(super) fn leave(&self) {
        let Some(delta) = lock(&self.delta).take() else { return };
        let subscribed = delta.session().kinds().iter().flat_map(|state| {
            let wildcard = state.kind.has_wildcard().then(|| Name::from(WILDCARD));
            wildcard.into_iter().chain(state.names.iter().cloned()).map(|name| (state.kind, name))
        });
        self.hub.leave(self.id, &self.viewer, subscribed.collect());
    }

    /// Returns the status of the stream, or None if it has left. It may wait for a translation.
    pub(super) fn status(&self) -> Option<StreamStatus> {
        let delta = lock(&self.delta);
        delta.as_ref().map(|delta| status::of(&self.viewer, &self.client, self.since, delta.session()))
    }

    /// Returns what the client rejects. It may wait for a translation.
    pub(super) fn rejections(&self) -> Vec<Rejection> {
        let delta = lock(&self.delta);
        delta.as_ref().map(|delta| status::rejections(&self.viewer, delta.session())).unwrap_or_default()
    }

    /// Returns the number of rejected resources.
    pub(super) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Does one piece of work. It sends nothing before all sources have synced, and stops when the client has disconnected.
    fn process(&self, request: Option<DeltaDiscoveryRequest>, responses: &Responses) -> Result<(), Status> {
        let mut delta = lock(&self.delta);
        let Some(delta) = delta.as_mut() else { return Ok(()) };
        if let Some(request) = request {
            self.take(request, delta)?;
        }
        self.mailbox.take().into_iter().for_each(|(kind, name)| delta.on_change(kind, name));
        if !self.hub.catalog.is_ready() {
            return Ok(());
        }
        let view = ClientView { catalog: &self.hub.catalog, viewer: &self.viewer };
        while !responses.is_closed()
            && let Some(response) = delta.poll(&view)
        {
            if let Some(kind) = Kind::from_type_url(&response.type_url) {
                let resources = response.resources.len() + response.removed_resources.len();
                self.metrics.xds_pushed(kind.service(), resources);
            }
            let sent = responses.try_send(Ok(response));
            sent.map_err(|_| Status::resource_exhausted("responses were acknowledged but not read"))?;
        }
        Ok(())
    }

    fn take(&self, request: DeltaDiscoveryRequest, delta: &mut Delta) -> Result<(), Status> {
        if !node::is_same(&self.viewer, request.node.as_ref()) {
            return Err(Status::invalid_argument(NodeError::Changed.to_string()));
        }
        if let Some(error) = &request.error_detail {
            let workload = &self.viewer.workload;
            if let Some(kind) = Kind::from_type_url(&request.type_url) {
                self.metrics.xds_nacked(kind.service());
            }
            tracing::warn!(
                identity = %workload.identity, instance = %workload.instance, type_url = request.type_url,
                detail = %shorten(&error.message), "a client rejected configuration"
            );
        }
        let interest = delta.on_request(request, Timestamp::now());
        let interest = interest.map_err(|error| Status::resource_exhausted(error.to_string()))?;
        self.refused.store(delta.session().refused(), Ordering::Relaxed);
        self.hub.watch(self.id, &self.viewer, &interest);
        Ok(())
    }
}

/// The catalogue as one client sees it. Each resource comes from the latest mesh, so that a change never waits for the
/// end of a translation.
struct ClientView<'a> {
    catalog: &'a Catalog,
    viewer: &'a Viewer,
}

impl ResourceView for ClientView<'_> {
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use outrigger_core::identity::{SpiffeId, TrustDomain};
    use outrigger_proto::xds::core::Node;

    use super::*;
    use crate::translate::scope::MeshSettings;

    #[test]
    fn work_after_the_end_of_a_stream_does_nothing() {
        let trust_domain = TrustDomain::parse("cluster.local").unwrap();
        let hub = Arc::new(Hub::new(MeshSettings { cluster_domain: "cluster.local".into(), trust_domain }));
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
        let web = Node { id: "web-1".into(), ..Default::default() };
        let viewer = node::read(Some(&web), &identity).unwrap();
        let client = ClientFacts { software: String::new(), not_after: SystemTime::UNIX_EPOCH };
        let stream = Stream::join(viewer, client, Arc::clone(&hub), Metrics::default().into());
        let (responses, _answers) = mpsc::channel(1);
        let request = || DeltaDiscoveryRequest {
            type_url: Kind::Cluster.type_url().into(),
            resource_names_subscribe: vec!["cart.shop.svc.cluster.local:80".into()],
            ..Default::default()
        };
        stream.process(Some(request()), &responses).unwrap();
        assert_eq!((hub.watchers(), stream.status().is_some()), (3, true));
        stream.leave();
        stream.process(Some(request()), &responses).unwrap();
        assert_eq!((hub.watchers(), stream.status().is_some()), (0, false));
    }
}
