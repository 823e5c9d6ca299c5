//! Who is at the other end of a connection to the control plane.
//!
//! The TLS acceptor puts a [`PeerIdentity`] into the extensions of every request on a connection whose client
//! certificate it verified; the services (xDS, registration, CA) read it and refuse callers that have none.

use outrigger_core::identity::SpiffeId;

/// The SPIFFE ID of the verified client certificate. Only the TLS acceptor makes one, and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity(pub SpiffeId);
