//! What a request is given of a pool: a connection, and what goes with it.

use std::sync::Arc;

use outrigger_core::identity::SpiffeId;
use tokio::time::Instant;

use crate::codec::body::Body;
use crate::codec::client::{Exchange, Http1Connection, Http2Connection};
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
    /// And when it was made.
    Http1(Http1Connection, Instant),
    /// And the place in the queue that the request holds until it is sent.
    Http2(Http2Connection, Option<PendingPermit>),
}

impl Lease {
    /// Begins a request on it. Only HTTP/2 copies the head, which it may have to keep until there is a stream.
    pub(crate) fn send(self, head: &RequestHead, body: Body) -> Exchange {
        match self.connection {
            Connection::Http1(connection, _) => connection.send(head, body).into(),
            Connection::Http2(connection, pending) => connection.send(head.clone(), body.guarded(pending)),
        }
    }
}

/// The right to one connection, kept as long as the connection.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(super) _permit: ConnectionPermit,
    pub(super) series: Arc<ClusterSeries>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.series.connections_active.decrement();
    }
}
