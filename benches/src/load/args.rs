//! The arguments of `load URL`, and the specification that they stand for. What they contradict is refused in plain words.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use super::schedule::Schedule;
use super::spec::{Expect, GrpcCall, HttpRequest, Pace, Protocol, Spec, Transfer, Until, WebSocketMessage};
use super::tls::TlsFiles;
use super::units::{duration, size};

/// How long an address of several may take to accept, in the search for one that does.
const PROBE: Duration = Duration::from_secs(2);

/// Sends load to a URL and measures the answers.
///
/// Without --rate in a closed loop: each stream sends its next request when the last one is answered. With --rate at
/// fixed times, and latencies are measured from these times (corrected for coordinated omission).
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// http://, https://, grpc://HOST/package.Service/Method, grpcs://, ws://, wss://, tcp://HOST:PORT or tls://HOST:PORT.
    pub(super) url: Uri,
    /// HTTP/2 for http:// and https:// (without TLS: with prior knowledge).
    #[arg(long)]
    http2: bool,
    /// Connections.
    #[arg(short, long, default_value_t = 32)]
    connections: usize,
    /// Requests in flight on each connection, for HTTP/2 and gRPC.
    #[arg(short, long, default_value_t = 1)]
    streams: usize,
    /// Opens a connection for each request, and measures the handshakes too.
    #[arg(long)]
    connection_per_request: bool,
    /// Each stream sends one request; then the connections stay open and idle until the end.
    #[arg(long, conflicts_with_all = ["rate", "requests", "connection_per_request"])]
    idle: bool,
    /// Threads, each with its part of the connections.
    #[arg(short, long, default_value_t = 1)]
    threads: usize,
    /// Cores that the threads are pinned to.
    #[arg(long, value_delimiter = ',', value_name = "CORE")]
    cores: Vec<usize>,
    /// Length of the measurement, such as 500ms, 30s or 2m.
    #[arg(short, long, default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// Ends after this many requests, and not after a duration.
    #[arg(short = 'n', long, conflicts_with = "duration")]
    requests: Option<u64>,
    /// Time before the measurement, with the same load.
    #[arg(long, default_value = "1s", value_parser = duration)]
    warm_up: Duration,
    /// Requests per second, of all connections together.
    #[arg(short, long)]
    rate: Option<f64>,
    /// The rate changes to this one in the course of the measurement.
    #[arg(long, value_name = "RATE", requires = "rate", conflicts_with = "requests")]
    ramp_to: Option<f64>,
    /// The rate changes in this many steps and not in a straight line.
    #[arg(long, requires = "ramp_to")]
    steps: Option<u32>,
    /// How long a request may take.
    #[arg(long, default_value = "10s", value_parser = duration)]
    timeout: Duration,
    /// Method of HTTP requests. GET, or POST if there is a body.
    #[arg(short = 'X', long)]
    method: Option<Method>,
    /// A field of each request, as 'name: value'. May be repeated.
    #[arg(short = 'H', long = "header", value_parser = field)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Size of each request's body or message, such as 200 or 16KiB. For gRPC, the body is field 1 of a message, of type
    /// bytes or string.
    #[arg(short, long, value_parser = size, conflicts_with = "body_file")]
    body_size: Option<usize>,
    /// The body or message of each request. For gRPC an encoded message.
    #[arg(long)]
    body_file: Option<PathBuf>,
    /// The status of HTTP responses. Without it, 200 to 299.
    #[arg(long)]
    expect_status: Option<StatusCode>,
    /// Size of each response's body or message. For TCP, the bytes that answer a transfer: as many as were sent, if not
    /// given, and 0 to send only.
    #[arg(long, value_parser = size)]
    expect_size: Option<usize>,
    /// HTTP/2 responses must have trailers.
    #[arg(long)]
    expect_trailers: bool,
    /// gRPC: sends messages on bidirectional streams, each answered by one message; a stream ends after that many (0: never).
    #[arg(long, value_name = "MESSAGES")]
    grpc_stream: Option<u64>,
    /// Connects to this address and not to the URL's host.
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    #[command(flatten)]
    tls: TlsFiles,
    #[command(flatten)]
    pub(super) output: Output,
}

