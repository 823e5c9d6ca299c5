//! What a load test is to do: the target, the request, how many connections, at which pace and for how long.
//!
//! Made by the command's arguments and by the comparison; read by every part of the engine. [`Spec::check`] refuses what
//! contradicts itself, so that the engine need not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::schedule::Schedule;

/// One load test.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Where all connections are opened to.
    pub(crate) address: SocketAddr,
    /// TLS, if the connections are encrypted.
    pub(crate) tls: Option<Tls>,
    pub(crate) protocol: Protocol,
    /// Connections of all threads together.
    pub(crate) connections: usize,
    /// Requests in flight on one connection: HTTP/2 and gRPC can have more than one.
    pub(crate) streams: usize,
    /// Each request has a connection of its own, and its latency includes the handshakes.
    pub(crate) connection_per_request: bool,
    pub(crate) pace: Pace,
    /// Time before the measurement, with the same load. Its requests are not counted.
    pub(crate) warm_up: Duration,
    pub(crate) until: Until,
    /// How long a request may take before it is given up and counted as a failure.
    pub(crate) timeout: Duration,
    pub(crate) threads: usize,
    /// Cores that the threads are pinned to, one each in turn. Empty: not pinned.
    pub(crate) cores: Vec<usize>,
}

/// What a request is.
#[derive(Debug, Clone)]
pub(crate) enum Protocol {
    Http1(HttpRequest),
    Http2(HttpRequest),
    Grpc(GrpcCall),
    Tcp(Transfer),
    WebSocket(WebSocketMessage),
}

/// A request of HTTP/1.1 or HTTP/2.
#[derive(Debug, Clone)]
pub(crate) struct HttpRequest {
    pub(crate) method: Method,
    /// `host[:port]`, as in `Host` and `:authority`.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) expect: Expect,
}

/// What a response must be; other responses are failures.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expect {
    /// None accepts every 2xx.
    pub(crate) status: Option<StatusCode>,
    /// The size of the body in bytes.
    pub(crate) length: Option<u64>,
    /// The response must have trailers (HTTP/2).
    pub(crate) trailers: bool,
}

/// Calls of one gRPC method.
#[derive(Debug, Clone)]
pub(crate) struct GrpcCall {
    pub(crate) authority: String,
    /// `/package.Service/Method`.
    pub(crate) path: String,
    pub(crate) metadata: HeaderMap,
    /// The encoded message, without gRPC's prefix.
    pub(crate) message: Bytes,
    /// The size of each answer's message in bytes.
    pub(crate) expect_length: Option<u64>,
    /// None: each request is a unary call. Otherwise each request is a message of a bidirectional stream, which is
    /// answered by one message; a stream ends after that many (0: never).
    pub(crate) messages_per_stream: Option<u64>,
}

/// Bytes sent and received over TCP. One transfer is one request.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    pub(crate) send: Bytes,
    /// Bytes that answer a transfer. 0: a transfer is over when it is written.
    pub(crate) receive: u64,
}

/// A binary message that is answered by one message.
#[derive(Debug, Clone)]
pub(crate) struct WebSocketMessage {
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) message: Bytes,
    pub(crate) expect_length: Option<u64>,
}

/// When requests start.
#[derive(Debug, Clone)]
pub(crate) enum Pace {
    /// Closed loop: a stream sends its next request when the last one is answered.
    ClosedLoop,
    /// Each stream sends one request; the connections then stay open and idle until the end.
    OnceThenIdle,
    /// At the times of a schedule, whether earlier requests are answered or not.
    Rate(Schedule),
}

/// When the measurement ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    Elapsed(Duration),
    Requests(u64),
}

/// How connections are encrypted.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) server_name: ServerName<'static>,
}

impl Spec {
    /// Returns what is wrong with the values, if anything is.
    pub(crate) fn check(&self) -> Result<(), String> {
        let several = matches!(self.protocol, Protocol::Http2(_) | Protocol::Grpc(_));
        let streaming = matches!(&self.protocol, Protocol::Grpc(call) if call.messages_per_stream.is_some());
        if self.connections == 0 || self.streams == 0 || self.threads == 0 {
            return Err("connections, streams and threads must be at least 1".into());
        }
        if self.threads > self.connections {
            return Err(format!(
                "{} threads for {} connections: each thread needs one",
                self.threads, self.connections
            ));
        }
        if self.streams > 1 && !several {
            return Err("only HTTP/2 and gRPC have more than one stream per connection".into());
        }
        if self.connection_per_request && (self.streams > 1 || streaming) {
            return Err("with a connection per request, a connection has one stream and one request".into());
        }
        if self.timeout.is_zero() {
            return Err("the timeout must be greater than 0".into());
        }
        if matches!(self.until, Until::Elapsed(length) if length.is_zero())
            || self.until == Until::Requests(0)
        {
            return Err("a load test needs a duration or a number of requests".into());
        }
        if matches!(&self.pace, Pace::OnceThenIdle) && matches!(self.until, Until::Requests(_)) {
            return Err("idle connections need a duration".into());
        }
        if let Protocol::Tcp(transfer) = &self.protocol
            && transfer.send.is_empty()
        {
            return Err("a TCP transfer needs at least one byte to send".into());
        }
        Ok(())
    }

    /// The part of `count` that thread number `thread` has: the parts differ by at most one.
    pub(super) fn share(&self, count: u64, thread: usize) -> u64 {
        let (threads, thread) = (self.threads as u64, thread as u64);
        count / threads + u64::from(thread < count % threads)
    }
}
