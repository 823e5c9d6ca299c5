//! The limits of one cluster: connections, pending requests, requests in flight.
//!
//! Counts are process-wide, because the limits are; the limits are those of the newest configuration. Requests, queue slots and
//! connections in use are shared between peers ([`crate::capacity`]). An idle connection belongs to no peer and serves the next
//! request. Open connections, including idle ones, are counted separately. A request that waits for a connection to close is
//! first in line for its permit, and causes idle connections to be closed on all workers.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use foldhash::HashMap;
use outrigger_core::peer::PeerKey;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use tokio::time::Instant;

use crate::capacity::budget::ConnectionBudget;
use crate::capacity::{Capacity, Debt, Debts, Holding, Share};

/// How long a request waits for a connection.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How long a request waits for another request, whose client stalls, to be cut off when no permit is left.
const UNTIL_CUT: Duration = Duration::from_secs(1);

/// The amounts in use of a cluster. One per cluster name, for the lifetime of the process.
#[derive(Debug)]
pub(super) struct InUse {
    requests: Arc<Capacity>,
    pending: Arc<Capacity>,
    /// Connections that carry a request or opaque bytes.
    connections: Arc<Capacity>,
    /// Open connections, including idle and shared ones.
    open: Arc<Holding>,
    debts: Arc<Debts>,
    /// Requests that the application has. Their limit is that of [`super::overload`].
    running: Arc<Capacity>,
}

impl Default for InUse {
    /// Creates the counts with nothing in use. The first worker that uses the cluster sets the limits.
    fn default() -> Self {
        let debts = Arc::<Debts>::default();
        let capacity = || Capacity::new(0, Arc::clone(&debts));
        Self {
            requests: capacity(),
            pending: capacity(),
            connections: capacity(),
            open: Capacity::unshared(0),
            debts,
            running: Capacity::newest_first(u32::MAX),
        }
    }
}

impl InUse {
    /// Returns the requests that the application has.
    pub(super) fn running(&self) -> &Arc<Capacity> {
        &self.running
    }
}

/// The limits and counts of one cluster, as seen by one worker.
#[derive(Debug)]
pub(super) struct Bounds {
    in_use: Arc<InUse>,
    /// The connection budget of the process.
    budget: Arc<ConnectionBudget>,
    /// Handles of the peers that use the cluster through this worker, so that a request finds its handle without a lock.
    peers: RefCell<HashMap<PeerKey, Rc<Peer>>>,
}

/// The amounts of a cluster's capacities that one peer holds.
#[derive(Debug)]
pub(crate) struct Peer {
    requests: Arc<Holding>,
    pending: Arc<Holding>,
    connections: Arc<Holding>,
    running: Arc<Holding>,
    in_use: Arc<InUse>,
}

/// The permit for an open connection: one of the cluster's permits and one of the process's.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    _of_cluster: Share,
    _of_process: Share,
}

/// Why no connection may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exhausted {
    /// The limit of the cluster is reached.
    Cluster,
    /// No file descriptor is left for it.
    Process,
}

/// A slot in the queue for a connection.
pub(super) type PendingPermit = Share;

/// The permit for a peer's request in flight.
#[derive(Debug)]
pub(crate) struct RequestPermit {
    pub(crate) peer: Rc<Peer>,
    _share: Share,
}

impl Bounds {
    pub(super) fn new(
        limits: &CircuitBreakers,
        in_use: Arc<InUse>,
        budget: Arc<ConnectionBudget>,
    ) -> Rc<Self> {
        let bounds = Self { in_use, budget, peers: RefCell::default() };
        bounds.set_limits(limits);
        Rc::new(bounds)
    }

    /// Sets the limits of a newer configuration. Permits in use stay in use.
    pub(super) fn set_limits(&self, limits: &CircuitBreakers) {
        self.in_use.requests.set_limit(limits.max_requests);
        self.in_use.pending.set_limit(limits.max_pending_requests);
        // A cluster may not use more at once than the process may open, so that its peers share that amount.
        self.in_use.connections.set_limit(limits.max_connections.min(self.budget.of_one_cluster()));
        self.in_use.open.capacity().set_limit(limits.max_connections);
    }

