//! HTTP requests, from head to record.

pub(crate) mod destination;
mod trace_context;
