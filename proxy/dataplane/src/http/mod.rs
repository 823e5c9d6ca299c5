//! HTTP requests, from head to record.

pub(crate) mod destination;
mod replay;
mod respond;
mod forwarded;
mod trace_context;
