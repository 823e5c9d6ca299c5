//! The proxy process: flags, sockets, threads, admin endpoint, telemetry, shutdown; and the redirection of connections to it.
//!
//! Request handling is in the data plane crate. A module uses only modules listed below it.

mod lifecycle;
mod admin_client;
mod cni;
mod capture;
mod sockets;
mod admin;
mod app_probes;
mod telemetry;
mod readiness;
mod bootstrap;
mod inherited;
mod dns;
mod args;
mod error;

pub use self::admin_client::{DrainArgs, WaitArgs, drain, wait};
pub use self::args::Args;
pub use self::capture::cgroup::CgroupCapture;
pub use self::capture::{CaptureArgs, OutboundExclusions, capture};
pub use self::cni::{CniArgs, cni, is_cni_plugin, run_cni_plugin};
pub use self::error::Error;
pub use self::lifecycle::{Addresses, Embedding, run, run_embedded};
