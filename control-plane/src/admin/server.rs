//! Serves the admin pages on a loopback address and on a Unix socket, and some on a public address. Each connection is a task;
//! all tasks end when the future that [`Listeners::serve`] returns is dropped.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_core::peer::network;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, unix};
use tokio::task::JoinSet;

use super::pages::{Interface, Pages};
use crate::fair_slots::{FairSlot, FairSlots};

/// Maximum number of connections to each interface.
const MAX_CONNECTIONS: usize = 64;
/// Time within which a request's header section must arrive.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Creates the socket and replaces one that a killed predecessor left. The caller holds the store's lock, so no other
/// process listens on it.
pub(crate) fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The directory has mode 0700, so no other user can connect before the mode is set.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The listeners of the pages.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// For operators of this machine.
    pub(crate) loopback: TcpListener,
    /// For the owner of the state directory, if there is one.
    pub(crate) socket: Option<UnixListener>,
    /// For scrapers and probes.
    pub(crate) public: Option<TcpListener>,
}

impl Listeners {
    /// Serves all interfaces for as long as it is polled. A connection beyond the limit of its interface closes the oldest one of the
    /// client that has the most, so that no client keeps out probes.
    pub(crate) async fn serve(self, pages: Arc<Pages>) {
        let Self { loopback, socket, public } = self;
        let slots = || FairSlots::new(MAX_CONNECTIONS);
        let (at_loopback, at_socket, at_public) = (slots(), slots(), slots());
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let pages = Arc::clone(&pages);
            tokio::select! {
                taken = loopback.accept() => match taken {
                    Ok((stream, client)) => {
                        let slot = at_loopback.acquire(Some(network(client.ip())));
                        drop(connections.spawn(answer(stream, Interface::Loopback, pages, slot)));
                    }
                    Err(error) => pause(&error).await,
                },
                taken = accept_socket(socket.as_ref()) => match taken {
                    Ok((stream, _)) => {
                        drop(connections.spawn(answer(stream, Interface::Socket, pages, at_socket.acquire(None))));
                    }
                    Err(error) => pause(&error).await,
                },
                taken = accept_public(public.as_ref()) => match taken {
                    Ok((stream, client)) => {
                        let slot = at_public.acquire(Some(network(client.ip())));
                        drop(connections.spawn(answer(stream, Interface::Public, pages, slot)));
                    }
                    Err(error) => pause(&error).await,
                },
            }
        }
    }
}

async fn accept_public(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => pending().await,
    }
}

async fn accept_socket(listener: Option<&UnixListener>) -> io::Result<(UnixStream, unix::SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => pending().await,
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "cannot accept an admin connection");
    tokio::time::sleep(ACCEPT_BACKOFF).await;
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    interface: Interface,
    pages: Arc<Pages>,
    mut slot: FairSlot<Option<IpAddr>>,
) {
    let service = service_fn(|request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(pages.answer(interface, request).await) }
    });
    let exchange = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A client that disconnects needs no error.
        _ = exchange => {}
        () = slot.evicted() => {}
    }
}
