//! HTTP/1 between the processes of the bench: connections, single exchanges, and a server.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// How long a process may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A connection, for one request at a time.
pub(super) type Connection = SendRequest<Full<Bytes>>;

/// Connections to one address, as many as it has requests. A request that is dropped closes its connection.
#[derive(Debug)]
pub(super) struct Connections {
    to: SocketAddr,
    idle: Mutex<Vec<Connection>>,
}

impl Connections {
    pub(super) fn new(to: SocketAddr) -> Self {
        Self { to, idle: Mutex::default() }
    }

    /// Sends a request, and returns its response with the whole body. Returns an error if the connection fails.
    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Full<Bytes>>, String> {
        let mut connection = match self.idle().filter(|idle| !idle.is_closed()) {
            Some(idle) => idle,
            None => connect(self.to).await?,
        };
        let response = exchange(&mut connection, request).await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(response.map(Full::from))
    }

    fn idle(&self) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// Opens a connection. Returns an error if nothing listens.
pub(super) async fn connect(target: SocketAddr) -> Result<Connection, String> {
    let stream = TcpStream::connect(target).await.map_err(|error| format!("connect: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends a request when the connection is ready, and returns its response with the whole body.
pub(super) async fn exchange(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, String> {
    connection.ready().await.map_err(|error| error.to_string())?;
    let response = connection.send_request(request).await.map_err(|error| error.to_string())?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok(Response::from_parts(head, body))
}

/// Answers requests until the process ends. Returns an error if it cannot listen.
pub(super) async fn serve<A, R>(listen: SocketAddr, answer: A) -> Result<(), String>
where
    A: Fn(Request<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let listener = TcpListener::bind(listen).await.map_err(|error| format!("{listen}: {error}"))?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(request);
                async { Ok::<_, std::convert::Infallible>(response.await) }
            });
            // A client may disconnect, which drops its request.
            let _ = hyper::server::conn::http1::Builder::new()
                .half_close(false)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Returns a response of this text.
pub(super) fn text(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

/// Waits until a process listens on `address`. Returns an error after 30 s.
pub(super) async fn wait_listening(address: SocketAddr) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).await.is_err() {
        if Instant::now() > deadline {
            return Err(format!("nothing listens on {address} after {PATIENCE:?}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Returns the body of a response, which must be 200.
pub(super) async fn ask(address: SocketAddr, method: Method, path: &str) -> Result<String, String> {
    let failed = |why: String| format!("http://{address}{path}: {why}");
    let asked = async {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, address.to_string())
            .body(Full::default())
            .map_err(|error| error.to_string())?;
        let response = exchange(&mut connect(address).await?, request).await?;
        match response.status().as_u16() {
            200 => Ok(String::from_utf8_lossy(response.body()).into_owned()),
            status => Err(format!("status {status}")),
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.map_err(|_| failed("no answer".into()))?.map_err(failed)
}
