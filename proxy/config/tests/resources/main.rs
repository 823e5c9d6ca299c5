//! Resources as control planes send them, given to the builder: what is accepted, what is refused, what waits for what.

#![allow(missing_docs, unreachable_pub)]
// Helpers of tests may panic: it is how a test fails.
#![allow(clippy::unwrap_used, clippy::panic)]

mod balancing;
mod contract;
mod dns;
mod hashing;
mod limits;
mod overrides;
mod refusals;
mod snapshots;
mod fields;
mod fixture;
