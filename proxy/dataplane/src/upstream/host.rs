//! One endpoint of a cluster as one worker sees it: its load, its connections, and its health, which all workers share.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::endpoint::{Endpoint, HealthStatus};
use outrigger_core::Name;
use outrigger_core::error::{Failure, Side};
use outrigger_core::reason::Reason;
use outrigger_policy::outlier::Health;
use tokio::time::Instant;

use super::balance::load::Load;
use super::bounds::Peer;
use super::dial::{Dialled, Purpose};
use super::pool::{Lease, Permit, Pool, Speaks};
use super::silence::{DOUBTED, Doubt, Silence};

/// An endpoint that may be asked.
#[derive(Debug)]
pub(crate) struct Host {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The workload instance behind it, as its metadata says.
    pub(crate) instance: Option<Name>,
    pub(super) weight: u32,
    pub(super) takes_new: bool,
    pub(super) load: Load,
    pub(super) silence: Rc<Silence>,
    pub(super) health: Arc<Health>,
    pub(super) pool: Rc<Pool>,
}

impl Host {
    /// Whether this host is what `endpoint` describes, transport aside.
    pub(super) fn is(&self, endpoint: &Endpoint) -> bool {
        let takes_new = matches!(endpoint.health, HealthStatus::Healthy | HealthStatus::Degraded);
        self.weight == endpoint.weight && self.takes_new == takes_new && self.instance == endpoint.instance
    }

    /// A connection for one request of `peer`, of a host that the future keeps.
    pub(crate) async fn lease_of(
        host: Rc<Self>,
        purpose: Purpose,
        speaks: Speaks,
        peer: Rc<Peer>,
    ) -> Result<Lease, Failure> {
        host.pool.lease(purpose, speaks, &peer).await
    }

    /// A connection for opaque bytes of `peer`, of a host that the future keeps.
    pub(crate) async fn opaque_of(host: Rc<Self>, peer: Rc<Peer>) -> Result<(Dialled, Permit), Failure> {
        host.pool.opaque(&peer).await
    }

    /// Counts a try at this host until it is dropped.
    pub(crate) fn begin(self: &Rc<Self>) -> HostAttempt {
        let began = Instant::now();
        self.load.begin();
        self.silence.begin(began);
        HostAttempt { host: Rc::clone(self), began, head_came: Cell::default() }
    }

    /// What one more request would cost, in seconds of waiting: never less than what is unanswered has waited already.
    /// None of a host that only ever failed.
    pub(super) fn cost(&self, now: Instant) -> Option<f64> {
        let (cost, bound) = (self.load.cost(now), self.silence.bound(now));
        let waited = (!bound.is_zero()).then(|| bound.as_secs_f64() * (self.load.queue() + 1.0));
        // An option that holds a number is greater than one that does not.
        if waited > cost { waited } else { cost }
    }

    /// Whether the host leaves requests unanswered while others of its cluster answer.
    pub(super) fn doubt(&self, now: Instant) -> Option<Doubt> {
        if self.health.is_silent() {
            return Some(Doubt { avoided: true });
        }
        let doubt = self.silence.doubt(now, || self.load.latency(now).unwrap_or_default())?;
        Some(Doubt { avoided: doubt.avoided || self.pool.is_quiet() })
    }

    /// The time to the head of an answer, to be shown: at least as long as it leaves requests unanswered.
    pub(super) fn latency(&self, now: Instant) -> Option<Duration> {
        self.load.latency(now).max(self.silence.age(now))
    }

    /// Whether a covered request is due that finds out whether the host still answers. Then counts it.
    pub(crate) fn takes_pair(&self) -> bool {
        let now = Instant::now();
        let due = self.silence.is_pair_due(now);
        if due {
            self.silence.pair_begins(now);
            self.doubt_connections(now);
        }
        due
    }

