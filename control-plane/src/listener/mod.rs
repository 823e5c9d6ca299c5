//! The gRPC listener of the control plane: TLS 1.3, with optional and verified client certificates.
//!
//! [`accept`] takes connections and makes requests of them that know their peer; [`services`] finds the service; [`tls`] says whom to trust;
//! [`server_certificate`] proves the control plane itself.

pub(crate) mod accept;
mod bounded;
pub(crate) mod services;
pub(crate) mod tls;
pub(crate) mod server_certificate;
