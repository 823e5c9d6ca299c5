//! Telemetry: the proxy's own log, the access log, spans and metrics, and their export by OTLP.
//!
//! Workers have counters of their own and send finished requests through bounded channels to other threads. Telemetry never
//! delays a request.

pub(crate) mod metrics;
pub(crate) mod spans;
pub(crate) mod logs;
pub(crate) mod otlp;
mod outcome;
mod attributes;
pub(crate) mod access_log;
mod redaction;
pub(crate) mod own_log;
pub(crate) mod losses;
mod signal;
pub(crate) mod local_identity;
