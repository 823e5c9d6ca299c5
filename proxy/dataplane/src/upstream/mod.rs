//! Upstream: clusters and their hosts, as one worker sees them, over state that all workers share.

pub(crate) mod cluster;
pub(crate) mod host;
mod checks;
pub(crate) mod pool;
mod balance;
mod silence;
mod answers;
pub(crate) mod race;
pub(crate) mod overload;
pub(crate) mod shared;
pub(crate) mod bounds;
pub(crate) mod dial;

#[cfg(feature = "stages")]
pub use balance::Picks;