/// Where the results go.
#[derive(Debug, Clone, Args)]
pub(super) struct Output {
    /// Writes the results as JSON to a file, or to standard output in place of the text (-).
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Writes a page with the results and plots.
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
    /// Writes the plots.
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
    /// Prints a line a second, even to a terminal.
    #[arg(long)]
    pub(super) plain: bool,
}

impl LoadArgs {
    /// Returns the specification, with the address resolved and files read. Returns what is wrong with the arguments.
    pub(super) fn spec(&self) -> Result<Spec, String> {
        let scheme =
            self.url.scheme_str().ok_or_else(|| format!("{}: a URL begins with http:// or so", self.url))?;
        let (encrypted, port) = match scheme {
            "http" | "ws" | "grpc" => (false, Some(80)),
            "https" | "wss" | "grpcs" => (true, Some(443)),
            "tcp" => (false, None),
            "tls" => (true, None),
            other => {
                return Err(format!(
                    "unknown scheme {other}: use http, https, grpc, grpcs, ws, wss, tcp or tls"
                ));
            }
        };
        let host = self.url.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| format!("{}: a URL has a host", self.url))?;
        let port =
            self.url.port_u16().or(port).ok_or_else(|| format!("{}: {scheme}:// needs a port", self.url))?;
        let to = self.connect.clone().unwrap_or_else(|| format!("{host}:{port}"));
        let protocol = self.protocol(scheme)?;
        let until = self.requests.map_or(Until::Elapsed(self.duration), Until::Requests);
        let tls = match encrypted {
            true => Some(self.tls.load(host, alpn(&protocol))?),
            false if self.tls.is_given() => {
                return Err(format!("{scheme}:// has no TLS: certificates are of no use"));
            }
            false => None,
        };
        let spec = Spec {
            address: address(&to)?,
            tls,
            protocol,
            connections: self.connections,
            streams: self.streams,
            connection_per_request: self.connection_per_request,
            pace: self.pace()?,
            warm_up: self.warm_up,
            until,
            timeout: self.timeout,
            threads: self.threads,
            cores: self.cores.clone(),
        };
        spec.check()?;
        Ok(spec)
    }

    fn pace(&self) -> Result<Pace, String> {
        let Some(rate) = self.rate else {
            return Ok(if self.idle { Pace::OnceThenIdle } else { Pace::ClosedLoop });
        };
        // A number of requests takes as long as it takes.
        let length = if self.requests.is_some() { Duration::MAX / 4 } else { self.duration };
        let schedule = match (self.ramp_to, self.steps) {
            (None, _) => Schedule::constant(rate, length),
            (Some(to), None) => Schedule::ramp(rate, to, length),
            (Some(to), Some(steps)) => Schedule::steps(rate, to, steps, length),
        };
        schedule.map(Pace::Rate)
    }

    fn protocol(&self, scheme: &str) -> Result<Protocol, String> {
        let (authority, path) =
            (self.url.authority().map(ToString::to_string).unwrap_or_default(), self.url.path_and_query());
        let path = path.map_or("/", |path| path.as_str()).to_owned();
        let http = matches!(scheme, "http" | "https");
        for (given, flag) in [
            (self.http2, "--http2"),
            (self.method.is_some(), "--method"),
            (self.expect_status.is_some(), "--expect-status"),
            (self.expect_trailers, "--expect-trailers"),
        ] {
            if given && !http {
                return Err(format!("{flag} is for http:// and https://"));
            }
        }
        if self.expect_trailers && !self.http2 {
            return Err("--expect-trailers needs --http2".into());
        }
        if self.grpc_stream.is_some() && !scheme.starts_with("grpc") {
            return Err("--grpc-stream is for grpc:// and grpcs://".into());
        }
        let headers: HeaderMap = self.headers.iter().cloned().collect();
        for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
            if headers.contains_key(&name) {
                return Err(format!("the field {name} is set by the load test itself"));
            }
        }
        let length = self.expect_size.map(|size| size as u64);
        let body = self.body(scheme.starts_with("grpc"))?;
        Ok(match scheme {
            "http" | "https" => {
                let method = if body.is_empty() { Method::GET } else { Method::POST };
                let request = HttpRequest {
                    method: self.method.clone().unwrap_or(method),
                    authority,
                    path,
                    headers,
                    body,
                    expect: Expect { status: self.expect_status, length, trailers: self.expect_trailers },
                };
                if self.http2 { Protocol::Http2(request) } else { Protocol::Http1(request) }
            }
            "grpc" | "grpcs" if path.matches('/').count() != 2 => {
                return Err(format!("{path}: a gRPC method is /package.Service/Method"));
            }
            "grpc" | "grpcs" => Protocol::Grpc(GrpcCall {
                authority,
                path,
                metadata: headers,
                message: body,
                expect_length: length,
                messages_per_stream: self.grpc_stream,
            }),
            "ws" | "wss" => Protocol::WebSocket(WebSocketMessage {
                authority,
                path,
                headers,
                message: body,
                expect_length: length,
            }),
            _ if body.is_empty() => {
                return Err("TCP needs --body-size or --body-file: what a transfer sends".into());
            }
            _ => Protocol::Tcp(Transfer { receive: length.unwrap_or(body.len() as u64), send: body }),
        })
    }

    fn body(&self, grpc: bool) -> Result<Bytes, String> {
        match (&self.body_file, self.body_size) {
            (Some(file), _) => {
                std::fs::read(file).map(Bytes::from).map_err(|error| format!("{}: {error}", file.display()))
            }
            (None, Some(size)) if grpc => message(size),
            (None, size) => Ok(vec![b'x'; size.unwrap_or(0)].into()),
        }
    }
}

