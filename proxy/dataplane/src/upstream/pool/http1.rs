//! HTTP/1 connections, which carry one request at a time and are kept while idle, and the requests that wait for one.
//!
//! A request takes the connection that became idle last, or dials one and waits for whichever is ready first: a returned
//! connection or a new one. A dial is a task and is never cancelled. Its outcome goes to the oldest request that has dialled,
//! so that there is always a dial in progress for each of them. Requests that may not dial yet wait in a separate queue, for a
//! bounded time.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use outrigger_core::error::Failure;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::lease::{Lease, LeasedConnection, Permit};
use super::{Pool, Waits, stopping};
use crate::codec::client::{ConnectionOwner, Http1Connection};
use crate::codec::usage::Usage;
use crate::upstream::bounds::Peer;
use crate::upstream::dial::{Dialled, EndpointFacts, Wire};

/// Idle timeout: below the shortest common keep-alive timeout of servers (Node.js: 5 s), so that the server does not close
/// first while a request is being sent.
const IDLE: Duration = Duration::from_secs(4);

/// A host's HTTP/1 connections.
#[derive(Debug, Default)]
pub(super) struct Http1 {
    idle: RefCell<Vec<Idle>>,
    /// Requests that wait for the permit to dial.
    undialled: Line,
    /// Requests that have dialled: at most as many as there are dials in progress.
    dialled: Line,
}

/// Requests that wait for a connection, the oldest first.
#[derive(Debug, Default)]
struct Line {
    waiters: RefCell<BTreeMap<u64, Outcome>>,
    next: Cell<u64>,
}

/// Sends the outcome to a waiting request.
type Outcome = oneshot::Sender<Result<Lease, Failure>>;

/// A request that waits for a connection. When dropped, it leaves the queue and passes a connection that it has received to the
/// next request.
struct Waiter<'a> {
    pool: &'a Pool,
    line: &'a Line,
    ticket: u64,
    receiver: oneshot::Receiver<Result<Lease, Failure>>,
}

impl<'a> Waiter<'a> {
    fn new(pool: &'a Pool, line: &'a Line) -> Self {
        let (sender, receiver) = oneshot::channel();
        let ticket = line.next.replace(line.next.get() + 1);
        line.waiters.borrow_mut().insert(ticket, sender);
        Self { pool, line, ticket, receiver }
    }

    async fn lease(&mut self) -> Result<Lease, Failure> {
        (&mut self.receiver).await.unwrap_or_else(|_| Err(stopping()))
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.line.waiters.borrow_mut().remove(&self.ticket);
        if let Ok(Ok(lease)) = self.receiver.try_recv() {
            self.pool.came_back(lease);
        }
    }
}

impl Line {
    /// Removes the oldest request.
    fn next(&self) -> Option<Outcome> {
        self.waiters.borrow_mut().pop_first().map(|(_, waiter)| waiter)
    }
}

impl Http1 {
    pub(super) fn has_an_idle_one(&self) -> bool {
        !self.idle.borrow().is_empty()
    }
}

#[derive(Debug)]
struct Idle {
    connection: Http1Connection,
    facts: EndpointFacts,
    born: Instant,
}

impl Pool {
    pub(super) async fn http1(self: &Rc<Self>, peer: &Peer) -> Result<Lease, Failure> {
        let used = self.use_of_one(peer).await?;
        if let Some(lease) = self.take_idle(Instant::now()) {
            return Ok(lease.used_by(used));
        }
        let _waits = Waits::new(&self.series);
        let permit = match self.permit() {
            Some(permit) => permit,
            None => {
                let mut waiter = Waiter::new(self, &self.http1.undialled);
                tokio::select! {
                    biased;
                    lease = waiter.lease() => return Ok(lease?.used_by(used)),
                    permit = self.permit_in_time() => permit?,
                }
            }
        };
        let mut waiter = Waiter::new(self, &self.http1.dialled);
        self.start_http1(permit);
        Ok(waiter.lease().await?.used_by(used))
    }

    /// Leases an idle connection, if the peer may use one more at once.
    pub(super) fn idle_http1(&self, peer: &Peer, now: Instant) -> Option<Lease> {
        if !self.http1.has_an_idle_one() {
            return None;
        }
        let used = self.bounds.connection_at_once(peer)?;
        Some(self.take_idle(now)?.used_by(used))
    }

    fn take_idle(&self, now: Instant) -> Option<Lease> {
        loop {
            let taken = self.http1.idle.borrow_mut().pop()?;
            if self.is_fresh(&taken, now) && taken.connection.is_open(now) {
                let connection = LeasedConnection::Http1(taken.connection, taken.born, None);
                return Some(Lease { connection, reused: true, was_idle: true, facts: taken.facts });
            }
        }
    }

