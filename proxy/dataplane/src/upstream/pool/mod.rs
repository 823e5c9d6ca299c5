//! Connections of one worker to one host: idle HTTP/1 ones to be used again, HTTP/2 ones shared by streams.
//!
//! A request takes the HTTP/1 connection that became idle last, or waits for whichever is ready first: one that comes back
//! or the new one that was dialled for it. Dialling is its own task and is never cancelled, so that its connection serves
//! the next request if not this one. HTTP/2 connections take requests until the peer's limit, then one more is made.
//! What cannot be had at once waits in a bounded queue or fails with an overflow; nothing here is written for a request.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use outrigger_core::error::{Failure, Reached};
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::bounds::{Bounds, ConnectionPermit, PendingPermit};
use super::dial::{Dialer, Dialled, Target, Use};
use crate::codec::body::Body;
use crate::codec::client::{Exchange, Home, Http1Connection, Http2Connection};
use crate::codec::head::RequestHead;
use crate::metrics::ClusterSeries;

/// How long an HTTP/1 connection may be idle: below the shortest common keep-alive of servers (Node.js: 5 s), so that we
/// close first and not they while a request is on its way.
const IDLE: Duration = Duration::from_secs(4);

/// How long an HTTP/2 connection may be without a stream. GOAWAY announces its end, so that this may be long.
const IDLE_SHARED: Duration = Duration::from_secs(300);

/// The connections to one host.
#[derive(Debug)]
pub(super) struct Pool {
    target: Target,
    connect_timeout: Cell<Duration>,
    idle_timeout: Cell<Duration>,
    dialer: Rc<Dialer>,
    bounds: Rc<Bounds>,
    siblings: Siblings,
    series: Arc<ClusterSeries>,
    idle: RefCell<Vec<Idle>>,
    waiting: RefCell<VecDeque<oneshot::Sender<Result<Lease, Failure>>>>,
    shared: RefCell<Vec<Shared>>,
    /// Requests that wait for the HTTP/2 connection that is being made; `None` while none is.
    starting: RefCell<Option<Vec<Started>>>,
    /// Set when the host has left its cluster: nothing is kept any more.
    retired: Cell<bool>,
}

/// Tells a request that the HTTP/2 connection that it waits for is there, or why it is not.
type Started = oneshot::Sender<Result<(), Failure>>;

/// The pools of one cluster, which share its bound on connections.
pub(super) type Siblings = Rc<RefCell<Vec<Weak<Pool>>>>;

/// In which version a host takes requests in the clear. Over TLS it is HTTP/2, by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

#[derive(Debug)]
struct Idle {
    connection: Http1Connection,
    peer: Option<SpiffeId>,
    since: Instant,
}

#[derive(Debug)]
struct Shared {
    connection: Http2Connection,
    peer: Option<SpiffeId>,
    used: Cell<Instant>,
    _permit: Permit,
}

/// A connection that may carry one request now.
#[derive(Debug)]
pub(crate) struct Lease {
    connection: Connection,
    /// Whether it carried a request before.
    pub(crate) reused: bool,
    /// Who is at the other end, verified.
    pub(crate) peer: Option<SpiffeId>,
}

#[derive(Debug)]
enum Connection {
    Http1(Http1Connection),
    Http2(Http2Connection, Option<PendingPermit>),
}

impl Lease {
    /// Begins a request on it.
    pub(crate) fn send(self, head: RequestHead, body: Body) -> Exchange {
        match self.connection {
            Connection::Http1(connection) => connection.send(head, body).into(),
            Connection::Http2(connection, pending) => connection.send(head, body.guarded(pending)),
        }
    }
}

