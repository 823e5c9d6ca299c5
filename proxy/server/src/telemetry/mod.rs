//! What the proxy tells about itself and its traffic: its own log, access log, spans, metrics.
//!
//! Workers count in their own series and put finished requests into bounded channels; everything below reads them on
//! other threads. Nothing here can hold up a request.

pub(crate) mod metrics;
pub(crate) mod spans;
pub(crate) mod access_log;
pub(crate) mod own_log;
pub(crate) mod losses;
pub(crate) mod local_identity;
