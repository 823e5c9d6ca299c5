//! Discovery: xDS streams, the saved configuration, identity, registration, DNS.
//!
//! [`Discovery::start`] is called once, on the control thread. A supervisor owns every task of this crate: one renews the
//! identity, one keeps the workload registered, one keeps an ADS stream open. They all survive an unreachable control plane. A
//! module uses only modules listed below it.

mod discovery;
mod resource_json;
mod xds;
mod identity;
mod registration;
pub mod status;
mod control_plane;
pub mod dns;
mod state_dir;
mod clock;
mod backoff;
mod log_throttle;

#[cfg(test)]
mod testing;

pub use discovery::{AcceptedResource, Config, Discovery, Handle, Reader, ResourceState, StartError, Wiring};
pub use outrigger_proto::kind::Kind;
pub use registration::{Deregistration, WorkloadPort};
pub use xds::subscriptions::Mode;
