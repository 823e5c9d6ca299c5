//! Who is at either end of a connection to the control plane, and until when.
//!
//! The TLS acceptor puts a [`PeerIdentity`] into the extensions of every request on a connection whose client
//! certificate it verified; the services (xDS, registration, CA) read it with [`verified`] and refuse callers that have
//! none. What they open for a caller ends with its certificate: a stream must not carry an identity past its life.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use outrigger_core::identity::SpiffeId;
use tonic::{Request, Status};

/// How often the wall clock is looked at: it goes on while a machine sleeps, and tokio's does not.
const LOOK: Duration = Duration::from_secs(30);

/// The SPIFFE ID of the verified client certificate. Only the TLS acceptor makes one, and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerIdentity {
    /// The only URI SAN.
    pub identity: SpiffeId,
    /// The certificate's last second.
    pub not_after: SystemTime,
}

/// The address that a request comes from, for logs. Proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerAddress(pub SocketAddr);

/// Who a connection was opened by, with a certificate that has expired since: no identity any more, and known only
/// so that a refusal can say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpiredPeer(pub SpiffeId);

/// The verified caller of a request that needs one; UNAUTHENTICATED for who shows no certificate, or an expired one.
pub(crate) fn verified<T>(request: &Request<T>) -> Result<PeerIdentity, Status> {
    let extensions = request.extensions();
    match (extensions.get::<PeerIdentity>(), extensions.get()) {
        (Some(peer), _) => Ok(peer.clone()),
        (None, Some(ExpiredPeer(_))) => Err(expired()),
        (None, None) => Err(Status::unauthenticated("a client certificate of the mesh is required")),
    }
}

/// What ends the streams of a caller whose certificate has ended.
pub(crate) fn expired() -> Status {
    Status::unauthenticated("the client certificate has expired: connect again with the renewed one")
}

/// Waits until the wall clock shows `at`.
pub(crate) async fn until(at: SystemTime) {
    while let Ok(left) = at.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn who_is_not_verified_now_is_told_why() {
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        let mut request = Request::new(());
        assert!(verified(&request).unwrap_err().message().contains("is required"));
        request.extensions_mut().insert(ExpiredPeer(identity.clone()));
        let refused = verified(&request).unwrap_err();
        assert!(refused.code() == Code::Unauthenticated && refused.message().contains("has expired"));
        let peer = PeerIdentity { identity, not_after: SystemTime::now() };
        request.extensions_mut().insert(peer.clone());
        assert_eq!(verified(&request).unwrap(), peer);
    }
}
