//! HTTP requests: [`request`] names every stage in order.

pub(crate) mod service;
mod request;
mod connect;
mod upgrade;
mod mirror;
mod rewritten;
mod forward;
mod filters;
mod replay;
mod journal;
pub(crate) mod downstream;
mod respond;
mod forwarded;
mod trace_context;
