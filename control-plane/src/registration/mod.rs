//! Registration of workloads on plain Linux: which workloads are endpoints of which services, and for how long.
//!
//! [`service`] serves one stream for each workload; [`registrar`] is the task that decides, persists and publishes;
//! [`leases`] has the rules of leases and addresses; [`workload`] validates registrations.

pub(crate) mod service;
pub(crate) mod registrar;
mod leases;
mod workload;
