//! Who is at the other end of a connection to the control plane.
//!
//! The TLS acceptor puts a [`PeerIdentity`] into the extensions of every request on a connection whose client
//! certificate it verified; the services (xDS, registration, CA) read it and refuse callers that have none.

use std::net::SocketAddr;

use outrigger_core::identity::SpiffeId;

/// The SPIFFE ID of the verified client certificate. Only the TLS acceptor makes one, and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity(pub SpiffeId);

/// The address that a request comes from, for logs. Proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// Who a connection was opened by, with a certificate that has expired since: no identity any more, and known only
/// so that a refusal can say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpiredPeer(pub SpiffeId);
