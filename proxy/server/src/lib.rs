//! The process of a proxy: flags, sockets, threads, admin, telemetry, shutdown.
//!
//! Nothing here decides about a request; that is the data plane's. Callers stand first and vocabulary last: a module
//! uses only modules listed below it.

mod lifecycle;
mod sockets;
mod admin;
mod telemetry;
mod readiness;
mod bootstrap;
pub mod args;
mod error;

pub use self::args::Args;
pub use self::error::Error;
pub use self::lifecycle::{Addresses, Embedding, run, run_embedded};
