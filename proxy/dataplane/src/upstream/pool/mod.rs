//! The connections of one worker to one host: HTTP/1 connections for one request at a time, and HTTP/2 connections that streams
//! share.
//!
//! A request that cannot be served at once waits in a bounded queue or fails with an overflow; no part of it is written here. A
//! connection that has reached its maximum lifetime or number of requests takes no further request and closes after those in
//! flight.

mod http1;
mod http2;
mod lease;
mod siblings;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::cluster::{Cluster as ClusterConfig, ConnectionSettings};
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::http1::Http1;
use self::http2::Http2;
use self::lease::Waits;
pub(crate) use self::lease::{Exchange, Lease, Permit};
pub(super) use self::siblings::Siblings;
use super::bounds::{Bounds, Exhausted, LONGEST_WAIT, Peer};
use super::dial::{Dialer, Dialled, Purpose, Target, Wire};
use crate::capacity::Share;
use crate::metrics::ClusterSeries;

/// The minimum and maximum time that a request waits for a connection before it moves to another host.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));

/// The connections to one host.
#[derive(Debug)]
pub(super) struct Pool {
    target: Target,
    settings: RefCell<PoolSettings>,
    dialer: Rc<Dialer>,
    bounds: Rc<Bounds>,
    /// The pools of this cluster.
    siblings: Rc<Siblings>,
    /// The pools of all clusters of this worker.
    of_worker: Rc<Siblings>,
    series: Arc<ClusterSeries>,
    http1: Http1,
    http2: Http2,
    /// The version that ALPN selected last, if the cluster leaves it to ALPN.
    prefers_http2: Cell<Option<bool>>,
    /// Notifies requests that wait for it.
    learned: Notify,
    /// The number of connections being established.
    connecting: Cell<u32>,
    /// Connect failures that no request has observed.
    unseen_failures: Cell<u32>,
    /// Set when the host has left its cluster: connections are no longer kept.
    retired: Cell<bool>,
}

/// The connection settings of a cluster.
#[derive(Debug, Clone)]
pub(super) struct PoolSettings {
    connect_timeout: Duration,
    connections: ConnectionSettings,
}

impl PoolSettings {
    /// Returns the settings of a cluster.
    pub(super) fn of(cluster: &ClusterConfig) -> Self {
        Self { connect_timeout: cluster.connect_timeout, connections: cluster.connections.clone() }
    }

    /// Returns whether a connection of this age that has carried this many requests takes no more.
    fn is_spent(&self, age: Duration, carried: u32) -> bool {
        let ConnectionSettings { max_duration, max_requests, .. } = &self.connections;
        max_duration.is_some_and(|longest| age >= longest) || max_requests.is_some_and(|most| carried >= most)
    }
}

/// Counts a connection that is being established.
struct Connecting<'a>(&'a Cell<u32>);

impl<'a> Connecting<'a> {
    fn begin(count: &'a Cell<u32>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The protocol of requests to a host. A sidecar always receives HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// The one that ALPN selects; HTTP/1.1 without TLS.
    Negotiated,
}

impl Pool {
    pub(super) fn new(
        target: Target,
        settings: PoolSettings,
        dialer: Rc<Dialer>,
        bounds: Rc<Bounds>,
        siblings: Rc<Siblings>,
        of_worker: Rc<Siblings>,
        series: Arc<ClusterSeries>,
    ) -> Rc<Self> {
        let pool = Rc::new(Self {
            target,
            settings: RefCell::new(settings),
            dialer,
            bounds,
            siblings,
            of_worker,
            series,
            http1: Http1::default(),
            http2: Http2::default(),
            prefers_http2: Cell::new(None),
            learned: Notify::new(),
            connecting: Cell::new(0),
            unseen_failures: Cell::new(0),
            retired: Cell::new(false),
        });
        pool.siblings.add(&pool);
        pool.of_worker.add(&pool);
        pool
    }

