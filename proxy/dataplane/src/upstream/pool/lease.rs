//! A leased connection, and the permits that belong to it.

use std::cell::Cell;
use std::sync::Arc;

use outrigger_core::error::Failure;
use outrigger_core::record::Protocol;
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
use crate::upstream::dial::EndpointFacts;

/// A connection that may carry one request.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(super) connection: LeasedConnection,
    /// Whether it has carried a request before.
    pub(crate) reused: bool,
    /// Whether it was idle when it was leased: the host may have closed it at that moment.
    pub(crate) was_idle: bool,
    /// The endpoint's identity and the TLS session.
    pub(crate) facts: EndpointFacts,
}

#[derive(Debug)]
pub(super) enum LeasedConnection {
    /// With the time of its creation, and the permit to use it once it has a user.
    Http1(Http1Connection, Instant, Option<Share>),
    /// With the slot in the queue that the request holds until it is sent.
    Http2(Http2Connection, Option<Queued>),
}

impl Lease {
    /// Sends a request on it. The head is copied only if the request has to wait for a stream of HTTP/2.
    pub(crate) fn send(self, head: &RequestHead, body: Body) -> Exchange {
        match self.connection {
            LeasedConnection::Http1(connection, _, used) => {
                Exchange { inner: connection.send(head, body).into(), _used: used }
            }
            LeasedConnection::Http2(connection, queued) => {
                let inner = match queued {
                    None => connection.send(head, body),
                    Some(queued) => connection.send_queued(head, body, queued.until_overflow()),
                };
                Exchange { inner, _used: None }
            }
        }
    }

    /// Returns the protocol of the connection.
    pub(crate) fn protocol(&self) -> Protocol {
        match self.connection {
            LeasedConnection::Http1(..) => Protocol::Http11,
            LeasedConnection::Http2(..) => Protocol::Http2,
        }
    }

    /// Attaches the permit to use a connection.
    pub(super) fn used_by(mut self, share: Share) -> Self {
        if let LeasedConnection::Http1(_, _, used) = &mut self.connection {
            *used = Some(share);
        }
        self
    }
}

/// A request in flight. It must be kept until its response is complete, because it counts as the peer's use of a connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    inner: client::Exchange,
    /// The permit to use a connection that carries one request at a time.
    _used: Option<Share>,
}

impl Exchange {
    /// Returns the next head from the upstream. Must be called until the head is not an interim one. Cancel-safe.
    pub(crate) async fn answer(&mut self) -> Result<Answer, Failure> {
        self.inner.answer().await
    }
}

/// A request that waits for a stream, with its slot in the queue if it needs one.
#[derive(Debug)]
pub(super) struct Queued {
    waits: Waits,
    pub(super) place: Option<PendingPermit>,
}

impl Queued {
    pub(super) fn new(series: &Arc<ClusterSeries>) -> Self {
        Self { waits: Waits::new(series), place: None }
    }

    /// Resolves to the overflow failure when the request has waited for too long. Keeps the slot until then.
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

/// The permit for one connection, kept for its lifetime, and its state in the gauges.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: ConnectionPermit,
    /// The permit to use it, if it has one user for its whole lifetime.
    used: Option<Share>,
    series: Arc<ClusterSeries>,
    state: Cell<Activity>,
}

/// The state of a connection in the gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// It is being established.
    Connecting,
    Active,
    Idle,
}

impl Permit {
    /// Creates a permit that is counted in `series` until it is dropped.
    pub(super) fn new(permit: ConnectionPermit, series: Arc<ClusterSeries>) -> Self {
        series.connections_open.increment();
        Self { _permit: permit, used: None, series, state: Cell::new(Activity::Connecting) }
    }

    /// Records that the connection has one user for its whole lifetime.
    pub(super) fn used_by(mut self, share: Share) -> Self {
        self.used = Some(share);
        self.begins();
        self
    }

    /// Returns the gauge that counts connections in that state.
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
