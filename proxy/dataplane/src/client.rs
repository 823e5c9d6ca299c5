//! Facts of the client of an accepted connection.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use http::HeaderValue;
use outrigger_config::http_manager::CertificateDetails;
use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_core::peer::PeerKey;
use outrigger_core::record::{Direction, TlsSession};
use outrigger_policy::verdict::Source;

use crate::capacity::admission::ConnectionSlot;
use crate::tls::peer_certificate::PeerCertificate;

/// Facts of a downstream connection.
#[derive(Debug, Clone)]
pub(crate) struct ClientFacts {
    /// Its address.
    pub(crate) address: SocketAddr,
    /// Whether it is in the same network namespace: the application.
    pub(crate) local: bool,
    /// Its verified identity.
    pub(crate) peer: Option<SpiffeId>,
    /// The peer whose share of bounded capacities it uses.
    pub(crate) key: PeerKey,
    /// The slot of its connection.
    pub(crate) slot: Rc<ConnectionSlot>,
    /// The TLS session of its connection. `None` for plaintext.
    pub(crate) tls: Option<TlsSession>,
    /// Its certificate, where details of it are forwarded.
    pub(crate) certificate: Option<Rc<ForwardedCertificate>>,
    /// The server name in its ClientHello, in lower case.
    pub(crate) server_name: Option<Name>,
    /// The original destination if the connection was redirected, otherwise the local address.
    pub(crate) destination: SocketAddr,
    /// The listener that accepted it.
    pub(crate) listener: Name,
    /// The direction of that listener, for records only.
    pub(crate) direction: Direction,
}

/// A client's certificate, and what is forwarded of it.
#[derive(Debug)]
pub(crate) struct ForwardedCertificate {
    /// The certificate.
    pub(crate) certificate: PeerCertificate,
    /// The element of `x-forwarded-client-cert` with these details, once a request needed it.
    pub(crate) element: RefCell<Option<(CertificateDetails, HeaderValue)>>,
}

impl From<PeerCertificate> for ForwardedCertificate {
    fn from(certificate: PeerCertificate) -> Self {
        Self { certificate, element: RefCell::default() }
    }
}

impl ClientFacts {
    /// Returns what policies read of it.
    pub(crate) fn source(&self) -> Source<'_> {
        Source {
            identity: self.peer.as_ref(),
            address: self.address.ip(),
            port: self.address.port(),
            destination: self.destination,
            server_name: self.server_name.as_deref(),
        }
    }

    /// Sets the verified identity of the client.
    pub(crate) fn identify(&mut self, peer: Option<SpiffeId>) {
        self.key = PeerKey::new(peer.as_ref(), self.address.ip());
        self.peer = peer;
    }

    /// Counts the connection for its verified identity. Returns false if that peer already has its share of connections.
    pub(crate) fn settle(&self) -> bool {
        self.peer.is_none() || self.slot.identify(&self.key)
    }
}