    /// Returns the handle of a peer.
    pub(super) fn peer(&self, key: &PeerKey) -> Rc<Peer> {
        if let Some(peer) = self.peers.borrow().get(key) {
            return Rc::clone(peer);
        }
        let peer = Rc::new(Peer {
            requests: self.in_use.requests.holding(key),
            pending: self.in_use.pending.holding(key),
            connections: self.in_use.connections.holding(key),
            running: self.in_use.running.holding(key),
            in_use: Arc::clone(&self.in_use),
        });
        self.peers.borrow_mut().insert(key.clone(), Rc::clone(&peer));
        peer
    }

    /// Acquires a permit for one request of the peer. If none is left and clients of other requests stall, waits for one of
    /// those requests to be cut off. Returns `None` if there is no capacity.
    pub(super) async fn request(&self, key: &PeerKey) -> Option<RequestPermit> {
        let peer = self.peer(key);
        let share = match peer.requests.try_take() {
            Some(share) => share,
            None => peer.requests.take_what_is_owed_by(Instant::now() + UNTIL_CUT).await?,
        };
        Some(RequestPermit { peer, _share: share })
    }

    /// Acquires a permit for one more attempt of a request of the peer, if one is available to it now.
    pub(super) fn request_at_once(&self, peer: &Rc<Peer>) -> Option<RequestPermit> {
        let share = peer.requests.try_take()?;
        Some(RequestPermit { peer: Rc::clone(peer), _share: share })
    }

    /// Acquires the use of one connection for the peer, if one is available to it now.
    pub(super) fn connection_at_once(&self, peer: &Peer) -> Option<Share> {
        peer.connections.try_take()
    }

    /// Acquires the use of one connection for the peer. Waits in the queue if a slot is available there. The value that `waits`
    /// returns is kept while it waits.
    pub(super) async fn connection<W>(&self, peer: &Peer, waits: impl FnOnce() -> W) -> Option<Share> {
        if let Some(share) = peer.connections.try_take() {
            return Some(share);
        }
        let _pending = (peer.pending.try_take()?, waits());
        peer.connections.take_by(Instant::now() + LONGEST_WAIT).await
    }

    /// Acquires a slot in the queue, if the peer may have one.
    pub(super) fn pending(&self, peer: &Peer) -> Option<PendingPermit> {
        peer.pending.try_take()
    }

    /// Acquires the permit to open one more connection, if one is available.
    pub(super) fn open(&self) -> Result<ConnectionPermit, Exhausted> {
        let of_cluster = self.in_use.open.try_take().ok_or(Exhausted::Cluster)?;
        let of_process = self.budget.open().try_take().ok_or(Exhausted::Process)?;
        Ok(ConnectionPermit { _of_cluster: of_cluster, _of_process: of_process })
    }

    /// Like [`Self::open`], but waits for connections to close. Cancel-safe.
    pub(super) async fn open_in_turn(&self) -> Option<ConnectionPermit> {
        let of_cluster = self.turn(&self.in_use.open).await?;
        let of_process = self.turn(self.budget.open()).await?;
        Some(ConnectionPermit { _of_cluster: of_cluster, _of_process: of_process })
    }

    async fn turn(&self, open: &Arc<Holding>) -> Option<Share> {
        if let Some(share) = open.try_take() {
            return Some(share);
        }
        // Queued first, so that the permit of a connection that closes now is not missed.
        let waiting = open.wait();
        self.budget.call_for_one();
        waiting.await
    }

    /// Returns the limit for which requests wait on any worker, if there is one.
    pub(super) fn waited_for(&self) -> Option<Exhausted> {
        if self.in_use.open.capacity().is_waited_for() {
            return Some(Exhausted::Cluster);
        }
        self.budget.open().capacity().is_waited_for().then_some(Exhausted::Process)
    }

    /// Drops the handles of peers that hold nothing.
    pub(super) fn tidy(&self) {
        self.peers.borrow_mut().retain(|_, peer| peer.requests.used() > 0 || peer.connections.used() > 0);
    }
}

impl Peer {
    /// Returns the requests of the peer that the application has.
    pub(super) fn running(&self) -> &Arc<Holding> {
        &self.running
    }

    /// Lists an exchange of the peer as one whose client stalls, until the returned value is dropped.
    pub(crate) fn owes(&self, waker: &Waker) -> Debt {
        self.in_use.debts.list(&[&self.requests, &self.connections], waker)
    }
}
