//! What a request is given of a pool: a connection, and what goes with it.

use std::sync::Arc;

use outrigger_core::error::Failure;
use outrigger_core::identity::SpiffeId;
use tokio::time::Instant;

use crate::capacity::Share;
use crate::codec::answer::Answer;
use crate::codec::body::Body;
use crate::codec::client::{self, Http1Connection, Http2Connection};
use crate::codec::head::RequestHead;
use crate::metrics::ClusterSeries;
use crate::upstream::bounds::{ConnectionPermit, PendingPermit};

/// A connection that may carry one request now.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(super) connection: Connection,
    /// Whether it carried a request before.
    pub(crate) reused: bool,
    /// Who is at the other end, verified.
    pub(crate) peer: Option<SpiffeId>,
}

#[derive(Debug)]
pub(super) enum Connection {
    /// And when it was made, and the use of it, once it has a user.
    Http1(Http1Connection, Instant, Option<Share>),
    /// And the place in the queue that the request holds until it is sent.
    Http2(Http2Connection, Option<PendingPermit>),
}

impl Lease {
    /// Begins a request on it. Only HTTP/2 copies the head, which it may have to keep until there is a stream.
    pub(crate) fn send(self, head: &RequestHead, body: Body) -> Exchange {
        match self.connection {
            Connection::Http1(connection, _, used) => {
                Exchange { inner: connection.send(head, body).into(), _used: used }
            }
            Connection::Http2(connection, pending) => {
                Exchange { inner: connection.send(head.clone(), body.guarded(pending)), _used: None }
            }
        }
    }

    /// The lease for who has the right to use a connection.
    pub(super) fn used_by(mut self, share: Share) -> Self {
        if let Connection::Http1(_, _, used) = &mut self.connection {
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

/// The right to one connection, kept as long as the connection.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: ConnectionPermit,
    /// The use of it, where it has one user for all of its life.
    used: Option<Share>,
    series: Arc<ClusterSeries>,
}

impl Permit {
    /// Counted in `series` until it is dropped.
    pub(super) fn new(permit: ConnectionPermit, series: Arc<ClusterSeries>) -> Self {
        series.connections_active.increment();
        Self { _permit: permit, used: None, series }
    }

    /// The connection has one user for all of its life.
    pub(super) fn used_by(mut self, share: Share) -> Self {
        self.used = Some(share);
        self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.series.connections_active.decrement();
    }
}
