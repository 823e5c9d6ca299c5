//! Where config comes from: xDS streams, cache on disk, identity, registration, DNS.
//!
//! [`Discovery::start`] is called once, on the control thread. From then on a supervisor owns every task of this crate: one
//! that keeps an identity, one that keeps the workload registered, one that keeps an ADS stream open. A control plane that
//! is away ends none of them. As everywhere, a module uses only modules listed below it.

mod ads;
mod backoff;
mod cache;
mod certificate;
mod channel;
mod clock;
mod discovery;
pub mod dns;
mod identity;
mod kind;
mod references;
mod registration;
mod secrets;
mod state_dir;
pub mod status;
mod store;
mod stream;
mod subscriptions;
mod supervisor;
mod trust;
mod warming;

#[cfg(test)]
mod testing;

pub use channel::ChannelError;
pub use discovery::{Config, Discovery, Handle, Reader, ResourceVersion, StartError, Wiring};
pub use identity::IdentityError;
pub use kind::Kind;
pub use registration::{Left, WorkloadPort};
pub use subscriptions::Mode;
pub use trust::RootsError;
