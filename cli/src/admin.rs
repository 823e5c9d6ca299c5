//! A client of the admin ports, as an operator would use curl.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::process::Process;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Sends `GET path` to the admin port at `address`. Returns an error with the URL if there is no response within five seconds.
pub async fn get(address: SocketAddr, path: &str) -> Result<Response<Bytes>, String> {
    request(Method::GET, address, path).await
}

/// Sends `POST path`, like [`get`].
pub async fn post(address: SocketAddr, path: &str) -> Result<Response<Bytes>, String> {
    request(Method::POST, address, path).await
}

async fn request(method: Method, address: SocketAddr, path: &str) -> Result<Response<Bytes>, String> {
    let exchange = async {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, address.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let (head, body) =
            sender.send_request(request).await.map_err(|error| error.to_string())?.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok::<_, String>(Response::from_parts(head, body))
    };
    tokio::time::timeout(TIMEOUT, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("no answer in {TIMEOUT:?}")))
        .map_err(|error| format!("http://{address}{path}: {error}"))
}

/// Sends `GET path`. Returns an error unless the response is 200 and text.
pub async fn text(address: SocketAddr, path: &str) -> Result<String, String> {
    let answer = get(address, path).await?;
    if answer.status() != StatusCode::OK {
        return Err(format!("http://{address}{path}: {}", answer.status()));
    }
    String::from_utf8(answer.into_body().into()).map_err(|_| format!("http://{address}{path}: no text"))
}

/// Waits until `/ready` returns 200. Returns an error if `process` has ended or `timeout` has passed.
pub async fn wait_ready(address: SocketAddr, process: &mut Process, timeout: Duration) -> Result<(), String> {
    let deadline = Instant::now() + timeout;
    loop {
        let answer = get(address, "/ready").await;
        if answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::OK) {
            return Ok(());
        }
        process.check_running()?;
        if Instant::now() > deadline {
            let last = match answer {
                Ok(answer) => String::from_utf8_lossy(answer.body()).trim().to_owned(),
                Err(error) => error,
            };
            return Err(format!("http://{address}/ready: not ready after {timeout:?}: {last}"));
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Returns the samples of one metric on a `/metrics` page: labels and value.
pub fn series<'page>(
    page: &'page str,
    metric: &'page str,
) -> impl Iterator<Item = (Vec<(&'page str, &'page str)>, f64)> {
    page.lines().filter_map(move |line| {
        let rest = line.strip_prefix(metric)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let labels = labels
            .split("\",")
            .filter_map(|pair| pair.split_once("=\""))
            .map(|(name, value)| (name, value.trim_end_matches('"')))
            .collect();
        Some((labels, value.split_whitespace().next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metrics_page_is_read_by_name_and_label() {
        let page = "# TYPE a counter\na_total{x=\"1\",y=\"b\"} 7\na_total 3 1700000000\na_total_more 9\n";
        let found: Vec<_> = series(page, "a_total").collect();
        assert_eq!(found, [(vec![("x", "1"), ("y", "b")], 7.0), (vec![], 3.0)]);
    }
}
