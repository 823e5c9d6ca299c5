//! Faults that are injected to test what callers do when a service is slow or fails: the meaning of a FaultInjectionPolicy.

use std::time::Duration;

use super::route::ValueMatch;

/// The meaning of a FaultInjectionPolicy. It has at least one fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultInjection {
    /// How long requests wait.
    pub delay: Option<(Duration, Percent)>,
    /// What requests are answered with.
    pub abort: Option<(Abort, Percent)>,
    /// How fast the bodies of responses pass, in KiB per second.
    pub bandwidth: Option<(u32, Percent)>,
    /// Only requests with all of these headers.
    pub headers: Vec<ValueMatch>,
    /// How many faults may be active at the same time in one proxy.
    pub max_active_faults: Option<u32>,
}

impl FaultInjection {
    /// Returns the number of different faults.
    pub fn count(&self) -> usize {
        [self.delay.is_some(), self.abort.is_some(), self.bandwidth.is_some()]
            .iter()
            .filter(|has| **has)
            .count()
    }
}

/// How many of a hundred requests get a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(pub u32);

/// The answer to an aborted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// An HTTP status.
    Http(u32),
    /// A gRPC status.
    Grpc(u32),
}
