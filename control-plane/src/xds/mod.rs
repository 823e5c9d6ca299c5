//! The ADS server.
//!
//! [`server`] accepts streams and ends them, [`stream`] moves their messages, [`hub`] wakes the streams that a change
//! affects. [`session`] is the protocol without messages, I/O and clock; [`subscription`] is its state for one resource
//! type; [`nack`] reads why a client rejected resources; [`delta`] converts to and from the messages of the incremental
//! variant.

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

/// Locks a mutex. A poisoned lock is used: no code panics between two steps of a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
