//! What is known of a finished request or connection: one record feeds access log, metrics and spans alike.
//!
//! The data path fills it as it goes and hands it over once, when the last byte is through. What only a log line or
//! a span needs ([`Text`]) is collected only when somebody will read it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::Name;
use crate::error::Reached;
use crate::identity::SpiffeId;
use crate::reason::Reason;
use crate::trace::{SpanId, TraceContext};

/// A finished request (HTTP) or connection (TCP).
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// When its first byte was read.
    pub started: SystemTime,
    /// From `started` to the last byte in either direction.
    pub duration: Duration,
    /// The listener that took it, and on which side of the application that listener stands.
    pub listener: Name,
    /// Inbound or outbound, as the listener says.
    pub direction: Direction,
    /// How the client spoke.
    pub protocol: Protocol,
    /// HTTP status sent to the client; 0 for TCP and where none was sent.
    pub status: u16,
    /// `grpc-status` of the response's head or trailers.
    pub grpc_status: Option<u8>,
    /// Why the answer is not simply what the application said.
    pub reason: Option<Reason>,
    /// The client's verified identity, if it spoke mTLS.
    pub source: Option<SpiffeId>,
    /// The client's address, as seen.
    pub client: SocketAddr,
    /// The destination's canonical name (`cart.shop.svc.cluster.local:80`).
    pub destination: Option<Name>,
    /// The route that matched.
    pub route: Option<Name>,
    /// Body bytes read from the client.
    pub bytes_received: u64,
    /// Body bytes sent to the client.
    pub bytes_sent: u64,
    /// Time spent before the first try: waiting for config, queueing.
    pub until_first_try: Duration,
    /// Every try upstream, in order; mirrored requests are not among them.
    pub tries: Vec<TryRecord>,
    /// Its place in a trace.
    pub trace: Option<TraceContext>,
    /// What only logs and spans read.
    pub text: Option<Box<Text>>,
}

/// One try at one endpoint.
#[derive(Debug, Clone)]
pub struct TryRecord {
    /// From the start of the request.
    pub offset: Duration,
    /// Until its end.
    pub duration: Duration,
    /// The cluster.
    pub cluster: Name,
    /// The endpoint, if one was picked.
    pub endpoint: Option<SocketAddr>,
    /// The workload instance behind it, as its metadata says.
    pub instance: Option<Name>,
    /// The endpoint's verified identity.
    pub peer: Option<SpiffeId>,
    /// Time to get a connection: queueing, connecting, handshake. Zero-like when one was idle.
    pub until_connected: Duration,
    /// From the start of the try to the response's head.
    pub until_first_byte: Option<Duration>,
    /// HTTP status of the response, 0 if none came.
    pub status: u16,
    /// `grpc-status`, where known.
    pub grpc_status: Option<u8>,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// How far it had come when it failed.
    pub reached: Option<Reached>,
    /// Its client span.
    pub span: Option<SpanId>,
}

/// The text of a request, for logs and spans.
#[derive(Debug, Clone, Default)]
pub struct Text {
    /// The method, empty for TCP.
    pub method: String,
    /// The authority as asked.
    pub authority: String,
    /// Path and query as asked.
    pub path: String,
    /// `user-agent`.
    pub user_agent: String,
    /// `x-request-id`.
    pub request_id: String,
    /// Whether it is a gRPC request (content-type `application/grpc`).
    pub grpc: bool,
    /// `tracestate`, passed on unchanged.
    pub trace_state: String,
    /// The error beneath, for the log.
    pub detail: String,
}

/// On which side of its application a listener stands (`envoy.config.core.v3.TrafficDirection`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Requests of others to the application.
    Inbound,
    /// Requests of the application to others.
    Outbound,
}

/// How a client or an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

impl Protocol {
    /// As logs and metrics print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "http/1.0",
            Self::Http11 => "http/1.1",
            Self::Http2 => "http/2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}
