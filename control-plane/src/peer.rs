//! The identity of the peer of a connection, and how long it is valid.
//!
//! The TLS acceptor puts a [`PeerIdentity`] into the extensions of every request on a connection whose client
//! certificate it verified. The services (xDS, registration, CA) read it with [`verified`] and refuse callers without
//! one. A stream ends when the certificate that opened it expires.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use outrigger_core::identity::SpiffeId;
use tonic::{Request, Status};

/// Interval of reading the wall clock. It advances while a machine is suspended; tokio's clock does not.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// The SPIFFE ID of the verified client certificate. Only the TLS acceptor and tests create it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerIdentity {
    /// The only URI SAN.
    pub identity: SpiffeId,
    /// The end of the certificate's validity.
    pub not_after: SystemTime,
}

/// The remote address of a request, for logs. It proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerAddress(pub SocketAddr);

/// The former identity of a peer whose certificate has expired since it connected. It only explains the refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpiredPeer(pub SpiffeId);

/// Returns the verified identity of the caller. Returns UNAUTHENTICATED if it has no certificate, or an expired one.
pub(crate) fn verified<T>(request: &Request<T>) -> Result<PeerIdentity, Status> {
    let extensions = request.extensions();
    match (extensions.get::<PeerIdentity>(), extensions.get()) {
        (Some(peer), _) => Ok(peer.clone()),
        (None, Some(ExpiredPeer(_))) => Err(expired()),
        (None, None) => Err(Status::unauthenticated("a client certificate of the mesh is required")),
    }
}

/// Returns the status that ends the streams of a caller whose certificate has expired.
pub(crate) fn expired() -> Status {
    Status::unauthenticated("the client certificate has expired: connect again with the renewed one")
}

/// Waits until the wall clock reaches `at`.
pub(crate) async fn until(at: SystemTime) {
    while let Ok(left) = at.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(CLOCK_CHECK_INTERVAL)).await;
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn an_unverified_caller_is_refused_with_the_reason() {
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