    /// Leases a connection for one request. Cancel-safe: a dial in progress serves another request.
    pub(super) async fn lease(
        self: &Rc<Self>,
        purpose: Purpose,
        speaks: Speaks,
        peer: &Peer,
    ) -> Result<Lease, Failure> {
        match self.uses_http2(purpose, speaks) {
            Some(true) => self.http2(peer).await,
            Some(false) => self.http1(peer).await,
            None => self.negotiated(peer).await,
        }
    }

    /// Leases a connection that can carry the request at once: an idle one, or a stream of a shared one. Returns None if the
    /// request has to wait or to dial ([`Self::lease`]).
    pub(super) fn ready(&self, purpose: Purpose, speaks: Speaks, peer: &Peer, now: Instant) -> Option<Lease> {
        if self.uses_http2(purpose, speaks).or(self.prefers_http2.get())? {
            self.shared_stream()
        } else {
            self.idle_http1(peer, now)
        }
    }

    /// Returns whether a request uses HTTP/2; None if ALPN decides.
    fn uses_http2(&self, purpose: Purpose, speaks: Speaks) -> Option<bool> {
        match (purpose, speaks) {
            (Purpose::Requests, _) if self.target.is_mesh() => Some(true),
            (Purpose::Requests, Speaks::Http2) => Some(true),
            (Purpose::Requests, Speaks::Negotiated) if self.target.tls.is_some() => None,
            (Purpose::Requests, _) => Some(false),
            // If requests use HTTP/2, only upgrades use these connections. If the server declines an upgrade, its connection
            // serves the next upgrade.
            // A WebSocket is one stream of a shared connection (RFC 8441). Between sidecars, upgrades have a separate ALPN
            // protocol.
            (Purpose::Upgrade, Speaks::Http2) if !self.target.is_mesh() => Some(true),
            (Purpose::Upgrade, _) => Some(false),
        }
    }

    /// Leases a connection in the version that the host prefers, which is learned in a handshake and remembered until a
    /// connection fails. While it is unknown, a request dials if it may, and otherwise waits for the result of another
    /// request's dial.
    async fn negotiated(self: &Rc<Self>, peer: &Peer) -> Result<Lease, Failure> {
        let lease = loop {
            match self.prefers_http2.get() {
                Some(true) => break self.http2(peer).await,
                Some(false) => break self.http1(peer).await,
                None => {}
            }
            let learned = self.learned.notified();
            tokio::select! {
                biased;
                permit = self.permit_to_use(peer) => break self.learn(permit?).await,
                () = learned => {}
            }
        };
        // Reaching one of the proxy's limits says nothing about the host.
        lease.inspect_err(|failure| {
            if failure.reason != Reason::UpstreamOverflow {
                self.prefers_http2.set(None);
            }
        })
    }

    /// Dials a connection, in the version that the host prefers.
    async fn learn(self: &Rc<Self>, (used, permit): (Share, Permit)) -> Result<Lease, Failure> {
        let _waits = Waits::new(&self.series);
        let dialled = self.dial(Wire::Either).await?;
        self.prefers_http2.set(Some(dialled.http2));
        let lease = if dialled.http2 {
            // Streams share it, and are limited as requests.
            drop(used);
            self.keep_http2(dialled, permit).await
        } else {
            Ok(self.http1_lease(dialled, permit).used_by(used))
        };
        self.learned.notify_waiters();
        lease
    }

    /// Returns the target of this pool.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Dials a connection for opaque bytes, which is not pooled. The permit must be kept for its lifetime.
    pub(super) async fn opaque(self: &Rc<Self>, peer: &Peer) -> Result<(Dialled, Permit), Failure> {
        let (used, permit) = self.permit_to_use(peer).await?;
        let _waits = Waits::new(&self.series);
        let dialled = self.dial(Wire::Opaque).await?;
        Ok((dialled, permit.used_by(used)))
    }

    /// Closes connections that were idle for too long or that the host has closed. Called about once a second.
    pub(super) fn tidy(&self, now: Instant) {
        self.tidy_http1(now);
        self.tidy_http2(now);
    }

    /// Retires the pool because the host has left its cluster: closes idle connections now, and those in use after their
    /// requests.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        self.close_idle_ones();
        self.let_shared_ones_go();
    }

