//! What a request goes through, in order: worker, connection, http, tcp, upstream, record, codec, tls, socket.
//!
//! Callers stand first and vocabulary last: a module uses only modules listed below it. Everything runs on one worker's
//! current-thread runtime, so that nothing here is shared between threads unless it says so.

mod connection;
mod http;
mod tcp;
mod upstream;
pub mod record;
pub mod metrics;
pub mod codec;
pub mod tls;
pub mod socket;
