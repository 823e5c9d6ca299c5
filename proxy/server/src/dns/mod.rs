//! The DNS answerer (`--dns`): names of the mesh get their addresses, all other queries are forwarded to the machine's name servers.
//!
//! It runs on the control thread, not on the data path. Clients are programs of this machine: redirected ones
//! ([`crate::capture`]), or those whose resolver is configured to ask it. The addresses of a name are subscribed to when a client first
//! asks for it, so memory does not grow with the mesh. Without a control plane, known names are answered and others forwarded.

mod server;
mod bounded_tasks;
mod answerer;
mod host_name;
mod forwarder;
mod query;
pub(crate) mod name_servers;
pub(crate) mod counters;

pub(crate) use self::answerer::Answerer;
pub(crate) use self::forwarder::Forwarder;
pub(crate) use self::server::{DnsSocket, serve};
