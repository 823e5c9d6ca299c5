//! Telemetry: the proxy's own log, the access log, spans and metrics.
//!
//! Workers have counters of their own and send finished requests through bounded channels to other threads. Telemetry never
//! delays a request.

pub(crate) mod metrics;
pub(crate) mod spans;
mod attributes;
pub(crate) mod access_log;
pub(crate) mod own_log;
pub(crate) mod losses;
pub(crate) mod local_identity;