    /// Whether an ordinary request is due that finds out whether the host still answers. Then counts it.
    pub(crate) fn takes_test(&self) -> bool {
        let now = Instant::now();
        let due = self.silence.is_test_due(now, self.health.is_silent());
        self.doubt_connections(now);
        if due {
            self.silence.test_begins(now);
        }
        due
    }

    /// What comes next shall not be written to a connection that is dead. Shared ones are asked; idle ones are closed where there
    /// is much doubt, since a new one is soon made or found to be impossible.
    fn doubt_connections(&self, now: Instant) {
        self.pool.ask();
        if self.health.is_silent() || self.silence.age(now).is_some() {
            self.pool.close_idle_ones();
        }
    }

    /// Whether the silence is long and sure enough for an ejection. `others` are attempts that wait for other hosts.
    pub(super) fn is_proven_silent(&self, now: Instant, others: u32) -> bool {
        self.silence.is_proven(now, others, self.pool.is_quiet())
    }

    /// Resolves when the host is found silent while others answer. Cancel-safe.
    pub(crate) async fn found_silent(&self) {
        self.silence.found().await;
    }

    /// How long a doubted host has for an answer before another one is asked too.
    pub(crate) fn cover_after(&self) -> Duration {
        self.silence.cover_after()
    }

    /// How long to wait for a connection before another host's may be used instead.
    pub(crate) fn patience(&self) -> Duration {
        self.pool.patience()
    }

    /// The place of the one attempt that is waited for after its pair has failed, if it is free.
    pub(crate) fn await_answer(&self) -> Option<Awaited> {
        self.silence.wait_on().then(|| Awaited(Rc::clone(&self.silence)))
    }

    /// Whether a connection is being made, so that waiting is the host's fault and not that of a bound of ours.
    pub(crate) fn is_connecting(&self) -> bool {
        self.pool.is_connecting()
    }

    /// Where frames of its responses are to be counted: each is a sign of life.
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

/// An attempt is waited for though its pair has failed, until this is dropped.
#[derive(Debug)]
pub(crate) struct Awaited(Rc<Silence>);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.waited();
    }
}

/// A try under way at a host.
#[derive(Debug)]
pub(crate) struct HostAttempt {
    host: Rc<Host>,
    began: Instant,
    /// When the head of an answer came.
    head_came: Cell<Option<Instant>>,
}

impl HostAttempt {
    /// Where.
    pub(crate) fn host(&self) -> &Rc<Host> {
        &self.host
    }

    /// How long it has been under way.
    pub(crate) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// The head of an answer is here, whatever it says.
    pub(crate) fn heard(&self) {
        let now = Instant::now();
        self.head_came.set(Some(now));
        self.host.heard_at(now);
        self.host.silence.answered(self.began, now.saturating_duration_since(self.began));
    }

    /// The attempt has failed, in a way that says that the host is `alive` or does not. A host that refuses or resets at once
    /// has spoken; what took long may have been ended by a clock of ours, or by the kernel's.
    pub(crate) fn ended(&self, failure: &Failure, alive: bool) {
        let ours = matches!(
            failure.reason,
            Reason::UpstreamRequestTimeout | Reason::UpstreamOverflow | Reason::NoHealthyUpstream
        );
        if alive || failure.side == Side::Upstream && !ours && self.began.elapsed() < DOUBTED {
            self.host.heard();
        }
    }

    /// The head of an answer is here, and it is no failure.
    pub(crate) fn answered(&self) {
        let now = self.head_came.get().unwrap_or_else(Instant::now);
        if self.host.silence.is_first(self.began) {
            self.host.load.forget();
        }
        self.host.load.answered(now.duration_since(self.began), now);
    }

    /// No answer came, or one that says that the request failed.
    pub(crate) fn failed(&self) {
        self.host.load.failed(Instant::now());
    }
}

impl Drop for HostAttempt {
    fn drop(&mut self) {
        self.host.load.end();
    }
}
