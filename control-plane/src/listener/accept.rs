//! Taking connections: TCP, TLS within a time, and the peer's identity into every request.
//!
//! Nothing that a caller does ends the loop, and nothing that one caller does holds another up. The listener belongs
//! to the future that [`serve`] returns; handshakes under way end with it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_core::identity::{SpiffeId, TrustDomain};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::{Request, Status};

use super::bounded::{BoundedConnection, Life};
use super::services::Services;
use crate::ca::certificate::LeafCertificate;
use crate::crowd::{Crowd, Place, origin};
use crate::metrics::Metrics;
use crate::peer::{ExpiredPeer, PeerAddress, PeerIdentity, until};
use crate::quota::{Slot, Slots};

/// How long a caller may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How many handshakes may be under way. For one more, the address that has most loses its oldest.
const HANDSHAKES: usize = 512;
/// How many connections there may be whose caller showed no certificate. For one more, the address that has most loses
/// its oldest. Each takes some 50 KiB.
const ANONYMOUS: usize = 1024;
/// How long a caller without a certificate may stay: it comes for one.
const ANONYMOUS_LIFE: Duration = Duration::from_secs(60);
/// How many connections one identity may have.
const CONNECTIONS: usize = 2048;
/// How long a connection stays after the certificate that opened it has expired, so that its streams can say so.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long to wait when the system gives no connection, as when descriptors run out.
const PAUSE: Duration = Duration::from_millis(20);
/// How many strangers give up theirs then.
const GIVEN_UP: usize = 16;
/// A peer that says nothing is asked this often whether it is there, and has this long to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// What the port needs.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    /// Its TLS settings.
    pub tls: Arc<ServerConfig>,
    /// Whose identities callers may have.
    pub trust_domain: TrustDomain,
    /// Where refused connections are counted.
    pub metrics: Arc<Metrics>,
}

/// Serves `services` on `listener` until `shutdown`, and then until the last stream has ended: a caller that wants to
/// end sooner drops the future.
pub(crate) async fn serve(
    listener: TcpListener,
    port: Port,
    services: Services,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (connections, accepted) = mpsc::channel(16);
    let accept = accept(listener, port, connections);
    let serve = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .layer(InterceptorLayer::new(identify))
        .serve_with_incoming_shutdown(services, ReceiverStream::new(accepted), shutdown);
    tokio::pin!(serve);
    tokio::select! {
        served = &mut serve => served,
        // The port is closed for good only when the server has dropped its end: then it is shutting down.
        () = accept => serve.await,
    }
}

