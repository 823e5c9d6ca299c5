//! One endpoint of a cluster, as seen by one worker: its load, its connections, and its health, which all workers share.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::endpoint::{Endpoint, HealthStatus};
use outrigger_core::Name;
use outrigger_core::error::{Failure, Side};
use outrigger_core::reason::Reason;
use outrigger_policy::health_check::Checked;
use outrigger_policy::outlier::Health;
use tokio::time::Instant;

use super::balance::load::Load;
use super::bounds::Peer;
use super::dial::{Dialled, Purpose};
use super::pool::{Lease, Permit, Pool, Speaks};
use super::silence::{DOUBTED, Doubt, Silence};

/// An endpoint that may receive requests.
#[derive(Debug)]
pub(crate) struct Host {
    /// Its address.
    pub(crate) address: SocketAddr,
    /// The workload instance, from its metadata.
    pub(crate) instance: Option<Name>,
    pub(super) weight: u32,
    /// When this worker received the endpoint.
    pub(super) since: Instant,
    /// Whether its cluster had other endpoints before.
    pub(super) is_late: bool,
    /// Its health according to the control plane.
    pub(super) status: HealthStatus,
    /// Whether that lets it receive new requests.
    pub(super) takes_new: bool,
    pub(super) load: Load,
    pub(super) silence: Rc<Silence>,
    pub(super) health: Arc<Health>,
    /// What active checks have found. `None` if it is not checked.
    pub(super) checked: RefCell<Option<Arc<Checked>>>,
    pub(super) pool: Rc<Pool>,
}

impl Host {
    /// Returns whether this host still matches `endpoint`, apart from the transport.
    pub(super) fn is(&self, endpoint: &Endpoint) -> bool {
        self.weight == endpoint.weight && self.status == endpoint.health && self.instance == endpoint.instance
    }

    /// Leases a connection that can carry a request of `peer` at once. Returns None if it has to wait or to dial
    /// ([`Self::lease_of`]).
    pub(crate) fn ready_lease(
        &self,
        purpose: Purpose,
        speaks: Speaks,
        peer: &Peer,
        now: Instant,
    ) -> Option<Lease> {
        self.pool.ready(purpose, speaks, peer, now)
    }

    /// Leases a connection for one request of `peer`. The future keeps the host alive.
    pub(crate) async fn lease_of(
        host: Rc<Self>,
        purpose: Purpose,
        speaks: Speaks,
        peer: Rc<Peer>,
    ) -> Result<Lease, Failure> {
        host.pool.lease(purpose, speaks, &peer).await
    }

    /// Dials a connection for opaque bytes of `peer`. The future keeps the host alive.
    pub(crate) async fn opaque_of(host: Rc<Self>, peer: Rc<Peer>) -> Result<(Dialled, Permit), Failure> {
        host.pool.opaque(&peer).await
    }

    /// Begins an attempt at this host, which is counted until the returned value is dropped.
    pub(crate) fn begin(self: &Rc<Self>) -> HostAttempt {
        let began = Instant::now();
        self.load.begin();
        self.silence.begin(began);
        HostAttempt { host: Rc::clone(self), began, head_came: Cell::default() }
    }

    /// Returns the cost of one more request, in seconds of waiting: at least the age of the unanswered attempts. Returns `None`
    /// for a host that has only failed.
    pub(super) fn cost(&self, now: Instant) -> Option<f64> {
        let (cost, bound) = (self.load.cost(now), self.silence.bound(now));
        let waited = (!bound.is_zero()).then(|| bound.as_secs_f64() * (self.load.queue() + 1.0));
        // `Some` is greater than `None`.
        if waited > cost { waited } else { cost }
    }

    /// Returns whether the host leaves requests unanswered while others of its cluster answer.
    pub(super) fn doubt(&self, now: Instant) -> Option<Doubt> {
        if self.health.is_silent() {
            return Some(Doubt { avoided: true });
        }
        let doubt = self.silence.doubt(now, || self.load.latency(now).unwrap_or_default())?;
        Some(Doubt { avoided: doubt.avoided || self.pool.is_quiet() })
    }

    /// Returns the time to the response head, for display: at least the time for which requests have been unanswered.
    pub(super) fn latency(&self, now: Instant) -> Option<Duration> {
        self.load.latency(now).max(self.silence.age(now))
    }

    /// Returns whether a covered request is due, to determine whether the host still responds. If so, counts it.
    pub(crate) fn takes_pair(&self) -> bool {
        let now = Instant::now();
        let due = self.silence.is_pair_due(now);
        if due {
            self.silence.pair_begins(now);
            self.doubt_connections(now);
        }
        due
    }

