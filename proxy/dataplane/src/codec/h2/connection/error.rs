//! Why a stream or a connection ended before its time.

use std::fmt;
use std::io;
use std::rc::Rc;

use super::super::frame::Code;

/// Why a stream ended early.
#[derive(Debug, Clone)]
pub(in super::super) enum StreamError {
    /// The peer reset it.
    Reset(Code),
    /// The peer violated a rule on this stream, which was reset with that code.
    Violation(Code, &'static str),
    /// The trailers are above the limit. What this side sends is not affected.
    TooLarge,
    /// The trailers are malformed (RFC 9113 section 8.1.1). This side may still send a response; then the stream is reset.
    MalformedTrailers(&'static str),
    /// It was reset here by [`super::Connection::reset`], or its key was released.
    Local(Code),
    /// Its unread bytes were needed for other streams ([`super::Connection::relieve`]).
    GaveUp,
    /// The peer has not processed it: it is above the last stream of a GOAWAY (RFC 9113 section 6.8).
    NotProcessed,
    /// The connection has ended.
    Connection(End),
}

/// Why a connection ended.
#[derive(Debug, Clone)]
pub(in super::super) enum End {
    /// The peer violated a rule; GOAWAY with that code was sent. `stream` is the stream whose frame it was, 0 if none.
    Violation { code: Code, rule: &'static str, stream: u32 },
    /// What a server sent first was not its SETTINGS (RFC 9113 section 3.4); GOAWAY with that code was sent.
    NotHttp2 { code: Code, rule: &'static str },
    /// The peer sent GOAWAY with an error code and closed the transport.
    GoAway(Code),
    /// The transport failed.
    Io(Rc<io::Error>),
    /// The peer closed the transport.
    Closed,
    /// It was ended here by [`super::Connection::shut_down`].
    Local(Code),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(code) => write!(f, "the stream was reset with {code}"),
            Self::Violation(code, rule) => write!(f, "{rule} ({code})"),
            Self::TooLarge => f.write_str("the trailer section is too large"),
            Self::MalformedTrailers(rule) => f.write_str(rule),
            Self::Local(code) => write!(f, "the stream was ended here with {code}"),
            Self::GaveUp => f.write_str("the body stood still while others needed its place in the window"),
            Self::NotProcessed => {
                f.write_str("the peer closes the connection and has not processed the request")
            }
            Self::Connection(end) => end.fmt(f),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation { code, rule, .. } => write!(f, "{rule} ({code})"),
            Self::NotHttp2 { code, rule } => write!(f, "the endpoint does not speak HTTP/2: {rule} ({code})"),
            Self::GoAway(code) => write!(f, "the peer has closed the connection with {code}"),
            Self::Io(error) => error.fmt(f),
            Self::Closed => f.write_str("the peer has closed the connection"),
            Self::Local(code) => write!(f, "the connection was ended here with {code}"),
        }
    }
}

/// Why a request was refused before it reached a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Refusal {
    /// The request is malformed; its stream was reset.
    Malformed(&'static str),
    /// The client has more streams open than it may; REFUSED_STREAM was sent.
    TooManyStreams,
    /// The client reset the stream before it was accepted.
    ResetUnseen,
}

/// What ended one stream early, as the stream records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Reset(Code),
    Violation(Code, &'static str),
    Local(Code),
    GaveUp,
    NotProcessed,
}

impl Fault {
    /// Returns whether RST_STREAM was sent, so that the peer may not know yet and its frames are late rather than wrong.
    pub(super) fn was_sent(self) -> bool {
        matches!(self, Self::Violation(..) | Self::Local(_) | Self::GaveUp)
    }
}

impl From<Fault> for StreamError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Reset(code) => Self::Reset(code),
            Fault::Violation(code, rule) => Self::Violation(code, rule),
            Fault::Local(code) => Self::Local(code),
            Fault::GaveUp => Self::GaveUp,
            Fault::NotProcessed => Self::NotProcessed,
        }
    }
}
