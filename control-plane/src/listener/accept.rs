//! Accepts connections: TCP, a TLS handshake with a timeout, and the peer's identity in the extensions of every request.
//!
//! No caller can end the accept loop. A connection waits, at little cost, until its peer has sent something and a handshake may begin:
//! many proxies that connect at once wait for each other, and peers that complete no handshake delay others by [`HANDSHAKE_GRACE`] at
//! most. The future that [`serve`] returns owns the listener and all handshakes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_core::identity::{SpiffeId, TrustDomain};
use outrigger_core::peer::network;
use rustls::ServerConfig;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::{Request, Status};

use super::bounded::{BoundedConnection, Deadline};
use super::services::Services;
use crate::ca::certificate::LeafCertificate;
use crate::fair_queue::{FairQueue, Turn};
use crate::fair_slots::{FairSlot, FairSlots};
use crate::metrics::Metrics;
use crate::peer::{ExpiredPeer, PeerAddress, PeerIdentity, until};
use crate::quota::{Slot, Slots};

/// Time within which a peer must send its first bytes, and within which a handshake must complete once it has begun.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of connections that wait for a handshake. One more evicts the oldest of the network that has the most. Each uses
/// about 1 KiB, beside its socket.
const MAX_WAITING: usize = 8192;
/// Maximum number of concurrent handshakes.
const MAX_HANDSHAKES: usize = 512;
/// Time that a handshake has undisturbed. After that, it ends if another connection waits and its network has the most handshakes. Less
/// than a sidecar's time limit for a connection, 3 s.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(1);
/// Maximum number of connections without a client certificate. One more evicts the oldest of the network that has the
/// most. Each uses about 50 KiB.
const MAX_ANONYMOUS: usize = 1024;
/// Lifetime of a connection without a client certificate: it is only for requesting one.
const ANONYMOUS_LIFETIME: Duration = Duration::from_secs(60);
/// Maximum number of connections of one identity.
const MAX_CONNECTIONS: usize = 2048;
/// Time that a connection stays open after its certificate has expired, so that its streams can report the expiry.
const EXPIRY_GRACE: Duration = Duration::from_secs(1);
/// Pause after a failed accept, for example when no descriptors are left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);
/// Number of anonymous connections that are evicted after a failed accept, to free descriptors.
const EVICTED_ON_ERROR: usize = 16;
/// Interval of HTTP/2 PINGs to a silent peer, and the time within which it must answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// Configuration of the listener.
#[derive(Debug, Clone)]
pub(crate) struct ListenerConfig {
    /// The TLS configuration of new connections.
    pub tls: watch::Receiver<Arc<ServerConfig>>,
    /// The trust domain of the callers' identities.
    pub trust_domain: TrustDomain,
    /// Counts refused connections.
    pub metrics: Arc<Metrics>,
}

/// Serves `services` on `listener` until `shutdown` completes and then until the last stream has ended. Dropping the future ends
/// it sooner.
pub(crate) async fn serve(
    listener: TcpListener,
    port: ListenerConfig,
    services: Services,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let (connections, accepted) = mpsc::channel(16);
    let accept = accept(listener, port, Bounds::new(), connections);
    let serve = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .layer(InterceptorLayer::new(identify))
        .serve_with_incoming_shutdown(services, ReceiverStream::new(accepted), shutdown);
    tokio::pin!(serve);
    tokio::select! {
        served = &mut serve => served,
        // `accept` returns only when the server has dropped the receiver, which means that it is shutting down.
        () = accept => serve.await,
    }
}

/// How many connections there may be at a time, before they have a client certificate.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    waiting: usize,
    handshakes: usize,
    anonymous: usize,
}

impl Bounds {
    /// Returns the maximum numbers, which together use at most half of the descriptors.
    fn new() -> Self {
        let share = outrigger_core::descriptors::limit() / 8;
        Self {
            waiting: MAX_WAITING.min(2 * share),
            handshakes: MAX_HANDSHAKES.min(share),
            anonymous: MAX_ANONYMOUS.min(share),
        }
    }
}

