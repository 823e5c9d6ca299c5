//! Client of a running control plane's admin interface: one HTTP request over its port or its Unix socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// Name of the socket in the state directory.
pub const SOCKET_FILE: &str = "admin.sock";
/// Time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a response. The status of 10,000 proxies has about 10 MB.
const MAX_BODY: usize = 256 << 20;

/// Address of a control plane's admin interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// The read-only pages on loopback.
    Tcp(SocketAddr),
    /// All pages, at the socket of the state directory.
    Socket(PathBuf),
}

impl AdminAddress {
    /// Returns the socket of a state directory.
    pub fn of_state_directory(directory: &Path) -> Self {
        Self::Socket(directory.join(SOCKET_FILE))
    }
}

impl std::fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why a request failed.
#[derive(Debug, Error)]
pub enum AdminError {
    /// No process listens: the control plane does not run.
    #[error("no control plane answers at {0}: is it running, and is this its admin address?")]
    Absent(AdminAddress),
    /// Another server listens, such as a proxy's admin endpoint.
    #[error("{0} is not the admin address of a control plane: it has no {1}")]
    NotAControlPlane(AdminAddress, String),
    /// The server speaks another protocol, such as that of the control plane's `--listen`.
    #[error(
        "{0} is not an admin address: it does not speak HTTP/1; the admin address of a control plane is its --admin (port 15011 by \
         default)"
    )]
    NotHttp(AdminAddress),
    /// The exchange failed.
    #[error("{0}: {1}")]
    Failed(AdminAddress, String),
    /// The control plane refused the request, with this text.
    #[error("{0}")]
    Refused(String),
}

/// Sends a request and returns the body of a 2xx response. With a body it is a POST, otherwise a GET.
pub async fn ask(address: &AdminAddress, path: &str, body: Option<Vec<u8>>) -> Result<Bytes, AdminError> {
    let failed = |error: &dyn std::fmt::Display| AdminError::Failed(address.clone(), error.to_string());
    let not_exchanged = |error: BoxError| match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_parse() => AdminError::NotHttp(address.clone()),
        _ => failed(&error),
    };
    let answer = async {
        match address {
            AdminAddress::Tcp(tcp) => {
                let stream = TcpStream::connect(tcp).await.map_err(|error| absent(address, &error))?;
                exchange(stream, path, body).await.map_err(not_exchanged)
            }
            AdminAddress::Socket(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(|error| absent(address, &error))?;
                exchange(stream, path, body).await.map_err(not_exchanged)
            }
        }
    };
    let (status, body) =
        tokio::time::timeout(TIMEOUT, answer).await.map_err(|_| failed(&"no response in time"))??;
    match status {
        http::StatusCode::NOT_FOUND => Err(AdminError::NotAControlPlane(address.clone(), path.into())),
        status if status.is_success() => Ok(body),
        _ => Err(AdminError::Refused(String::from_utf8_lossy(&body).trim().into())),
    }
}

fn absent(address: &AdminAddress, error: &std::io::Error) -> AdminError {
    match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            AdminError::Absent(address.clone())
        }
        _ => AdminError::Failed(address.clone(), error.to_string()),
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sends a request over a connection and returns the status and the body of the response.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<(http::StatusCode, Bytes), BoxError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let method = if body.is_some() { http::Method::POST } else { http::Method::GET };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "localhost")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))?;
    let exchange = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await?.to_bytes();
        Ok((status, body))
    };
    tokio::pin!(connection, exchange);
    // The connection may end before its response has been read completely.
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}
