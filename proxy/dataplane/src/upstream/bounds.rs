//! What one cluster may use: connections, waiting requests, requests in flight.
//!
//! The counts are the process's, because the limits were promised for the process; the limits are those of the newest
//! config. Requests, places in the queue and connections in use are shared between peers ([`crate::capacity`]). An idle
//! connection is nobody's, and serves whom comes next; that the connections that are open, idle ones included, are no more
//! than may be is counted beside that. Waking who waits for an idle connection to close is this worker's: one that another
//! worker closes is noticed within [`RECHECK`].

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::task::Waker;
use std::time::Duration;

use foldhash::HashMap;
use outrigger_core::peer::PeerKey;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::capacity::budget::{ConnectionBudget, Opened};
use crate::capacity::{Capacity, Debt, Debts, Holding, Share};

/// How soon a connection that another worker closed is noticed.
const RECHECK: Duration = Duration::from_millis(20);

/// How long a request waits for a connection.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long a request that finds all places taken waits for one whose client owes bytes to be cut.
const UNTIL_CUT: Duration = Duration::from_secs(1);

/// What of a cluster is in use. One for each cluster name, for the life of the process.
#[derive(Debug)]
pub(super) struct InUse {
    requests: Arc<Capacity>,
    pending: Arc<Capacity>,
    /// Connections that carry a request, or opaque bytes.
    connections: Arc<Capacity>,
    /// Connections that are open, idle ones and shared ones included.
    open: AtomicU32,
    /// Requests that wait for an idle connection, of whichever worker, to close.
    wanted: AtomicU32,
    debts: Arc<Debts>,
}

impl Default for InUse {
    /// Nothing yet. The limits are those of the first worker that uses the cluster.
    fn default() -> Self {
        let debts = Arc::<Debts>::default();
        let capacity = || Capacity::new(0, Arc::clone(&debts));
        Self {
            requests: capacity(),
            pending: capacity(),
            connections: capacity(),
            open: AtomicU32::new(0),
            wanted: AtomicU32::new(0),
            debts,
        }
    }
}

/// One cluster's limits and counts, as one worker sees them.
#[derive(Debug)]
pub(super) struct Bounds {
    limits: RefCell<CircuitBreakers>,
    in_use: Arc<InUse>,
    /// The connections of the process.
    budget: Arc<ConnectionBudget>,
    /// Handles of those that use the cluster through this worker, so that no request takes a lock to find its own.
    peers: RefCell<HashMap<PeerKey, Rc<Peer>>>,
    freed: Rc<Notify>,
}

/// What one peer holds of a cluster.
#[derive(Debug)]
pub(crate) struct Peer {
    requests: Arc<Holding>,
    pending: Arc<Holding>,
    connections: Arc<Holding>,
    in_use: Arc<InUse>,
}

/// The right to an open connection.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    in_use: Arc<InUse>,
    freed: Rc<Notify>,
    _opened: Opened,
}

/// A request that waits for an idle connection to close.
#[derive(Debug)]
pub(super) struct Wanted(Arc<InUse>);

/// A place in the queue for a connection.
pub(super) type PendingPermit = Share;

/// A request in flight, and whose it is.
#[derive(Debug)]
pub(crate) struct RequestPermit {
    pub(crate) peer: Rc<Peer>,
    _share: Share,
}

impl Bounds {
    pub(super) fn new(
        limits: CircuitBreakers,
        in_use: Arc<InUse>,
        budget: Arc<ConnectionBudget>,
    ) -> Rc<Self> {
        let bounds = Self {
            limits: RefCell::new(limits.clone()),
            in_use,
            budget,
            peers: RefCell::default(),
            freed: Rc::default(),
        };
        bounds.set_limits(limits);
        Rc::new(bounds)
    }

