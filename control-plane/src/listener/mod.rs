//! The one port of the control plane: gRPC over TLS 1.3, with the caller's certificate verified when it has one.
//!
//! [`accept`] takes connections and makes requests of them that know their peer; [`services`] finds the service; [`tls`] says whom to trust;
//! [`server_certificate`] proves the control plane itself.

pub mod accept;
mod bounded;
pub mod services;
pub mod tls;
pub mod server_certificate;
