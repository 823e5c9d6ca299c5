//! HTTP, from a request's head to its record: [`request`] names every stage in order.
//!
//! [`service`] is what the codec calls; [`downstream`] is the connection that a request came on.

pub(crate) mod service;
mod request;
mod connect;
mod upgrade;
mod mirror;
mod rewritten;
mod stalled;
mod paced;
mod forward;
mod request_timeout;
mod action;
mod session;
mod filters;
mod read_body;
mod keys;
mod ask;
mod decide;
mod reply;
mod pair;
mod leg;
mod attempt;
mod refusal;
mod replay;
mod time_limit;
mod request_context;
pub(crate) mod downstream;
mod journal;
mod respond;
mod client_certificate;
mod forwarded;
mod trace_context;
mod trace_parent;
mod uptime;
