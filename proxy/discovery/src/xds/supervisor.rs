//! The task that owns discovery: subscriptions, accepted resources, and publication.
//!
//! It handles one event at a time, in order: a message of the stream, a change of the demand, a timer. Decoding and building run
//! on a blocking thread, so that this thread keeps serving admin requests and probes. Only the handle ends this task; no message
//! of the control plane does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use outrigger_config::binding::Binder;
use outrigger_config::on_demand::{OnDemandFeed, SubscriptionChange};
use outrigger_config::publish::Published;
use outrigger_core::Name;
use outrigger_proto::kind::{Kind, PerKind};
use outrigger_proto::xds::core::Node;
use outrigger_proto::xds::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::log_throttle::LogThrottle;
use crate::state_dir::StateDir;
use crate::status::{Published as Source, StatusBoard};
use crate::xds::ads::{Event, Requests};
use crate::xds::cache;
use crate::xds::claims::settle_claims;
use crate::xds::saving::Saving;
use crate::xds::store::{SharedStore, Step, Validated, Wanted};
use crate::xds::stream::{Received, Stream, WILDCARD};
use crate::xds::subscriptions::Mode;

/// How often unused destinations are dropped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// The sleep while no timer is set.
const NEVER: Duration = Duration::from_secs(86_400);

/// The state of discovery.
#[derive(Debug)]
pub(crate) struct Supervisor {
    store: SharedStore,
    saving: Saving,
    published: Published,
    on_demand: OnDemandFeed,
    binder: Binder,
    events: mpsc::Receiver<Event>,
    status: StatusBoard,
    mode: Mode,
    /// Limits the log of failed streams.
    closed: LogThrottle,
    /// Whether a control plane has sent anything since start-up.
    received: bool,
    /// Whether there is a stream.
    connected: bool,
    stream: Stream,
    /// Sends requests while there is a stream.
    requests: Option<Requests>,
    destinations: BTreeSet<Name>,
    /// Destinations dropped while they existed. Under LDS's wildcard the server responds with `removed_resources`, which must
    /// not be taken for "does not exist" if the name was requested again meanwhile.
    leaving: BTreeSet<String>,
    /// When to publish a waiting version anyway.
    warm_by: Option<Instant>,
}

impl Supervisor {
    #[allow(clippy::too_many_arguments)] // the one place where the parts meet
    pub(crate) fn new(
        node: Node,
        mode: Mode,
        store: SharedStore,
        dir: StateDir,
        published: Published,
        on_demand: OnDemandFeed,
        binder: Binder,
        events: mpsc::Receiver<Event>,
        status: StatusBoard,
    ) -> Self {
        let mut stream = Stream::new(node);
        // Inbound listeners come under the wildcard, whatever else is wanted.
        let wildcard = BTreeSet::from([WILDCARD.to_owned()]);
        if mode == Mode::Wildcard {
            stream.want(Kind::Cluster, wildcard.clone());
        }
        stream.want(Kind::Listener, wildcard);
        Self {
            saving: Saving::new(store.clone(), dir),
            store,
            published,
            on_demand,
            binder,
            events,
            status,
            stream,
            requests: None,
            mode,
            closed: LogThrottle::default(),
            received: false,
            connected: false,
            destinations: BTreeSet::new(),
            leaving: BTreeSet::new(),
            warm_by: None,
        }
    }

    /// Publishes the saved configuration. If the file cannot be used, the proxy waits for the control plane.
    pub(crate) async fn restore(&mut self) {
        let bytes = match self.saving.read() {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return,
            Err(error) => return self.ignore_saved(error.to_string()),
        };
        let owner = self.owner();
        let step = self.store.with(move |store| {
            let responses = cache::responses(&bytes, &owner)?;
            Ok::<_, cache::CacheError>(store.restore(responses))
        });
        match step.await {
            Ok(Ok(restored)) => {
                self.destinations = restored.destinations;
                tracing::info!(
                    destinations = self.destinations.len(),
                    "serving the configuration that was saved"
                );
                self.finish(restored.step, true);
                self.on_demand.adopt(self.destinations.iter().cloned());
            }
            Ok(Err(error)) => self.ignore_saved(error.to_string()),
            Err(error) => {
                tracing::error!(%error, "reading the saved configuration failed");
                self.ignore_saved("reading it failed".into());
            }
        }
    }

    fn ignore_saved(&self, reason: String) {
        let file = self.saving.path();
        tracing::warn!(reason, ?file, "the saved configuration is not used");
        self.status.saved_not_used(format!("{}: {reason}", file.display()));
    }

