//! The ADS server: what proxies are told, and when.
//!
//! [`server`] decides who may open a stream, [`stream`] moves its messages, [`hub`] knows which stream cares about what.
//! [`session`] is the protocol without messages, I/O or clock, and [`subscription`] the part of it that one resource type
//! needs; [`delta`] puts it into the messages of the incremental variant. State-of-the-world becomes a second one.

pub(crate) mod server;
mod stream;
mod hub;
pub(crate) mod status;
mod delta;
mod session;
mod unserved;
mod subscription;
mod nack;
mod node;
mod workers;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; no code that holds one of these locks can panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
