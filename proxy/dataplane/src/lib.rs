//! What a request goes through, in order: worker, http, tcp, upstream, record, codec, tls, socket.
//!
//! Callers stand first and vocabulary last: a module uses only modules listed below it. Everything runs on one worker's
//! current-thread runtime, so that nothing here is shared between threads unless it says so.

pub mod codec;
pub mod tls;
pub mod socket;
