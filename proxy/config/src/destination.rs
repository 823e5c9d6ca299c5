//! Something to call, in the client-side shape that gRPC defined: a Listener without an address.

use std::sync::atomic::{AtomicBool, Ordering};

use outrigger_core::Name;

use crate::handler::Handler;

/// A destination as one asked for it.
#[derive(Debug)]
pub struct Destination {
    /// The name that was asked for: `cart:80`.
    pub name: Name,
    /// The one name that it has everywhere: `cart.shop.svc.cluster.local:80`. For records and metrics. The name that was
    /// asked for, where the control plane does not say it.
    pub canonical: Name,
    /// What becomes of connections to it.
    pub handler: Handler,
    /// Whether anybody used it lately.
    pub usage: Usage,
}

/// Whether something was used since it was last asked.
#[derive(Debug, Default)]
pub struct Usage(AtomicBool);

impl Usage {
    /// Says that it is used. Writes only the first time, so that workers do not fight for the line.
    pub fn touch(&self) {
        if !self.0.load(Ordering::Relaxed) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was used since the last call.
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}
