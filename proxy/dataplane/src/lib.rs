//! What a request goes through, in order: worker, connection, http, tcp, upstream, record, codec, tls, socket.
//!
//! Callers stand first and vocabulary last: a module uses only modules listed below it. Everything runs on one worker's
//! current-thread runtime, so nothing is shared between threads unless its documentation states it.

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(feature = "stages")]
pub mod stages;
pub mod worker;
mod connection;
mod http;
mod tcp;
mod context;
mod resolver;
mod upstream;
mod permission;
mod client;
mod capacity;
mod identity;
mod record;
pub mod metrics;
mod codec;
mod tls;
mod socket;

pub use capacity::budget::ConnectionBudget;
pub use record::Sinks;
pub use resolver::Resolver;
pub use socket::listener::ListenerGroup;
pub use socket::stream::ORIGINAL_DESTINATION_PRIORITY;
pub use upstream::shared::{ApplicationLoad, EndpointLoad, SharedClusters};