    /// Returns the owner of the held configuration, as far as it is known.
    fn owner(&self) -> cache::Owner {
        let certificate = self.status.read().identity.certificate;
        cache::Owner::new(certificate.as_ref().map(|certificate| &certificate.identity), self.mode.as_str())
    }

    /// Runs until the handle stops it or is dropped. `_tasks` end with it.
    pub(crate) async fn run(mut self, _tasks: JoinSet<()>, mut stopped: oneshot::Receiver<()>) {
        let mut sweep = interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let never = Instant::now() + NEVER;
            tokio::select! {
                _ = &mut stopped => break,
                event = self.events.recv() => match event {
                    Some(event) => self.on_stream(event).await,
                    // The stream's task never ends by itself.
                    None => break,
                },
                changes = self.on_demand.next() => self.on_subscription_changes(changes).await,
                _ = sweep.tick() => {
                    if !self.connected {
                        self.on_demand.keep_existing();
                    }
                    self.on_demand.sweep();
                }
                () = sleep_until(self.warm_by.unwrap_or(never)) => self.advance().await,
                () = self.saving.due() => self.saving.start(self.owner()),
            }
        }
        self.saving.finish(self.owner()).await;
    }

    async fn on_stream(&mut self, event: Event) {
        match event {
            Event::Opening(requests) => {
                let versions = self.store.with(|store| PerKind::from_fn(|kind| store.versions(kind)));
                let versions = versions.await.unwrap_or_default();
                let first = self.stream.connect(|kind| versions[kind].clone());
                self.leaving.clear();
                self.requests = Some(requests);
                first.into_iter().for_each(|request| self.send(request));
            }
            Event::Established => {
                tracing::info!("connected to the control plane");
                self.closed.reset();
                self.status.connected();
                self.connected = true;
            }
            Event::Response(response) => self.on_response(*response).await,
            Event::Closed(reason) => {
                if self.closed.admits(&reason) {
                    tracing::warn!(
                        reason,
                        "no stream to the control plane; serving the current configuration"
                    );
                }
                self.status.disconnected(reason);
                self.connected = false;
                self.stream.disconnect();
                self.requests = None;
            }
        }
    }

    fn holds(&self, destination: &str) -> bool {
        self.store.lock().accepted().contains(Kind::Listener, destination)
    }

    async fn on_response(&mut self, response: DeltaDiscoveryResponse) {
        let kind = Kind::from_type_url(&response.type_url);
        let update = match self.stream.receive(response) {
            Received::Update(update) => update,
            Received::Nack(reason, nack) => {
                tracing::warn!(reason, "a response is rejected as a whole");
                self.status.refused_whole(kind, reason);
                return self.send(*nack);
            }
        };
        let (kind, nonce) = (update.kind, update.nonce.clone());
        let destinations = self.destinations.clone();
        let now = Instant::now();
        let validated = match self.work(move |store| store.validate(update)).await {
            Ok(validated) if kind == Kind::Listener => self.bind(validated).await,
            other => other,
        };
        let applied = match validated {
            Ok(validated) => self.work(move |store| store.accept(validated, &destinations, now)).await,
            Err(bug) => Err(bug),
        };
        let applied = match applied {
            Ok(applied) => applied,
            Err(reason) => {
                self.status.refused_whole(Some(kind), reason.clone());
                let nack = self.stream.refuse(kind.type_url().into(), nonce, reason);
                return self.send(nack);
            }
        };
        self.received = true;
        for refused in &applied.refused {
            tracing::warn!(%kind, name = refused.name, reason = refused.reason, "a resource is refused; its last good version stays");
        }
        let ack = self.stream.acknowledge(kind, nonce, &applied.refused);
        self.send(ack);
        self.status.response_applied(kind, &applied.refused, applied.recovered.iter().map(String::as_str));
        self.finish(applied.step, false);
        // After the publication, so that a requested destination that arrived is found before others are reported absent.
        if kind == Kind::Listener {
            let accepted = applied.recovered.iter().filter(|name| self.holds(name));
            self.on_demand.mark_existing(accepted.map(String::as_str));
            let absent = applied.removed.iter().filter(|name| !self.leaving.contains(*name));
            self.on_demand.mark_absent(absent.map(String::as_str));
            self.leaving.retain(|name| !applied.recovered.contains(name));
            let refused = applied.refused.iter().map(|refused| refused.name.as_str());
            self.on_demand.mark_refused(refused.filter(|name| !self.holds(name)));
        }
    }

    /// Refuses listeners whose address is taken or cannot be bound. The response to the control plane waits for the sockets.
    async fn bind(&self, mut validated: Validated) -> Result<Validated, String> {
        let mut requested = false;
        loop {
            let (wanted, changes);
            (validated, wanted, changes) = self
                .work(move |store| {
                    let (held, wanted) = settle_claims(store.accepted(), &mut validated);
                    let changes = held != wanted;
                    (validated, wanted, changes)
                })
                .await?;
            // After a refusal, request the remaining address again: the request for its replacement has released it.
            if !changes && !requested {
                return Ok(validated);
            }
            requested = true;
            let unbound = self.binder.bind(wanted.into_iter().collect()).await;
            let unbound = unbound.into_iter().map(|of| (of.name, format!("address: {}", of.reason)));
            let mut refused: BTreeMap<_, _> = unbound.collect();
            let good: BTreeSet<_> = validated.good.iter().map(|listener| &listener.raw().name).collect();
            refused.retain(|name, _| good.contains(name));
            if refused.is_empty() {
                return Ok(validated);
            }
            validated.refuse(&refused);
        }
    }

    /// Subscribes to and drops destinations.
    async fn on_subscription_changes(&mut self, changes: Vec<SubscriptionChange>) {
        let mut again = Vec::new();
        for change in changes {
            match change {
                SubscriptionChange::Subscribe(name) => {
                    self.destinations.insert(name.clone());
                    // True also for a name dropped a moment ago, of which the server has not been notified.
                    if self.stream.wants_by_name(Kind::Listener, &name) {
                        self.leaving.remove(&*name);
                        again.push(name.to_string());
                    }
                }
                SubscriptionChange::Unsubscribe(name) => {
                    if self.destinations.remove(&name) && self.requests.is_some() && self.holds(&name) {
                        self.leaving.insert(name.to_string());
                    }
                    again.retain(|other| **other != *name);
                }
            }
        }
        let mut names: BTreeSet<String> = self.destinations.iter().map(Name::to_string).collect();
        names.insert(WILDCARD.to_owned());
        // Sent before any other work, because a request waits for the resource.
        if let Some(request) = self.stream.want(Kind::Listener, names) {
            self.send(request);
        }
        // Subscribed already, but the resource was lost. Subscribing again makes the server resend it.
        if let Some(request) = self.stream.resubscribe(Kind::Listener, again) {
            self.send(request);
        }
        self.advance().await;
    }

    /// Recomputes what is published and wanted.
    async fn advance(&mut self) {
        let destinations = self.destinations.clone();
        let now = Instant::now();
        if let Ok(step) = self.work(move |store| store.advance(&destinations, now)).await {
            self.finish(step, false);
        }
    }

    /// Publishes the result of a step, and sends the changed subscriptions.
    fn finish(&mut self, step: Step, saved: bool) {
        let Step { snapshot, wanted, warm_by, held, saved_is_behind } = step;
        let nothing = Kind::ALL.into_iter().all(|kind| held[kind] == 0);
        if let Some(snapshot) = snapshot {
            self.published.publish(snapshot);
            self.on_demand.mark_published();
            let now = SystemTime::now();
            // Static listeners are published without any configuration from the mesh.
            self.status.published(match (saved, self.received) {
                (true, _) => (!nothing).then_some(Source::FromSaved(now)),
                (false, true) => Some(Source::FromControlPlane(now)),
                (false, false) => None,
            });
        }
        self.warm_by = warm_by;
        self.want(wanted);
        for kind in Kind::ALL {
            self.status.held(kind, held[kind]);
            self.status.subscribed(kind, self.stream.subscribed(kind));
            self.status.forget_refusals(kind, |name| self.stream.wants(kind, name));
        }
        if saved_is_behind && !saved {
            self.saving.schedule();
        }
    }

    fn want(&mut self, mut wanted: Wanted) {
        for kind in Kind::ALL {
            if let Some(request) = self.stream.want(kind, std::mem::take(&mut wanted[kind])) {
                self.send(request);
            }
        }
    }

    fn send(&self, request: DeltaDiscoveryRequest) {
        // Requests on a stream that just broke are lost; the next stream sends all subscriptions.
        if let Some(requests) = &self.requests {
            let _ = requests.send(request);
        }
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut crate::xds::store::Store) -> T + Send + 'static,
    ) -> Result<T, String> {
        let done = self.store.with(work).await;
        done.inspect_err(|bug| tracing::error!(bug, "serving the published configuration"))
    }
}

#[cfg(test)]
mod tests;
