//! What one cluster may use: connections, waiting requests, requests in flight.
//!
//! The counts are the process's ([`InUse`]), because the limits were promised for the process; the limits are those of
//! the newest config. Waking who waits for a connection is this worker's: one that another worker gives back is noticed
//! within [`RECHECK`].

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_policy::circuit_breaker::{CircuitBreakers, InUse, Resource, Room};
use tokio::sync::Notify;

/// How soon a connection that another worker gave back is noticed.
const RECHECK: Duration = Duration::from_millis(20);

/// One cluster's limits and counts, as one worker sees them.
#[derive(Debug)]
pub(super) struct Bounds {
    limits: RefCell<CircuitBreakers>,
    in_use: Arc<InUse>,
    freed: Rc<Notify>,
}

/// Room for one connection.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    room: Option<Room>,
    freed: Rc<Notify>,
}

/// A place in the queue for a connection.
pub(super) type PendingPermit = Room;

impl Bounds {
    pub(super) fn new(limits: CircuitBreakers, in_use: Arc<InUse>) -> Rc<Self> {
        Rc::new(Self { limits: RefCell::new(limits), in_use, freed: Rc::default() })
    }

    /// The limits of a newer config. What is in use stays in use.
    pub(super) fn set_limits(&self, limits: CircuitBreakers) {
        self.limits.replace(limits);
    }

    /// Room for one connection, if there is some.
    pub(super) fn connection(&self) -> Option<ConnectionPermit> {
        let room = self.in_use.take(&self.limits.borrow(), Resource::Connection)?;
        Some(ConnectionPermit { room: Some(room), freed: Rc::clone(&self.freed) })
    }

    /// A place in the queue, if there is one.
    pub(super) fn pending(&self) -> Option<PendingPermit> {
        self.in_use.take(&self.limits.borrow(), Resource::Pending)
    }

    /// Room for one request in flight, if there is some.
    pub(super) fn request(&self) -> Option<Room> {
        self.in_use.take(&self.limits.borrow(), Resource::Request)
    }

    /// Resolves when a connection may have been given back. Cancel-safe.
    pub(super) async fn freed(&self) {
        tokio::select! {
            () = self.freed.notified() => {}
            () = tokio::time::sleep(RECHECK) => {}
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        drop(self.room.take());
        self.freed.notify_one();
    }
}
