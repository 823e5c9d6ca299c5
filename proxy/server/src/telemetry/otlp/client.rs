//! One attempt to send an encoded OTLP request, by gRPC or by HTTP/1.1 with a protobuf body.
//!
//! gRPC goes over one connection, and HTTP/1.1 over one for each request at a time. They are opened on the first request and
//! reopened after a failure. The caller bounds the time and decides about retries; a request that is dropped ends its stream
//! or connection.

use std::error::Error as _;
use std::io::Write as _;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::destination::{Destination, Protocol};
use crate::telemetry::signal::Signal;

const AGENT: &str = concat!("outrigger/", env!("CARGO_PKG_VERSION"));

/// A connection on which a request is open and nothing arrives is closed after both. Without that a frozen collector that comes
/// back elsewhere would still get requests on the old connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A response is an empty message, or the reason for a refusal.
const MAX_RESPONSE: usize = 64 * 1024;

/// The connection to a collector for one signal.
#[derive(Debug)]
pub(super) struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, Body>,
    destination: Destination,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(super) struct SendError {
    pub(super) problem: String,
    /// Whether another attempt may succeed.
    pub(super) transient: bool,
    /// When the collector wants the next attempt.
    pub(super) retry_after: Option<Duration>,
}

impl Client {
    /// Creates the client; it does not connect yet.
    pub(super) fn new(destination: Destination) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let tls = (*destination.tls).clone();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let connector = match destination.protocol {
            Protocol::Grpc => connector.enable_http2().wrap_connector(tcp),
            Protocol::HttpProtobuf => connector.enable_http1().wrap_connector(tcp),
        };
        let http = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_only(destination.protocol == Protocol::Grpc)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .build(connector);
        Self { http, destination }
    }

    /// Returns where requests are sent.
    pub(super) fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Sends one encoded request and returns the encoded response.
    pub(super) async fn send(&self, message: Bytes) -> Result<Bytes, SendError> {
        match self.destination.protocol {
            Protocol::Grpc => self.send_grpc(message).await,
            Protocol::HttpProtobuf => self.send_http(message).await,
        }
    }

    async fn send_grpc(&self, message: Bytes) -> Result<Bytes, SendError> {
        let Destination { signal, url, headers, gzip, timeout, .. } = &self.destination;
        let mut grpc =
            Grpc::with_origin(self.http.clone(), url.clone()).max_decoding_message_size(MAX_RESPONSE);
        if *gzip {
            grpc =
                grpc.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip);
        }
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(self.headers_with_agent(headers));
        request.set_timeout(*timeout);
        let path = PathAndQuery::from_static(signal.grpc_path());
        match grpc.unary(request, path, Encoded).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(of_status(&status, *signal)),
        }
    }

    async fn send_http(&self, message: Bytes) -> Result<Bytes, SendError> {
        let Destination { signal, url, headers, gzip, .. } = &self.destination;
        let mut headers = self.headers_with_agent(headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let mut body = message;
        if *gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            body = gzipped(&body);
        }
        let mut request = Request::post(url.clone()).body(Body::new(Full::new(body))).map_err(permanent)?;
        *request.headers_mut() = headers;
        let response = self.http.request(request).await.map_err(|error| transient(&error))?;
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            return Err(of_http(head.status, &head.headers, *signal));
        }
        let body = Limited::new(body, MAX_RESPONSE).collect().await;
        Ok(body.map_err(|error| transient(&*error))?.to_bytes())
    }

    fn headers_with_agent(&self, headers: &HeaderMap) -> HeaderMap {
        let mut headers = headers.clone();
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        headers
    }
}

/// Returns whether another attempt may succeed (OTLP specification, "OTLP/HTTP Response", "Failures").
fn of_http(status: StatusCode, headers: &HeaderMap, signal: Signal) -> SendError {
    // A date is not read; the default delay applies then.
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let hint = if status == StatusCode::NOT_FOUND { not_received(signal) } else { String::new() };
    SendError {
        problem: format!("{status}{hint}"),
        transient: matches!(status.as_u16(), 429 | 502 | 503 | 504),
        retry_after: seconds.map(Duration::from_secs),
    }
}

/// Returns whether another attempt may succeed (OTLP specification, "OTLP/gRPC Response", "Failures"). RESOURCE_EXHAUSTED is
/// permanent: RetryInfo, which would make it transient, is not read.
fn of_status(status: &Status, signal: Signal) -> SendError {
    if let Some(source) = status.source() {
        return transient(source);
    }
    let transient = matches!(
        status.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    );
    let mut problem = match status.message() {
        "" => format!("{:?}", status.code()),
        message => format!("{:?}: {message}", status.code()),
    };
    if status.code() == Code::Unimplemented {
        problem.push_str(&not_received(signal));
    }
    SendError { problem, transient, retry_after: None }
}

/// Says what to do about a backend that receives other signals only.
fn not_received(signal: Signal) -> String {
    let (items, part) = (signal.items(), signal.variable_part());
    format!("; if it does not receive {items}, set OTEL_{part}_EXPORTER=none")
}

/// A failure below HTTP, with its causes.
fn transient(error: &(dyn std::error::Error + 'static)) -> SendError {
    let mut problem = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Each layer tends to repeat the text of the one below.
        if !problem.contains(&text) {
            problem = format!("{problem}: {text}");
        }
        source = cause.source();
    }
    SendError { problem, transient: true, retry_after: None }
}

fn permanent(error: http::Error) -> SendError {
    SendError { problem: error.to_string(), transient: false, retry_after: None }
}

fn gzipped(message: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(message.len() / 4), Compression::default());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(message);
    encoder.finish().unwrap_or_default().into()
}

/// The codec of messages that are encoded already, so that one gRPC client serves all signals.
#[derive(Debug, Clone, Copy)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
