//! Upstream: clusters and their hosts, as one worker sees them.

pub(crate) mod pool;
mod balance;
mod bounds;
pub(crate) mod dial;
pub(crate) mod shared;
