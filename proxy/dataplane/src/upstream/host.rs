//! One endpoint of a cluster as one worker sees it: its load, its connections, and its health, which all workers share.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::endpoint::{Endpoint, HealthStatus};
use outrigger_core::Name;
use outrigger_core::error::Failure;
use outrigger_policy::outlier::Health;
use tokio::time::Instant;

use super::balance::Load;
use super::bounds::Peer;
use super::dial::{Dialled, Use};
use super::pool::{Lease, Permit, Pool, Speaks};

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
    pub(super) health: Arc<Health>,
    pub(super) pool: Rc<Pool>,
}

impl Host {
    /// Whether this host is what `endpoint` describes, transport aside.
    pub(super) fn is(&self, endpoint: &Endpoint) -> bool {
        let takes_new = matches!(endpoint.health, HealthStatus::Healthy | HealthStatus::Degraded);
        self.weight == endpoint.weight && self.takes_new == takes_new && self.instance == endpoint.instance
    }

    /// A connection for one request of `peer`.
    pub(crate) async fn lease(&self, purpose: Use, speaks: Speaks, peer: &Peer) -> Result<Lease, Failure> {
        self.pool.lease(purpose, speaks, peer).await
    }

    /// A connection for opaque bytes of `peer`.
    pub(crate) async fn opaque(&self, peer: &Peer) -> Result<(Dialled, Permit), Failure> {
        self.pool.opaque(peer).await
    }

    /// Counts a try at this host until it is dropped.
    pub(crate) fn begin(self: &Rc<Self>) -> Asking {
        self.load.begin();
        Asking { host: Rc::clone(self), began: Instant::now() }
    }
}

/// A try under way at a host.
#[derive(Debug)]
pub(crate) struct Asking {
    host: Rc<Host>,
    began: Instant,
}

impl Asking {
    /// The head of an answer is here, and it is no failure.
    pub(crate) fn answered(&self) {
        let now = Instant::now();
        self.host.load.answered(now.duration_since(self.began), now);
    }

    /// No answer came, or one that says that the request failed.
    pub(crate) fn failed(&self) {
        self.host.load.failed(Instant::now());
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.host.load.end();
    }
}
