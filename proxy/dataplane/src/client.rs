//! Who is at the other end of an accepted connection, for as long as it lives.

use std::net::SocketAddr;
use std::rc::Rc;

use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_core::peer::PeerKey;
use outrigger_core::record::Direction;

use crate::capacity::door::Place;

/// Facts of a downstream connection.
#[derive(Debug, Clone)]
pub(crate) struct ClientFacts {
    /// Its address.
    pub(crate) address: SocketAddr,
    /// Its verified identity.
    pub(crate) peer: Option<SpiffeId>,
    /// Whose share of what is bounded it uses.
    pub(crate) key: PeerKey,
    /// Its connection's place.
    pub(crate) place: Rc<Place>,
    /// Whether it speaks TLS.
    pub(crate) encrypted: bool,
    /// Where it was going before it was redirected here, else where it connected to.
    pub(crate) destination: SocketAddr,
    /// The listener that took it.
    pub(crate) listener: Name,
    /// On which side of the application that listener stands; for records alone.
    pub(crate) direction: Direction,
}

impl ClientFacts {
    /// The client has shown `peer`.
    pub(crate) fn identify(&mut self, peer: Option<SpiffeId>) {
        self.key = PeerKey::new(peer.as_ref(), self.address.ip());
        self.peer = peer;
    }

    /// Its connection counts as that of who it has shown to be. False when that peer has its share of them.
    pub(crate) fn settle(&self) -> bool {
        self.peer.is_none() || self.place.identify(&self.key)
    }
}