impl Pool {
    pub(super) fn new(
        target: Target,
        (connect_timeout, idle_timeout): (Duration, Option<Duration>),
        dialer: Rc<Dialer>,
        bounds: Rc<Bounds>,
        siblings: Siblings,
        series: Arc<ClusterSeries>,
    ) -> Rc<Self> {
        let pool = Rc::new(Self {
            target,
            connect_timeout: Cell::new(connect_timeout),
            idle_timeout: Cell::new(idle_timeout.map_or(IDLE, |idle| idle.min(IDLE))),
            dialer,
            bounds,
            siblings: Rc::clone(&siblings),
            series,
            idle: RefCell::default(),
            waiting: RefCell::default(),
            shared: RefCell::default(),
            starting: RefCell::default(),
            retired: Cell::new(false),
        });
        let mut pools = siblings.borrow_mut();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Rc::downgrade(&pool));
        drop(pools);
        pool
    }

    /// A connection for one request. Cancel-safe: what was being dialled for it serves another.
    pub(super) async fn lease(self: &Rc<Self>, purpose: Use, speaks: Speaks) -> Result<Lease, Failure> {
        match (purpose, speaks, &self.target.tls) {
            (Use::Requests, Speaks::Http2, _) | (Use::Requests, _, Some(_)) => self.http2().await,
            (Use::Requests | Use::Upgrade, Speaks::Http1, None) => self.http1().await,
            // Requests have their connections under another version, so that there is nothing to share.
            (Use::Upgrade | Use::Opaque, _, _) => self.http1_alone(purpose).await,
        }
    }

    /// Whom this pool calls.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// A connection for opaque bytes, which is not pooled, and the permit to be kept as long as it.
    pub(super) async fn opaque(self: &Rc<Self>) -> Result<(Dialled, Permit), Failure> {
        let permit = self.permit().ok_or_else(overflow)?;
        Ok((self.dial(Use::Opaque).await?, permit))
    }

    /// Closes what has been idle for too long or was closed by the host. Called every second or so.
    pub(super) fn tidy(&self, now: Instant) {
        let before = self.idle.borrow().len();
        let mut idle = self.idle.take();
        idle.retain_mut(|idle| {
            now.duration_since(idle.since) < self.idle_timeout.get() && idle.connection.is_open()
        });
        self.lost_idle(before - idle.len());
        // Closing runs no code of ours that could have put one back, yet nothing says that it never will.
        idle.append(&mut self.idle.borrow_mut());
        *self.idle.borrow_mut() = idle;
        self.shared.borrow_mut().retain(|shared| {
            let busy = shared.connection.streams() > 0;
            if busy {
                shared.used.set(now);
            }
            shared.connection.is_open() && now.duration_since(shared.used.get()) < IDLE_SHARED
        });
        self.waiting.borrow_mut().retain(|waiter| !waiter.is_closed());
    }

    /// The host has left its cluster: idle connections are closed, those in use when their requests are over.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        let idle = self.idle.take();
        self.lost_idle(idle.len());
        self.shared.take();
    }

    /// Closes the connection that has been idle for longest, to make room for one to another host. False without one.
    fn close_an_idle_one(&self) -> bool {
        let oldest = {
            let mut idle = self.idle.borrow_mut();
            if idle.is_empty() { None } else { Some(idle.remove(0)) }
        };
        self.lost_idle(usize::from(oldest.is_some()));
        oldest.is_some()
    }

    /// A change of the cluster's times.
    pub(super) fn set_timeouts(&self, connect: Duration, idle: Option<Duration>) {
        self.connect_timeout.set(connect);
        self.idle_timeout.set(idle.map_or(IDLE, |idle| idle.min(IDLE)));
    }

    async fn http1(self: &Rc<Self>) -> Result<Lease, Failure> {
        let mut queued = None;
        loop {
            if let Some(lease) = self.take_idle() {
                return Ok(lease);
            }
            let (sender, mut receiver) = oneshot::channel();
            if let Some(permit) = self.permit() {
                self.waiting.borrow_mut().push_back(sender);
                self.start_http1(permit);
                return receiver.await.unwrap_or_else(|_| Err(stopping()));
            }
            if queued.is_none() {
                queued = Some(self.bounds.pending().ok_or_else(|| self.overflowed())?);
            }
            self.waiting.borrow_mut().push_back(sender);
            tokio::select! {
                biased;
                lease = &mut receiver => return lease.unwrap_or_else(|_| Err(stopping())),
                () = self.bounds.freed() => {}
            }
        }
    }

    fn take_idle(&self) -> Option<Lease> {
        let now = Instant::now();
        loop {
            let taken = self.idle.borrow_mut().pop()?;
            self.lost_idle(1);
            if now.duration_since(taken.since) < self.idle_timeout.get() && taken.connection.is_open() {
                let connection = Connection::Http1(taken.connection);
                return Some(Lease { connection, reused: true, peer: taken.peer });
            }
        }
    }

    /// Dials one more connection, for whoever waits when it is there. Owned by the worker; ends within the connect timeout.
    fn start_http1(self: &Rc<Self>, permit: Permit) {
        let pool = Rc::clone(self);
        tokio::task::spawn_local(async move {
            match pool.dial(Use::Requests).await {
                Ok(dialled) => {
                    let lease = pool.http1_lease(dialled, permit, true);
                    pool.hand_over(lease);
                }
                Err(failure) => {
                    drop(permit);
                    let waiter = pool.next_waiter();
                    if let Some(waiter) = waiter {
                        // Whoever stopped waiting since has no use for the failure.
                        let _ = waiter.send(Err(failure));
                    }
                }
            }
        });
    }

    async fn http1_alone(self: &Rc<Self>, purpose: Use) -> Result<Lease, Failure> {
        let permit = self.permit().ok_or_else(|| self.overflowed())?;
        let dialled = self.dial(purpose).await?;
        Ok(self.http1_lease(dialled, permit, false))
    }

    fn http1_lease(self: &Rc<Self>, dialled: Dialled, permit: Permit, pooled: bool) -> Lease {
        let Dialled { stream, peer } = dialled;
        let pool = if pooled { Rc::downgrade(self) } else { Weak::new() };
        let home = Rc::new(Pooled { pool, peer: peer.clone(), _permit: permit });
        let connection = Http1Connection::new(stream, Rc::clone(self.dialer.limits()), home);
        Lease { connection: Connection::Http1(connection), reused: false, peer }
    }

    /// Gives a connection to who has waited for longest, or keeps it.
    fn hand_over(&self, mut lease: Lease) {
        while let Some(waiter) = self.next_waiter() {
            match waiter.send(Ok(lease)) {
                Ok(()) => return,
                Err(Ok(back)) => lease = back,
                Err(Err(_)) => return,
            }
        }
        if self.retired.get() {
            return;
        }
        if let Connection::Http1(connection) = lease.connection {
            self.series.connections_idle.increment();
            self.idle.borrow_mut().push(Idle { connection, peer: lease.peer, since: Instant::now() });
        }
    }

    fn next_waiter(&self) -> Option<oneshot::Sender<Result<Lease, Failure>>> {
        let mut waiting = self.waiting.borrow_mut();
        loop {
            let waiter = waiting.pop_front()?;
            if !waiter.is_closed() {
                return Some(waiter);
            }
        }
    }

    async fn http2(self: &Rc<Self>) -> Result<Lease, Failure> {
        loop {
            self.shared.borrow_mut().retain(|shared| shared.connection.is_open());
            if let Some(lease) = self.share(|connection| connection.capacity() > 0, None) {
                return Ok(lease);
            }
            if self.starting.borrow().is_none() {
                match self.permit() {
                    Some(permit) => self.start_http2(permit),
                    None => {
                        // No further connection may be made: wait for a stream on one of those that are there.
                        let pending = self.bounds.pending().ok_or_else(|| self.overflowed())?;
                        return self.share(|_| true, Some(pending)).ok_or_else(|| self.overflowed());
                    }
                }
            }
            let (sender, receiver) = oneshot::channel();
            match &mut *self.starting.borrow_mut() {
                Some(waiters) => waiters.push(sender),
                None => continue,
            }
            receiver.await.unwrap_or_else(|_| Err(stopping()))?;
        }
    }

    /// The least used HTTP/2 connection that `fits`.
    fn share(
        &self,
        fits: impl Fn(&Http2Connection) -> bool,
        pending: Option<PendingPermit>,
    ) -> Option<Lease> {
        let shared = self.shared.borrow();
        let fitting = shared.iter().filter(|shared| fits(&shared.connection));
        let chosen = fitting.min_by_key(|shared| shared.connection.streams())?;
        Some(Lease {
            connection: Connection::Http2(chosen.connection.clone(), pending),
            // A closed HTTP/2 connection says how far it had come; only the first request can meet a stale handshake.
            reused: true,
            peer: chosen.peer.clone(),
        })
    }

    /// Makes one more HTTP/2 connection for all who wait. Owned by the worker; ends within the connect timeout.
    fn start_http2(self: &Rc<Self>, permit: Permit) {
        *self.starting.borrow_mut() = Some(Vec::new());
        let pool = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let started = pool.dial_http2(permit).await;
            // Kept by a retired pool too: who waits for it finds it there, and it goes with the pool.
            let outcome = started.map(|shared| pool.shared.borrow_mut().push(shared));
            for waiter in pool.starting.take().unwrap_or_default() {
                let _ = waiter.send(outcome.clone());
            }
        });
    }

    async fn dial_http2(&self, permit: Permit) -> Result<Shared, Failure> {
        let Dialled { stream, peer } = self.dial(Use::Requests).await?;
        let connection = Http2Connection::start(stream, self.dialer.limits()).await?;
        Ok(Shared { connection, peer, used: Cell::new(Instant::now()), _permit: permit })
    }

    async fn dial(&self, purpose: Use) -> Result<Dialled, Failure> {
        let dialled = self.dialer.dial(&self.target, purpose, self.connect_timeout.get()).await;
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

    /// Room for one more connection, if need be that of one to another host which nobody uses.
    fn permit(&self) -> Option<Permit> {
        let permit = self.bounds.connection().or_else(|| {
            let siblings: Vec<_> = self.siblings.borrow().iter().filter_map(Weak::upgrade).collect();
            siblings.iter().any(|pool| pool.close_an_idle_one()).then(|| self.bounds.connection()).flatten()
        })?;
        self.series.connections_active.increment();
        Some(Permit { _permit: permit, series: Arc::clone(&self.series) })
    }

    fn overflowed(&self) -> Failure {
        self.series.overflow.increment();
        overflow()
    }

    fn lost_idle(&self, count: usize) {
        for _ in 0..count {
            self.series.connections_idle.decrement();
        }
    }
}

/// The right to one connection, kept as long as the connection.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: ConnectionPermit,
    series: Arc<ClusterSeries>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.series.connections_active.decrement();
    }
}

/// Where an HTTP/1 connection comes back to. Weak, so that a pool that is gone closes what comes back.
#[derive(Debug)]
struct Pooled {
    pool: Weak<Pool>,
    peer: Option<SpiffeId>,
    _permit: Permit,
}

impl Home for Pooled {
    fn idle(&self, connection: Http1Connection) {
        let Some(pool) = self.pool.upgrade() else { return };
        pool.hand_over(Lease {
            connection: Connection::Http1(connection),
            reused: true,
            peer: self.peer.clone(),
        });
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
