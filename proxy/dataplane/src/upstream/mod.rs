//! Upstream: clusters and their hosts, as one worker sees them.

mod balance;