/// An encoded Protobuf message of `size` bytes: field 1, of type bytes or string.
fn message(size: usize) -> Result<Bytes, String> {
    if size == 0 {
        return Ok(Bytes::new());
    }
    // The length of the field is encoded in as few bytes as hold the message's, and padded where its own needs fewer.
    let bytes = (1..).find(|bytes| size >> (7 * bytes) == 0).unwrap_or(1);
    let field = size.checked_sub(1 + bytes).ok_or("a Protobuf message with a field has at least 2 bytes")?;
    let mut message = vec![0x0a];
    for byte in 0..bytes {
        let more = if byte + 1 < bytes { 0x80 } else { 0 };
        message.push((field >> (7 * byte)) as u8 & 0x7f | more);
    }
    message.resize(size, b'x');
    Ok(message.into())
}

/// The application protocols that TLS offers (RFC 7301).
fn alpn(protocol: &Protocol) -> &'static [&'static str] {
    match protocol {
        Protocol::Http1(_) | Protocol::WebSocket(_) => &["http/1.1"],
        Protocol::Http2(_) | Protocol::Grpc(_) => &["h2"],
        Protocol::Tcp(_) => &[],
    }
}

/// Resolves `to`. Of several addresses, the first that accepts a connection is taken.
fn address(to: &str) -> Result<SocketAddr, String> {
    let found: Vec<_> = to.to_socket_addrs().map_err(|error| format!("{to}: {error}"))?.collect();
    let accepts = |address: &&SocketAddr| TcpStream::connect_timeout(address, PROBE).is_ok();
    let first = found.first().filter(|_| found.len() == 1);
    first
        .or_else(|| found.iter().find(accepts))
        .or(found.first())
        .copied()
        .ok_or_else(|| format!("{to}: no address"))
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("a field is 'name: value'")?;
    let name = name.trim().parse().map_err(|error| format!("{name}: {error}"))?;
    let value = value.trim().parse().map_err(|error| format!("{value}: {error}"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests;