    /// Dials one more connection, for the oldest request that has dialled. Owned by the worker; ends within the connect
    /// timeout.
    fn start_http1(self: &Rc<Self>, permit: Permit) {
        let pool = Rc::clone(self);
        tokio::task::spawn_local(async move {
            match pool.dial(Wire::Http1).await {
                Ok(dialled) => {
                    let lease = pool.http1_lease(dialled, permit);
                    pool.hand_over(lease, [&pool.http1.dialled, &pool.http1.undialled]);
                }
                Err(failure) => {
                    drop(permit);
                    let waiter = pool.http1.dialled.next();
                    if waiter.is_none_or(|waiter| waiter.send(Err(failure)).is_err()) {
                        pool.unseen_failure();
                    }
                }
            }
        });
    }

    pub(super) fn http1_lease(self: &Rc<Self>, dialled: Dialled, permit: Permit) -> Lease {
        let Dialled { stream, facts, http2: _ } = dialled; // negotiated by the dialler
        let pool = Rc::downgrade(self);
        let born = Instant::now();
        permit.ends();
        let owner = Pooled { pool, facts: facts.clone(), born, carried: Cell::new(0), permit };
        let connection =
            Http1Connection::new(stream, Rc::clone(self.dialer.limits(&self.target)), Rc::new(owner));
        Lease {
            connection: LeasedConnection::Http1(connection, born, None),
            reused: false,
            was_idle: false,
            facts,
        }
    }

    /// Takes back a connection that can be reused. Requests that have dialled receive their connection in any case.
    fn came_back(&self, lease: Lease) {
        self.hand_over(lease, [&self.http1.undialled, &self.http1.dialled]);
    }

    /// Passes a connection to the oldest request of the first queue that is not empty, or keeps it. All waiting requests
    /// already hold the use of a connection.
    fn hand_over(&self, mut lease: Lease, lines: [&Line; 2]) {
        while let Some(waiter) = lines.into_iter().find_map(Line::next) {
            match waiter.send(Ok(lease)) {
                Ok(()) => return,
                Err(Ok(back)) => lease = back,
                Err(Err(_)) => return,
            }
        }
        if self.retired.get() || self.bounds.waited_for().is_some() {
            return;
        }
        if let LeasedConnection::Http1(connection, born, _) = lease.connection {
            self.http1.idle.borrow_mut().push(Idle { connection, facts: lease.facts, born });
        }
    }

    /// Closes connections that were idle for too long or that the host has closed.
    pub(super) fn tidy_http1(&self, now: Instant) {
        let mut idle = self.http1.idle.take();
        idle.retain(|idle| self.is_fresh(idle, now) && idle.connection.is_open(now));
        // Closing runs no code that returns a connection here, but that is not guaranteed.
        idle.append(&mut self.http1.idle.borrow_mut());
        *self.http1.idle.borrow_mut() = idle;
    }

    pub(in crate::upstream) fn close_idle_ones(&self) {
        self.http1.idle.take();
    }

    /// Closes the connection that has been idle for longest. Returns false if there is none.
    pub(super) fn close_an_idle_http1(&self) -> bool {
        let oldest = {
            let mut idle = self.http1.idle.borrow_mut();
            if idle.is_empty() { None } else { Some(idle.remove(0)) }
        };
        oldest.is_some()
    }

    fn is_fresh(&self, idle: &Idle, now: Instant) -> bool {
        let settings = self.settings.borrow();
        let idle_timeout = settings.connections.idle_timeout.map_or(IDLE, |idle| idle.min(IDLE));
        now.duration_since(idle.connection.idle_since()) < idle_timeout
            && !settings.is_spent(now.duration_since(idle.born), 0)
    }
}

/// The owner of a pooled connection. Weak, so that connections of a dropped pool are closed.
#[derive(Debug)]
struct Pooled {
    pool: Weak<Pool>,
    facts: EndpointFacts,
    born: Instant,
    /// The number of requests that it has carried.
    carried: Cell<u32>,
    permit: Permit,
}

impl ConnectionOwner for Pooled {
    fn begins(&self) {
        self.permit.begins();
    }

    fn idle(&self, connection: Http1Connection) {
        self.permit.ends();
        self.carried.set(self.carried.get().saturating_add(1));
        let Some(pool) = self.pool.upgrade() else { return };
        if pool
            .settings
            .borrow()
            .is_spent(connection.idle_since().duration_since(self.born), self.carried.get())
        {
            return;
        }
        let connection = LeasedConnection::Http1(connection, self.born, None);
        pool.came_back(Lease { connection, reused: true, was_idle: true, facts: self.facts.clone() });
    }
}
