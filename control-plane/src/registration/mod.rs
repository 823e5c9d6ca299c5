//! Registration of workloads on plain Linux: who may stand behind which service, and for how long.
//!
//! [`service`] holds one stream for each workload; [`registrar`] is the one task that decides, writes and publishes;
//! [`book`] has the rules of leases and claims; [`workload`] reads what a workload says of itself.

pub(crate) mod service;
pub(crate) mod registrar;
mod book;
mod workload;
