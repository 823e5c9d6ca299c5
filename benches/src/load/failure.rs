//! The ways in which a request can fail. Each kind is counted and named in the report.

use std::fmt;
use std::io::{Error, ErrorKind};

/// Why a request failed. Few values: they are keys of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// The connection could not be opened.
    Connect(ErrorKind),
    /// The TLS handshake failed, with rustls' reason.
    Tls(String),
    /// The server did not agree to the protocol: no ALPN, no upgrade.
    Protocol(String),
    /// The connection was closed before the answer was complete.
    Closed,
    /// Reading or writing failed.
    Io(ErrorKind),
    /// No complete answer within the timeout.
    Timeout,
    /// An answer with another status than expected.
    Status(u16),
    /// An answer with another size than expected.
    Length { received: u64, expected: u64 },
    /// HTTP/2 trailers were expected.
    NoTrailers,
    /// The stream or the connection was reset, with HTTP/2's error code.
    Reset(u32),
    /// gRPC status other than 0.
    Grpc(i32),
    /// A gRPC answer without a status.
    NoGrpcStatus,
    /// The answer breaks its protocol.
    Malformed(&'static str),
}

impl Failure {
    /// A failure of the connection while it is used.
    pub(super) fn io(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::Closed,
            kind => Self::Io(kind),
        }
    }

    /// A failure that HTTP/2 reports.
    pub(super) fn h2(error: &h2::Error) -> Self {
        match (error.reason(), error.get_io()) {
            (_, Some(error)) => Self::io(error),
            (Some(reason), None) => Self::Reset(reason.into()),
            (None, None) => Self::Closed,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(kind) => write!(out, "cannot connect: {kind}"),
            Self::Tls(reason) => write!(out, "TLS handshake: {reason}"),
            Self::Protocol(reason) => out.write_str(reason),
            Self::Closed => out.write_str("the server closed the connection"),
            Self::Io(kind) => write!(out, "connection lost: {kind}"),
            Self::Timeout => out.write_str("timeout"),
            Self::Status(status) => write!(out, "status {status}"),
            Self::Length { received, expected } => write!(out, "{received} bytes instead of {expected}"),
            Self::NoTrailers => out.write_str("no trailers"),
            Self::Reset(code) => write!(out, "HTTP/2 reset: {:?}", h2::Reason::from(*code)),
            Self::Grpc(code) => write!(out, "grpc-status {code}"),
            Self::NoGrpcStatus => out.write_str("no grpc-status"),
            Self::Malformed(what) => write!(out, "malformed answer: {what}"),
        }
    }
}