    /// Returns how long to wait for a connection before another host's may be used instead: a quarter of the connect timeout,
    /// within limits.
    pub(super) fn patience(&self) -> Duration {
        let (least, most) = PATIENCE;
        (self.settings.borrow().connect_timeout / 4).clamp(least, most)
    }

    /// Returns whether a connection is being established.
    pub(super) fn is_connecting(&self) -> bool {
        self.connecting.get() > 0
    }

    /// Returns the number of connect failures that no request has observed since the last call.
    pub(super) fn take_unseen_failures(&self) -> u32 {
        self.unseen_failures.take()
    }

    fn unseen_failure(&self) {
        self.unseen_failures.set(self.unseen_failures.get().saturating_add(1));
    }

    /// Applies changed settings. Windows apply to new connections.
    pub(super) fn set(&self, settings: PoolSettings) {
        self.settings.replace(settings);
    }

    async fn dial(&self, wire: Wire) -> Result<Dialled, Failure> {
        let connect_timeout = self.settings.borrow().connect_timeout;
        let _connecting = Connecting::begin(&self.connecting);
        let dialled = self.dialer.dial(&self.target, wire, connect_timeout).await;
        match &dialled {
            Ok(_) => {
                self.series.connections_total.increment();
                if self.target.tls.is_some() {
                    self.series.tls_ok.increment();
                }
            }
            Err(failure) if failure.reason == Reason::UpstreamTlsFailure => {
                self.series.tls_failed.increment()
            }
            Err(_) => self.series.connect_failed.increment(),
        }
        dialled
    }

    /// Acquires the use of one connection for the peer, waiting in the queue if necessary.
    async fn use_of_one(&self, peer: &Peer) -> Result<Share, Failure> {
        let waits = || Waits::new(&self.series);
        self.bounds.connection(peer, waits).await.ok_or_else(|| self.overflowed())
    }

    /// Acquires the use of one connection for the peer and the permit to open it, waiting for both if necessary.
    async fn permit_to_use(&self, peer: &Peer) -> Result<(Share, Permit), Failure> {
        let used = self.use_of_one(peer).await?;
        let _waits = Waits::new(&self.series);
        Ok((used, self.permit_in_time().await?))
    }

    /// Acquires the permit to open one more connection. If there is none, closes an idle one to free it: to another host of the
    /// cluster, or, if the process has no descriptor left, to any host.
    fn permit(&self) -> Option<Permit> {
        let permit = self.bounds.open().or_else(|exhausted| {
            self.make_way(exhausted);
            self.bounds.open()
        });
        Some(Permit::new(permit.ok()?, Arc::clone(&self.series)))
    }

    fn make_way(&self, exhausted: Exhausted) {
        if !self.siblings.close_an_idle_one() && exhausted == Exhausted::Process {
            self.of_worker.close_an_idle_one();
        }
    }

    /// Like [`Self::permit`], but waits until a connection has closed. Idle ones on other workers are closed to free it.
    async fn permit_in_time(&self) -> Result<Permit, Failure> {
        if let Some(permit) = self.permit() {
            return Ok(permit);
        }
        let opened = tokio::time::timeout(LONGEST_WAIT, self.bounds.open_in_turn()).await.ok().flatten();
        let permit = opened.ok_or_else(|| self.overflowed())?;
        Ok(Permit::new(permit, Arc::clone(&self.series)))
    }

    fn has_an_idle_one(&self) -> bool {
        self.http1.has_an_idle_one() || self.http2.has_an_idle_one()
    }

    /// Closes the connection that has been idle for longest. Returns false if there is none.
    fn close_an_idle_one(&self) -> bool {
        self.close_an_idle_http1() || self.close_an_idle_http2()
    }

    fn overflowed(&self) -> Failure {
        self.series.overflow.increment();
        overflow()
    }
}

fn overflow() -> Failure {
    Failure::upstream(
        Reason::UpstreamOverflow,
        Reached::NotWritten,
        "the bound on connections and on the queue is reached",
    )
}

fn stopping() -> Failure {
    Failure::local(Reason::LocalError, "the worker stops")
}
