//! A destination: a Listener without an address, the client-side form that gRPC defined.

use std::sync::atomic::{AtomicBool, Ordering};

use outrigger_core::Name;

use crate::handler::Handler;

/// A destination, under the requested name.
#[derive(Debug)]
pub struct Destination {
    /// The requested name: `cart:80`.
    pub name: Name,
    /// Its canonical name: `cart.shop.svc.cluster.local:80`. For records and metrics. The requested name if the control
    /// plane does not send a canonical one.
    pub canonical: Name,
    /// Handles connections to it.
    pub handler: Handler,
    /// Whether it was used since the last sweep.
    pub usage: Usage,
}

/// Records whether something was used since the last check.
#[derive(Debug, Default)]
pub struct Usage(AtomicBool);

impl Usage {
    /// Records a use. Writes only the first time, so that workers do not contend for the cache line.
    pub fn touch(&self) {
        if !self.0.load(Ordering::Relaxed) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if it was used since the last call.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}
