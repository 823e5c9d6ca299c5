//! Single exchanges with the processes under load: whether one listens, and what it answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{Method, Request, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;

/// How long a process may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until a process listens on `address`. Returns an error after 30 s.
pub(super) async fn wait_listening(address: SocketAddr) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while tokio::net::TcpStream::connect(address).await.is_err() {
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
    let exchange = async {
        let stream = tokio::net::TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, address.to_string())
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        match head.status.as_u16() {
            200 => Ok(String::from_utf8_lossy(&body).into_owned()),
            status => Err(format!("status {status}")),
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| failed("no answer".into()))?.map_err(failed)
}
