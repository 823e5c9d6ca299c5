//! The gRPC listener of the control plane: TLS 1.3, with optional and verified client certificates.
//!
//! [`accept`] accepts connections and adds the peer's identity to their requests; [`services`] selects the service; [`tls`] has the
//! TLS configuration; [`server_certificate`] has the control plane's own certificate.

pub(crate) mod accept;
mod bounded;
pub(crate) mod services;
pub(crate) mod tls;
pub(crate) mod server_certificate;