    /// The limits of a newer config. What is in use stays in use.
    pub(super) fn set_limits(&self, limits: CircuitBreakers) {
        self.in_use.requests.set_limit(limits.max_requests);
        self.in_use.pending.set_limit(limits.max_pending_requests);
        // What a cluster uses at once is within what the process may open, so that its peers share that.
        self.in_use.connections.set_limit(limits.max_connections.min(self.budget.of_one_cluster()));
        self.limits.replace(limits);
    }

    /// What the peer holds of this cluster.
    pub(super) fn peer(&self, key: &PeerKey) -> Rc<Peer> {
        if let Some(peer) = self.peers.borrow().get(key) {
            return Rc::clone(peer);
        }
        let peer = Rc::new(Peer {
            requests: self.in_use.requests.holding(key),
            pending: self.in_use.pending.holding(key),
            connections: self.in_use.connections.holding(key),
            in_use: Arc::clone(&self.in_use),
        });
        self.peers.borrow_mut().insert(key.clone(), Rc::clone(&peer));
        peer
    }

    /// One request in flight for the peer. When all are taken, and some that others hold are owed, it waits for one of
    /// these to be cut.
    pub(super) async fn request(&self, key: &PeerKey) -> Option<RequestPermit> {
        let peer = self.peer(key);
        let share = match peer.requests.try_take() {
            Some(share) => share,
            None => peer.requests.take_what_is_owed_by(Instant::now() + UNTIL_CUT).await?,
        };
        Some(RequestPermit { peer, _share: share })
    }

    /// The use of one connection for the peer, waiting in the queue for it if there is a place there. `waits` is kept for
    /// as long as it waits.
    pub(super) async fn connection<W>(&self, peer: &Peer, waits: impl FnOnce() -> W) -> Option<Share> {
        if let Some(share) = peer.connections.try_take() {
            return Some(share);
        }
        let _pending = (peer.pending.try_take()?, waits());
        peer.connections.take_by(Instant::now() + LONGEST_WAIT).await
    }

    /// A place in the queue, if there is one for the peer.
    pub(super) fn pending(&self, peer: &Peer) -> Option<PendingPermit> {
        peer.pending.try_take()
    }

    /// The right to open one more connection, if there is one.
    pub(super) fn open(&self) -> Option<ConnectionPermit> {
        let limit = self.limits.borrow().max_connections;
        let one_more = |open| (open < limit).then_some(open + 1);
        let opened = self.budget.open()?;
        self.in_use.open.fetch_update(SeqCst, SeqCst, one_more).ok()?;
        let (in_use, freed) = (Arc::clone(&self.in_use), Rc::clone(&self.freed));
        Some(ConnectionPermit { in_use, freed, _opened: opened })
    }

    /// Says, until it is dropped, that somebody waits for an idle connection to close.
    pub(super) fn wanted(&self) -> Wanted {
        self.in_use.wanted.fetch_add(1, SeqCst);
        Wanted(Arc::clone(&self.in_use))
    }

    /// Whether somebody, on whichever worker, waits for an idle connection to close.
    pub(super) fn are_wanted(&self) -> bool {
        self.in_use.wanted.load(SeqCst) > 0
    }

    /// Resolves when a connection may have been closed. Cancel-safe.
    pub(super) async fn freed(&self) {
        tokio::select! {
            () = self.freed.notified() => {}
            () = tokio::time::sleep(RECHECK) => {}
        }
    }

    /// Lets go of the handles of peers that hold nothing.
    pub(super) fn tidy(&self) {
        self.peers.borrow_mut().retain(|_, peer| peer.requests.used() > 0 || peer.connections.used() > 0);
    }
}

impl Peer {
    /// Lists an exchange of the peer as one whose client owes bytes, until it is dropped.
    pub(crate) fn owes(&self, waker: &Waker) -> Debt {
        self.in_use.debts.list(&[&self.requests, &self.connections], waker)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.in_use.open.fetch_sub(1, SeqCst);
        self.freed.notify_one();
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.wanted.fetch_sub(1, SeqCst);
    }
}
