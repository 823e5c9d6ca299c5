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
    /// Which authorization policies refused it, or would have. `None` if there were none.
    pub authorization: Option<Box<Authorization>>,
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
    /// Every upstream attempt, in order, without mirrored requests. Empty if `text` is `None`.
    pub attempts: Vec<AttemptRecord>,
    /// Its trace context.
    pub trace: Option<TraceContext>,
    /// What only access logs and spans need.
    pub text: Option<Box<Text>>,
}

impl RequestRecord {
    /// Returns the class of the status, 1 to 5. That of a gRPC call follows from its `grpc-status`, as google.rpc.Code maps it
    /// to HTTP: a failed call is never 2. A gRPC response without one is a failure, as it is to gRPC clients. `None` if
    /// no status was sent, and for TCP.
    pub fn status_class(&self) -> Option<u8> {
        let by_status = (100..600).contains(&self.status).then_some((self.status / 100) as u8);
        if self.protocol != Protocol::Grpc {
            return by_status;
        }
        match (self.grpc_status.or_else(|| self.reason.map(Reason::grpc_status)), by_status) {
            (Some(code), _) => Some(grpc_class(code)),
            (None, Some(2)) => Some(5),
            (None, by_status) => by_status,
        }
    }
}

/// Returns the class of the HTTP status that google.rpc.Code documents for a code.
fn grpc_class(code: u8) -> u8 {
    match code {
        0 => 2,
        // CANCELLED, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED,
        // FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNAUTHENTICATED
        1 | 3 | 5..=11 | 16 => 4,
        _ => 5,
    }
}

/// The authorization policies that refused a request or connection, or would have. Clients are not told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authorization {
    /// The policy that refused it, or `none` if no policy allowed it.
    pub denied_by: Option<Name>,
    /// The policy that would have refused it if it were enforced, or `none`.
    pub audit_denied_by: Option<Name>,
}

/// The upstream of an attempt.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The cluster: which of the backends of a route was chosen.
    pub cluster: Name,
    /// Whether there was a connection.
    pub connected: bool,
    /// The endpoint's verified identity, once connected by mTLS.
    pub peer: Option<SpiffeId>,
    /// The TLS session of the connection. `None` for plaintext.
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
    /// The span ID that the upstream received: the attempt's CLIENT span, or the SERVER span of an inbound request.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn record(
        protocol: Protocol,
        status: u16,
        grpc_status: Option<u8>,
        reason: Option<Reason>,
    ) -> RequestRecord {
        RequestRecord {
            started: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            listener: "outbound".into(),
            direction: Direction::Outbound,
            protocol,
            status,
            grpc_status,
            reason,
            authorization: None,
            source: None,
            client: ([127, 0, 0, 1], 1).into(),
            tls: None,
            destination: None,
            route: None,
            route_template: None,
            bytes_received: 0,
            bytes_sent: 0,
            until_first_attempt: Duration::ZERO,
            upstream: None,
            attempts: Vec::new(),
            trace: None,
            text: None,
        }
    }

    #[test]
    fn the_class_is_that_of_the_http_status_and_none_without_one() {
        for (status, class) in
            [(200, Some(2)), (304, Some(3)), (404, Some(4)), (503, Some(5)), (0, None), (700, None)]
        {
            assert_eq!(record(Protocol::Http11, status, None, None).status_class(), class, "{status}");
        }
        assert_eq!(record(Protocol::Tcp, 0, None, Some(Reason::NoHealthyUpstream)).status_class(), None);
    }

    #[test]
    fn a_failed_call_is_a_failure_of_its_client_or_of_its_server() {
        let of_code = |code| record(Protocol::Grpc, 200, Some(code), None).status_class();
        // The server errors of OpenTelemetry's conventions for gRPC: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL,
        // UNAVAILABLE, DATA_LOSS.
        for code in 1..=16 {
            let expected = if [2, 4, 12, 13, 14, 15].contains(&code) { 5 } else { 4 };
            assert_eq!(of_code(code), Some(expected), "{code}");
        }
        assert_eq!((of_code(0), of_code(200)), (Some(2), Some(5)));
    }

    #[test]
    fn a_call_without_grpc_status_failed_unless_its_client_went() {
        let cut = |reason| record(Protocol::Grpc, 200, None, reason).status_class();
        assert_eq!(cut(None), Some(5));
        assert_eq!(cut(Some(Reason::UpstreamRemoteReset)), Some(5));
        assert_eq!(cut(Some(Reason::DownstreamConnectionTermination)), Some(4));
        assert_eq!(record(Protocol::Grpc, 404, None, None).status_class(), Some(4));
        assert_eq!(record(Protocol::Grpc, 0, None, None).status_class(), None);
    }
}
