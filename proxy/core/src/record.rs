//! The record of a finished request or connection: the source of access log lines, metrics and spans.
//!
//! The data path fills it during the request and passes it on once, after the last byte. What only access logs and spans
//! need ([`Text`]) is collected only if one of them is enabled.

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
    /// The listener that accepted it.
    pub listener: Name,
    /// The listener's direction.
    pub direction: Direction,
    /// The downstream protocol.
    pub protocol: Protocol,
    /// The HTTP status sent to the client; 0 for TCP or if none was sent.
    pub status: u16,
    /// `grpc-status` from the response's head or trailers.
    pub grpc_status: Option<u8>,
    /// Why the answer is not simply what the application said.
    pub reason: Option<Reason>,
    /// The client's verified identity, if it used mTLS.
    pub source: Option<SpiffeId>,
    /// The client's address.
    pub client: SocketAddr,
    /// The TLS session of the client's connection. `None` for plaintext.
    pub tls: Option<TlsSession>,
    /// The destination's canonical name (`cart.shop.svc.cluster.local:80`).
    pub destination: Option<Name>,
    /// The route that matched.
    pub route: Option<Name>,
    /// The path that the route matches, of low cardinality: `/users`, `/users/*`. `None` if the route matches any path.
    pub route_template: Option<Name>,
    /// Body bytes read from the client.
    pub bytes_received: u64,
    /// Body bytes sent to the client.
    pub bytes_sent: u64,
    /// Time before the first attempt: waiting for configuration, queueing.
    pub until_first_attempt: Duration,
    /// The upstream of the last attempt. Unlike `attempts` it is known for every request.
    pub upstream: Option<Upstream>,
    /// Every upstream attempt, in order, without mirrored requests.
    pub attempts: Vec<AttemptRecord>,
    /// Its trace context.
    pub trace: Option<TraceContext>,
    /// What only access logs and spans need.
    pub text: Option<Box<Text>>,
}

/// The upstream of an attempt.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The cluster: which of the backends of a route was chosen.
    pub cluster: Name,
    /// The endpoint's verified identity, once connected by mTLS.
    pub peer: Option<SpiffeId>,
    /// The TLS session of the connection. `None` for plaintext, and until connected.
    pub tls: Option<TlsSession>,
}

/// The TLS session of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TlsSession {
    /// The version by its number in the protocol: 0x0304 for TLS 1.3 (RFC 8446 section 4.1.2).
    pub version: u16,
    /// The cipher suite by its number in the registry of IANA.
    pub cipher: u16,
    /// Whether both ends were authenticated by a certificate.
    pub mutual: bool,
}

impl TlsSession {
    /// Returns the version: `1.3`.
    pub fn version(self) -> Option<&'static str> {
        match self.version {
            0x0303 => Some("1.2"),
            0x0304 => Some("1.3"),
            _ => None,
        }
    }

    /// Returns the name of the cipher suite in the registry of IANA, if it is one of those of TLS 1.3.
    pub fn cipher(self) -> Option<&'static str> {
        match self.cipher {
            0x1301 => Some("TLS_AES_128_GCM_SHA256"),
            0x1302 => Some("TLS_AES_256_GCM_SHA384"),
            0x1303 => Some("TLS_CHACHA20_POLY1305_SHA256"),
            _ => None,
        }
    }
}

/// One attempt at one endpoint.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    /// From the start of the request to the start of the attempt.
    pub offset: Duration,
    /// From the start of the attempt to its end.
    pub duration: Duration,
    /// The cluster.
    pub cluster: Name,
    /// The endpoint, if one was picked.
    pub endpoint: Option<SocketAddr>,
    /// The endpoint's workload instance, from its metadata.
    pub instance: Option<Name>,
    /// The number of attempts before it.
    pub resend_count: u32,
    /// The endpoint's verified identity.
    pub peer: Option<SpiffeId>,
    /// The TLS session of the connection. `None` for plaintext, and if no connection was established.
    pub tls: Option<TlsSession>,
    /// The protocol of the connection, if one was established.
    pub protocol: Option<Protocol>,
    /// Time to obtain a connection: queueing, connecting, handshake. Close to zero if an idle one was used.
    pub until_connected: Duration,
    /// From the start of the attempt to the response's head.
    pub until_first_byte: Option<Duration>,
    /// HTTP status of the response; 0 if none was received.
    pub status: u16,
    /// `grpc-status`, if known.
    pub grpc_status: Option<u8>,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// How far it had come when it failed.
    pub reached: Option<Reached>,
    /// Its CLIENT span.
    pub span: Option<SpanId>,
}

/// The text fields of a request, for access logs and spans.
#[derive(Debug, Clone, Default)]
pub struct Text {
    /// The method, empty for TCP.
    pub method: String,
    /// The authority as requested.
    pub authority: String,
    /// The scheme that the client used: `http` or `https`. Between sidecars it is the application's, although they use TLS.
    pub scheme: &'static str,
    /// Path and query as requested.
    pub path: String,
    /// `user-agent`.
    pub user_agent: String,
    /// `x-request-id`.
    pub request_id: String,
    /// Whether it is a gRPC request (content-type `application/grpc`).
    pub grpc: bool,
    /// `tracestate`, forwarded unchanged.
    pub trace_state: String,
    /// The underlying error, for the log.
    pub detail: String,
}

/// The traffic direction of a listener (`envoy.config.core.v3.TrafficDirection`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the application.
    Inbound,
    /// From the application.
    Outbound,
    /// Neither: a gateway.
    Unspecified,
}

/// The protocol of a downstream or upstream connection.
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

impl Direction {
    /// Returns the name that logs, metrics and spans print.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Unspecified => "unspecified",
        }
    }
}

impl Protocol {
    /// Returns the name that logs and metrics print.
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