/// Accepts until the receiver is gone. A connection is accepted whichever peers hold the places: what strangers can fill, members do
/// not wait for.
async fn accept(listener: TcpListener, port: Port, connections: mpsc::Sender<io::Result<Connection>>) {
    // Strangers together hold no more than half of the descriptors.
    let share = outrigger_core::descriptors::limit() / 4;
    let handshakes = Crowd::new(HANDSHAKES.min(share));
    let places =
        Arc::new(Places { members: Slots::new(CONNECTIONS), strangers: Crowd::new(ANONYMOUS.min(share)) });
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let taken = tokio::select! {
            taken = listener.accept() => taken,
            () = connections.closed() => return,
        };
        match taken {
            Ok((stream, address)) => {
                let (port, connections) = (port.clone(), connections.clone());
                let (place, places) = (handshakes.enter(origin(address.ip())), Arc::clone(&places));
                tasks.spawn(async move {
                    let connection = async {
                        let (tls, peer) = port.timely_handshake(stream, address, place).await?;
                        places.admit(tls, peer)
                    };
                    match connection.await {
                        Ok(connection) => drop(connections.send(Ok(connection)).await),
                        Err(Unfit { reason, text }) => {
                            port.metrics.connection_refused(reason);
                            // Strangers decide how often: no line for each.
                            tracing::debug!(reason, from = %address, error = text, "connection refused");
                        }
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection accepted");
                // With descriptors as with places: strangers give theirs up first.
                for _ in 0..GIVEN_UP {
                    let _ = handshakes.evict() || places.strangers.evict();
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Why a connection is closed before any request.
struct Unfit {
    reason: &'static str,
    text: String,
}

impl Unfit {
    fn new(reason: &'static str, text: impl ToString) -> Self {
        Self { reason, text: text.to_string() }
    }
}

impl Port {
    /// A handshake that ends in time, or with its place.
    async fn timely_handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        mut place: Place<IpAddr>,
    ) -> Result<(TlsStream<TcpStream>, ConnectedPeer), Unfit> {
        tokio::select! {
            done = self.handshake(stream, address) => done,
            () = place.lost() => Err(Unfit::new("crowded", "others came, and this handshake had taken longest")),
            () = tokio::time::sleep(HANDSHAKE) => Err(Unfit::new("timeout", "no handshake in time")),
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<(TlsStream<TcpStream>, ConnectedPeer), Unfit> {
        // Small messages that somebody waits for. A socket without it still works.
        let _ = stream.set_nodelay(true);
        let acceptor = TlsAcceptor::from(Arc::clone(&self.tls));
        let tls = acceptor.accept(stream).await.map_err(|error| Unfit::new("handshake", error))?;
        let leaf = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = leaf
            .map(LeafCertificate::read)
            .transpose()
            .map_err(|error| Unfit::new("not-a-workload", error))?;
        if let Some(certificate) = &certificate
            && *certificate.identity.trust_domain() != self.trust_domain
        {
            return Err(Unfit::new("foreign-trust-domain", &certificate.identity));
        }
        Ok((tls, ConnectedPeer { address, certificate }))
    }
}

/// Who may have how many connections.
struct Places {
    members: Slots<SpiffeId>,
    strangers: Crowd<IpAddr>,
}

impl Places {
    fn admit(&self, tls: TlsStream<TcpStream>, peer: ConnectedPeer) -> Result<Connection, Unfit> {
        let (slot, life): (_, Life) = match &peer.certificate {
            Some(certificate) => {
                let identity = &certificate.identity;
                let slot = self.members.take(identity).ok_or_else(|| {
                    Unfit::new("too-many", format!("{CONNECTIONS} connections of {identity}"))
                })?;
                (Some(slot), Box::pin(until(certificate.not_after + FAREWELL)))
            }
            None => {
                let mut place = self.strangers.enter(origin(peer.address.ip()));
                let life = async move {
                    let _ = tokio::time::timeout(ANONYMOUS_LIFE, place.lost()).await;
                };
                (None, Box::pin(life))
            }
        };
        Ok(BoundedConnection::new(tls, peer, life, slot))
    }
}

/// A connection whose handshake is done. It ends soon after the certificate of its peer, whatever the peer does: a
/// certificate that is renewed comes with a connection of its own. Without a certificate it ends when its time is over,
/// or its place is another's.
type Connection = BoundedConnection<TlsStream<TcpStream>, ConnectedPeer, Option<Slot<SpiffeId>>>;

/// What is known of the peer from the handshake on.
#[derive(Debug, Clone)]
struct ConnectedPeer {
    address: SocketAddr,
    certificate: Option<LeafCertificate>,
}

/// Says who the peer is *now*: connections outlive certificates.
fn identify(mut request: Request<()>) -> Result<Request<()>, Status> {
    if let Some(peer) = request.extensions_mut().remove::<ConnectedPeer>() {
        let extensions = request.extensions_mut();
        extensions.insert(PeerAddress(peer.address));
        match peer.certificate {
            Some(leaf) if leaf.not_after > SystemTime::now() => {
                extensions.insert(PeerIdentity { identity: leaf.identity, not_after: leaf.not_after });
            }
            Some(leaf) => {
                extensions.insert(ExpiredPeer(leaf.identity));
            }
            None => {}
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_ends_with_its_certificate_though_the_connection_goes_on() {
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap();
        let minute = Duration::from_secs(60);
        let request = |not_after| {
            let certificate = Some(LeafCertificate { identity: identity.clone(), not_after });
            let mut request = Request::new(());
            let address = ([127, 0, 0, 1], 1).into();
            request.extensions_mut().insert(ConnectedPeer { address, certificate });
            identify(request).unwrap()
        };
        let now = SystemTime::now();
        let (good, late) = (request(now + minute), request(now - minute));
        let peer = PeerIdentity { identity: identity.clone(), not_after: now + minute };
        assert_eq!(good.extensions().get(), Some(&peer));
        assert_eq!(late.extensions().get::<PeerIdentity>(), None);
        assert_eq!(late.extensions().get(), Some(&ExpiredPeer(identity)));
    }
}
