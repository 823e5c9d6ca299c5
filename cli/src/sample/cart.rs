//! `cart`: calls `catalog` over HTTP and `stock` over TCP; a checkout also calls `payments` over gRPC.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use outrigger_proto::demo::{ChargeRequest, payments_client::PaymentsClient};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tonic::metadata::{AsciiMetadataKey, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use super::http::{Services, bad_gateway, json, propagated, serve as serve_http, success};

/// How `cart` reaches the others.
#[derive(Clone)]
pub(super) struct Upstreams {
    /// HTTP services, by name.
    pub(super) services: Services,
    /// Host and port of `payments`.
    pub(super) payments: String,
    /// Host and port of `stock`.
    pub(super) stock: String,
}

pub(super) async fn serve(listen: SocketAddr, upstreams: Upstreams) -> Result<(), String> {
    let channel = Endpoint::from_shared(format!("http://{}", upstreams.payments))
        .map_err(|error| error.to_string())?
        .connect_timeout(Duration::from_secs(2))
        .connect_lazy();
    serve_http(listen, move |request| answer(upstreams.clone(), channel.clone(), request)).await
}

async fn answer(
    upstreams: Upstreams,
    payments: Channel,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return bad_gateway("the request broke off") };
    let outcome = match (&head.method, head.uri.path()) {
        (&Method::GET, "/cart") => contents(&upstreams, &head.headers).await,
        (&Method::POST, "/checkout") => {
            checkout(&upstreams, payments, &head.headers, body.to_bytes().len() as u64).await
        }
        _ => {
            return json(
                StatusCode::NOT_FOUND,
                &serde_json::json!({ "error": "GET /cart or POST /checkout" }),
            );
        }
    };
    outcome.unwrap_or_else(|why| bad_gateway(&why))
}

async fn contents(upstreams: &Upstreams, caller: &HeaderMap) -> Result<Response<Full<Bytes>>, String> {
    let items = success(
        "catalog",
        upstreams.services.call(Method::GET, "catalog", "/items", caller, Bytes::new()).await,
    )?;
    let left = stock(&upstreams.stock, "paddle").await?;
    let mut answer = json(StatusCode::OK, &serde_json::json!({ "stock": left }));
    if let Some(version) = items.headers().get("x-version") {
        answer.headers_mut().insert("x-version", version.clone());
    }
    Ok(answer)
}

async fn checkout(
    upstreams: &Upstreams,
    payments: Channel,
    caller: &HeaderMap,
    amount: u64,
) -> Result<Response<Full<Bytes>>, String> {
    let mut answer = contents(upstreams, caller).await?;
    let mut request = tonic::Request::new(ChargeRequest { cents: amount });
    for (name, value) in propagated(caller) {
        if let (Ok(key), Ok(value)) = (
            AsciiMetadataKey::from_bytes(name.as_str().as_bytes()),
            MetadataValue::try_from(value.as_bytes()),
        ) {
            request.metadata_mut().insert(key, value);
        }
    }
    let receipt = PaymentsClient::new(payments)
        .charge(request)
        .await
        .map_err(|status| format!("payments: {}: {}", status.code(), status.message()))?;
    *answer.body_mut() =
        Full::new(Bytes::from(serde_json::json!({ "receipt": receipt.into_inner().receipt }).to_string()));
    Ok(answer)
}

/// Queries `stock` for one item over a new connection.
async fn stock(address: &str, item: &str) -> Result<u64, String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(format!("{item}\n").as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        Ok::<_, std::io::Error>(line)
    };
    let line = tokio::time::timeout(Duration::from_secs(5), ask)
        .await
        .map_err(|_| "stock: no answer in 5 s".to_owned())?
        .map_err(|error| format!("stock: {error}"))?;
    line.trim().parse().map_err(|_| format!("stock: answered {line:?}"))
}
