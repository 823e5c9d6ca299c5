//! A gRPC probe, as the kubelet performs it: `grpc.health.v1.Health/Check` over cleartext HTTP/2.

use std::net::SocketAddr;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use super::{ProbeOutcome, dial};

/// A response is one small message.
const MAX_RESPONSE: usize = 4096;

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Performs the probe. It succeeds if the service is SERVING.
pub(super) async fn check(
    address: SocketAddr,
    service: &str,
    agent: Option<&HeaderValue>,
) -> Result<String, ProbeOutcome> {
    let tcp = dial::connect(address).await.map_err(ProbeOutcome::unavailable)?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await;
    let (mut sender, connection) = handshake.map_err(ProbeOutcome::unavailable)?;
    tokio::spawn(connection);
    let message = HealthCheckRequest { service: service.to_owned() }.encode_to_vec();
    let mut body = BytesMut::with_capacity(5 + message.len());
    // Not compressed; the length (gRPC over HTTP/2, "Length-Prefixed-Message").
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(&message);
    let mut request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(body.freeze()))
        .map_err(ProbeOutcome::unavailable)?;
    request.headers_mut().extend(agent.map(|agent| (header::USER_AGENT, agent.clone())));
    let response = sender.send_request(request).await.map_err(ProbeOutcome::unavailable)?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_RESPONSE).collect().await.map_err(ProbeOutcome::unavailable)?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    outcome(head.status, &[head.headers, trailers], &body.to_bytes()).map_err(ProbeOutcome::unavailable)
}

/// Returns what the response says. A response without a message has its status in the header section.
fn outcome(status: StatusCode, headers: &[HeaderMap; 2], body: &Bytes) -> Result<String, String> {
    if status != StatusCode::OK {
        return Err(format!("the application responded with {status}, not with gRPC"));
    }
    let find = |name: &str| headers.iter().find_map(|headers| headers.get(name)?.to_str().ok());
    match find("grpc-status") {
        Some("0") => {}
        Some(code) => {
            return Err(format!("gRPC status {code}: {}", find("grpc-message").unwrap_or_default()));
        }
        None => return Err("a response without a gRPC status".to_owned()),
    }
    let message = body.get(5..).ok_or("a response without a message")?;
    match HealthCheckResponse::decode(message) {
        Ok(HealthCheckResponse { status: SERVING }) => Ok("SERVING".to_owned()),
        Ok(HealthCheckResponse { status }) => Err(format!("health status {status}, not SERVING")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome_of(status: u16, grpc_status: &str, body: &[u8]) -> Result<String, String> {
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), grpc_status.parse().unwrap())]);
        let headers = [HeaderMap::new(), trailers];
        outcome(StatusCode::from_u16(status).unwrap(), &headers, &Bytes::copy_from_slice(body))
    }

    #[test]
    fn only_serving_is_a_success() {
        assert_eq!(outcome_of(200, "0", b"\0\0\0\0\x02\x08\x01"), Ok("SERVING".into()));
        for (status, grpc, body) in [
            (200, "0", &b"\0\0\0\0\x02\x08\x02"[..]),
            (200, "0", b"\0\0\0\0\0"),
            (200, "0", b""),
            (200, "5", b"\0\0\0\0\x02\x08\x01"),
            (404, "0", b"\0\0\0\0\x02\x08\x01"),
        ] {
            assert!(outcome_of(status, grpc, body).is_err(), "{status} {grpc} {body:?}");
        }
    }
}
