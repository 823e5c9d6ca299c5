//! The two doors of admin. Each connection is a task; all of them end with the future that [`serve`] returns.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use super::pages::{Door, Pages};
use crate::crowd::{Crowd, Place};

/// How many may ask at once, at each door.
const CONNECTIONS: usize = 64;
/// How long a caller may take for a request's head.
const HEAD: Duration = Duration::from_secs(10);
/// How long to wait when the system gives no connection.
const PAUSE: Duration = Duration::from_millis(50);

/// Makes the socket, in the place of the one that a killed predecessor left. Whoever calls holds the store's lock,
/// so nobody listens there.
pub(crate) fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // The directory is 0700, so that nobody could come in between.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves both doors for as long as it is polled. For one more caller than there are places, the oldest of that door
/// goes: what idle callers hold, nobody waits for.
pub(crate) async fn serve(loopback: TcpListener, socket: UnixListener, pages: Arc<Pages>) {
    let (at_loopback, at_socket) = (Crowd::new(CONNECTIONS), Crowd::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let pages = Arc::clone(&pages);
        tokio::select! {
            taken = loopback.accept() => match taken {
                Ok((stream, _)) => {
                    drop(connections.spawn(answer(stream, Door::Loopback, pages, at_loopback.enter(()))));
                }
                Err(error) => pause(&error).await,
            },
            taken = socket.accept() => match taken {
                Ok((stream, _)) => {
                    drop(connections.spawn(answer(stream, Door::Socket, pages, at_socket.enter(()))));
                }
                Err(error) => pause(&error).await,
            },
        }
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "no admin connection accepted");
    tokio::time::sleep(PAUSE).await;
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    door: Door,
    pages: Arc<Pages>,
    mut place: Place<()>,
) {
    let service = service_fn(|request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(pages.answer(door, request).await) }
    });
    let exchange = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A caller that breaks off is its own affair.
        _ = exchange => {}
        () = place.lost() => {}
    }
}