    /// Returns whether an ordinary request is due, to determine whether the host still responds. If so, counts it.
    pub(crate) fn takes_test(&self) -> bool {
        let now = Instant::now();
        let due = self.silence.is_test_due(now, self.health.is_silent());
        self.doubt_connections(now);
        if due {
            self.silence.test_begins(now);
        }
        due
    }

    /// Keeps the next request off dead connections: sends PINGs on shared ones, and closes idle ones if the evidence of silence
    /// is strong, since dialling a new one soon succeeds or fails.
    fn doubt_connections(&self, now: Instant) {
        self.pool.ask();
        if self.health.is_silent() || self.silence.age(now).is_some() {
            self.pool.close_idle_ones();
        }
    }

    /// Returns whether the silence is long and certain enough for an ejection. `others` are attempts that wait for other hosts.
    pub(super) fn is_proven_silent(&self, now: Instant, others: u32) -> bool {
        self.silence.is_proven(now, others, self.pool.is_quiet())
    }

    /// Resolves when the host is found silent while others answer. Cancel-safe.
    pub(crate) async fn found_silent(&self) {
        self.silence.found().await;
    }

    /// Returns how long a doubted host has to answer before the request is also sent to another host.
    pub(crate) fn cover_after(&self) -> Duration {
        self.silence.cover_after()
    }

    /// Returns how long to wait for a connection before another host's may be used instead.
    pub(crate) fn patience(&self) -> Duration {
        self.pool.patience()
    }

    /// Acquires the permit of the one attempt that is still awaited after its pair has failed, if it is free.
    pub(crate) fn await_answer(&self) -> Option<Awaited> {
        self.silence.wait_on().then(|| Awaited(Rc::clone(&self.silence)))
    }

    /// Returns whether a connection is being established, so that a wait is due to the host and not to one of the proxy's
    /// limits.
    pub(crate) fn is_connecting(&self) -> bool {
        self.pool.is_connecting()
    }

    /// Returns the counter of response frames, each of which is a sign of life.
    pub(crate) fn frames(&self) -> Rc<Cell<u64>> {
        self.silence.frames()
    }

    /// Records a sign of life: the host has sent something.
    pub(crate) fn heard(&self) {
        self.heard_at(Instant::now());
    }

    fn heard_at(&self, now: Instant) {
        let found_silent = self.silence.heard(now);
        if self.health.answered() || found_silent {
            tracing::info!(endpoint = %self.address, "endpoint is no longer silent");
        }
    }
}

/// The permit of an attempt that is still awaited although its pair has failed.
#[derive(Debug)]
pub(crate) struct Awaited(Rc<Silence>);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.waited();
    }
}

/// An attempt in flight at a host.
#[derive(Debug)]
pub(crate) struct HostAttempt {
    host: Rc<Host>,
    began: Instant,
    /// When the response head was received.
    head_came: Cell<Option<Instant>>,
}

impl HostAttempt {
    /// Returns the host.
    pub(crate) fn host(&self) -> &Rc<Host> {
        &self.host
    }

    /// Returns when it began.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Returns how long it has been in flight.
    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Records that a response head was received, whatever its status.
    pub(crate) fn heard(&self) {
        let now = Instant::now();
        self.head_came.set(Some(now));
        self.host.heard_at(now);
        self.host.silence.answered(self.began, now.saturating_duration_since(self.began));
    }

    /// Records a failure. `alive` is whether it shows that the host works. A host that refuses or resets at once has shown a
    /// sign of life; a slow failure may be due to a timeout of the proxy or of the kernel.
    pub(crate) fn ended(&self, failure: &Failure, alive: bool) {
        let ours = matches!(
            failure.reason,
            Reason::UpstreamRequestTimeout | Reason::UpstreamOverflow | Reason::NoHealthyUpstream
        );
        if alive || failure.side == Side::Upstream && !ours && self.began.elapsed() < DOUBTED {
            self.host.heard();
        }
    }

    /// Records a response head that is not a failure.
    pub(crate) fn answered(&self) {
        let now = self.head_came.get().unwrap_or_else(Instant::now);
        if self.host.silence.is_first(self.began) {
            self.host.load.forget();
        }
        self.host.load.answered(now.duration_since(self.began), now);
    }

    /// Records that the response of another attempt of the same request came first. The time so far is a lower bound of this
    /// host's latency; nothing else is known of it.
    pub(crate) fn outrun(&self) {
        self.host.load.waited(self.began.elapsed(), Instant::now());
    }

    /// Records that there was no response, or one that is a failure.
    pub(crate) fn failed(&self) {
        self.host.load.failed(Instant::now());
    }
}

impl Drop for HostAttempt {
    fn drop(&mut self) {
        self.host.load.end();
    }
}