/// Accepts connections until the receiver is dropped. Anonymous connections never block authenticated ones.
async fn accept(
    listener: TcpListener,
    port: ListenerConfig,
    bounds: Bounds,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let waiting = FairSlots::new(bounds.waiting);
    let handshakes = Arc::new(FairQueue::new(bounds.handshakes, HANDSHAKE_GRACE));
    let limits = Arc::new(ConnectionLimits {
        authenticated: Slots::new(MAX_CONNECTIONS),
        anonymous: FairSlots::new(bounds.anonymous),
    });
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let taken = tokio::select! {
            taken = listener.accept() => taken,
            () = connections.closed() => return,
        };
        match taken {
            Ok((stream, address)) => {
                let slot = waiting.acquire(network(address.ip()));
                let (port, connections) = (port.clone(), connections.clone());
                let (handshakes, limits) = (Arc::clone(&handshakes), Arc::clone(&limits));
                tasks.spawn(async move {
                    let refused = match turn(&stream, address, slot, &handshakes).await {
                        // Large, and not needed while it waits.
                        Ok(turn) => {
                            Box::pin(port.establish(stream, address, turn, &limits, &connections)).await
                        }
                        Err(refused) => Err(refused),
                    };
                    if let Err(ConnectionRefusal { reason, text }) = refused {
                        port.metrics.connection_refused(reason);
                        // Anonymous callers decide how often this happens, so it is not logged by default.
                        tracing::debug!(reason, from = %address, error = text, "connection refused");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Free descriptors of anonymous connections first.
                for _ in 0..EVICTED_ON_ERROR {
                    let _ = waiting.evict() || handshakes.evict() || limits.anonymous.evict();
                }
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Waits until the peer has sent something, and then until a handshake may begin. Returns an error if the peer sends nothing in time,
/// or has closed the connection meanwhile: a handshake would be wasted.
async fn turn(
    stream: &TcpStream,
    address: SocketAddr,
    mut slot: FairSlot<IpAddr>,
    handshakes: &FairQueue<IpAddr>,
) -> Result<Turn<IpAddr>, ConnectionRefusal> {
    let failed = |error: io::Error| ConnectionRefusal::new("handshake", error);
    let wait = async {
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.readable()).await {
            Ok(readable) => readable.map_err(failed)?,
            Err(_) => return Err(ConnectionRefusal::new("timeout", "the peer has sent nothing")),
        }
        let turn = handshakes.turn(network(address.ip())).await;
        match stream.ready(Interest::READABLE).await.map_err(failed)?.is_read_closed() {
            true => Err(ConnectionRefusal::new("gone", "the peer has closed the connection")),
            false => Ok(turn),
        }
    };
    tokio::select! {
        turn = wait => turn,
        () = slot.evicted() => Err(ConnectionRefusal::new("crowded", "evicted by newer connections")),
    }
}

/// Why a connection is closed before its first request.
struct ConnectionRefusal {
    reason: &'static str,
    text: String,
}

impl ConnectionRefusal {
    fn new(reason: &'static str, text: impl ToString) -> Self {
        Self { reason, text: text.to_string() }
    }
}

impl ListenerConfig {
    /// Runs the handshake, limited by its timeout and its turn, and passes the connection on if the limits admit it.
    async fn establish(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        mut turn: Turn<IpAddr>,
        limits: &ConnectionLimits,
        connections: &mpsc::Sender<io::Result<Connection>>,
    ) -> Result<(), ConnectionRefusal> {
        let (tls, peer) = tokio::select! {
            done = self.handshake(stream, address) => done?,
            () = turn.lost() => return Err(ConnectionRefusal::new("crowded", "the handshake was slow, and others wait")),
            () = tokio::time::sleep(HANDSHAKE_TIMEOUT) => return Err(ConnectionRefusal::new("timeout", "the handshake took too long")),
        };
        drop(turn);
        let connection = limits.admit(tls, peer)?;
        drop(connections.send(Ok(connection)).await);
        Ok(())
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<(TlsStream<TcpStream>, ConnectedPeer), ConnectionRefusal> {
        // Small messages are latency-sensitive. The connection works without it.
        let _ = stream.set_nodelay(true);
        let acceptor = TlsAcceptor::from(Arc::clone(&self.tls.borrow()));
        let tls =
            acceptor.accept(stream).await.map_err(|error| ConnectionRefusal::new("handshake", error))?;
        let leaf = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = leaf
            .map(LeafCertificate::read)
            .transpose()
            .map_err(|error| ConnectionRefusal::new("not-a-workload", error))?;
        if let Some(certificate) = &certificate
            && *certificate.identity.trust_domain() != self.trust_domain
        {
            return Err(ConnectionRefusal::new("foreign-trust-domain", &certificate.identity));
        }
        Ok((tls, ConnectedPeer { address, certificate }))
    }
}

/// The limits on established connections.
struct ConnectionLimits {
    authenticated: Slots<SpiffeId>,
    anonymous: FairSlots<IpAddr>,
}

impl ConnectionLimits {
    fn admit(&self, tls: TlsStream<TcpStream>, peer: ConnectedPeer) -> Result<Connection, ConnectionRefusal> {
        let (slot, deadline): (_, Deadline) = match &peer.certificate {
            Some(certificate) => {
                let identity = &certificate.identity;
                let slot = self.authenticated.acquire(identity).ok_or_else(|| {
                    ConnectionRefusal::new("too-many", format!("{MAX_CONNECTIONS} connections of {identity}"))
                })?;
                (Some(slot), Box::pin(until(certificate.not_after + EXPIRY_GRACE)))
            }
            None => {
                let mut slot = self.anonymous.acquire(network(peer.address.ip()));
                let deadline = async move {
                    let _ = tokio::time::timeout(ANONYMOUS_LIFETIME, slot.evicted()).await;
                };
                (None, Box::pin(deadline))
            }
        };
        Ok(BoundedConnection::new(tls, peer, deadline, slot))
    }
}

/// An established connection. It ends soon after the certificate of its peer expires: a renewed certificate needs a new
/// connection. Without a certificate it ends after its lifetime, or when its slot is evicted.
type Connection = BoundedConnection<TlsStream<TcpStream>, ConnectedPeer, Option<Slot<SpiffeId>>>;

/// The peer as the handshake identified it.
#[derive(Debug, Clone)]
struct ConnectedPeer {
    address: SocketAddr,
    certificate: Option<LeafCertificate>,
}

/// Adds the peer's current identity to a request: a connection outlives its certificate by a moment.
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
mod tests;
