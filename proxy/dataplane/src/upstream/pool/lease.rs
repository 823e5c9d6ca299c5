//! What a request is given of a pool: a connection, and what goes with it.

use std::cell::Cell;
use std::sync::Arc;

use outrigger_core::error::Failure;
use outrigger_core::identity::SpiffeId;
use tokio::time::Instant;

use super::overflow;
use crate::capacity::Share;
use crate::codec::answer::Answer;
use crate::codec::body::Body;
use crate::codec::client::{self, Http1Connection, Http2Connection};
use crate::codec::head::RequestHead;
use crate::codec::usage::Usage;
use crate::metrics::{ClusterSeries, Counter};
use crate::upstream::bounds::{ConnectionPermit, LONGEST_WAIT, PendingPermit};

/// A connection that may carry one request now.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(super) connection: LeasedConnection,
    /// Whether it carried a request before.
    pub(crate) reused: bool,
    /// Whether it carried none when this one was given it: the host may have closed it just then.
    pub(crate) was_idle: bool,
    /// Who is at the other end, verified.
    pub(crate) peer: Option<SpiffeId>,
}

#[derive(Debug)]
pub(super) enum LeasedConnection {
    /// And when it was made, and the use of it, once it has a user.
    Http1(Http1Connection, Instant, Option<Share>),
    /// And the place in the queue that the request holds until it is sent.
    Http2(Http2Connection, Option<Queued>),
}

impl Lease {
    /// Begins a request on it. Only HTTP/2 copies the head, which it may have to keep until there is a stream.
    pub(crate) fn send(self, head: &RequestHead, body: Body) -> Exchange {
        match self.connection {
            LeasedConnection::Http1(connection, _, used) => {
                Exchange { inner: connection.send(head, body).into(), _used: used }
            }
            LeasedConnection::Http2(connection, queued) => {
                let head = head.clone();
                let inner = match queued {
                    None => connection.send(head, body),
                    Some(queued) => connection.send_queued(head, body, queued.until_overflow()),
                };
                Exchange { inner, _used: None }
            }
        }
    }

    /// The lease for who has the right to use a connection.
    pub(super) fn used_by(mut self, share: Share) -> Self {
        if let LeasedConnection::Http1(_, _, used) = &mut self.connection {
            *used = Some(share);
        }
        self
    }
}

/// A request under way. Keep it until its answer is through: it counts as the peer's use of a connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    inner: client::Exchange,
    /// Of a connection that carries one request at a time.
    _used: Option<Share>,
}

impl Exchange {
    /// The next head that the upstream sends. Call it until it is not an interim one. Cancel-safe.
    pub(crate) async fn answer(&mut self) -> Result<Answer, Failure> {
        self.inner.answer().await
    }
}

/// A request that waits for a stream of a connection, and its place in the queue where it needs one.
#[derive(Debug)]
pub(super) struct Queued {
    waits: Waits,
    pub(super) place: Option<PendingPermit>,
}

impl Queued {
    pub(super) fn new(series: &Arc<ClusterSeries>) -> Self {
        Self { waits: Waits::new(series), place: None }
    }

    /// The overflow that it is when it has lasted for as long as it may. Keeps the place until then.
    async fn until_overflow(self) -> Failure {
        tokio::time::sleep(LONGEST_WAIT).await;
        self.waits.0.overflow.increment();
        overflow()
    }
}

/// A request that waits for a connection, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Waits(Arc<ClusterSeries>);

impl Waits {
    pub(super) fn new(series: &Arc<ClusterSeries>) -> Self {
        series.pending.increment();
        Self(Arc::clone(series))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.pending.decrement();
    }
}

/// The right to one connection, kept as long as the connection, and its place in the gauges.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: ConnectionPermit,
    /// The use of it, where it has one user for all of its life.
    used: Option<Share>,
    series: Arc<ClusterSeries>,
    state: Cell<Activity>,
}

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// It is being made.
    Connecting,
    Active,
    Idle,
}

impl Permit {
    /// Counted in `series` until it is dropped.
    pub(super) fn new(permit: ConnectionPermit, series: Arc<ClusterSeries>) -> Self {
        series.connections_open.increment();
        Self { _permit: permit, used: None, series, state: Cell::new(Activity::Connecting) }
    }

    /// The connection has one user for all of its life.
    pub(super) fn used_by(mut self, share: Share) -> Self {
        self.used = Some(share);
        self.begins();
        self
    }

    /// The gauge that counts connections in that state.
    fn gauge(&self, state: Activity) -> Option<&Counter> {
        match state {
            Activity::Connecting => None,
            Activity::Active => Some(&self.series.connections_active),
            Activity::Idle => Some(&self.series.connections_idle),
        }
    }

    fn set(&self, state: Activity) {
        if let Some(before) = self.gauge(self.state.replace(state)) {
            before.decrement();
        }
        if let Some(now) = self.gauge(state) {
            now.increment();
        }
    }
}

impl Usage for Permit {
    fn begins(&self) {
        self.set(Activity::Active);
    }

    fn ends(&self) {
        self.set(Activity::Idle);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.set(Activity::Connecting);
        self.series.connections_open.decrement();
    }
}
