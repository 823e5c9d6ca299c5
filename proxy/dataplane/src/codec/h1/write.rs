//! Serializes messages: heads, body framing, and the queue of bytes for the socket.
//!
//! A head and a small body are one piece; large pieces are not copied and are written together with the head in one vectored
//! write.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use tokio::io::AsyncWrite;

use crate::codec::head::{RequestHead, ResponseHead};
use crate::codec::{buffers, date, hop};
use crate::socket::stream::Stream;

/// Pieces up to this size are copied to the queue, which costs less than another I/O vector.
const COPY: usize = 4 * 1024;
/// The maximum number of I/O vectors in one write.
const VECTORS: usize = 16;
/// The number of queued bytes at which reading of a body pauses.
pub(crate) const HIGH_WATER: usize = 64 * 1024;

/// Bytes that are queued for the socket.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    queue: VecDeque<Bytes>,
    last: BytesMut,
    waiting: usize,
}

impl Outgoing {
    /// Returns the number of queued bytes.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes all queued bytes.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        let mut all: Vec<u8> = self.queue.drain(..).flatten().collect();
        all.extend_from_slice(&self.last.split());
        self.waiting = 0;
        all
    }

    /// Frees memory that is not in use.
    pub(crate) fn rest(&mut self) {
        if self.waiting == 0 {
            buffers::give(std::mem::take(&mut self.last));
            self.queue = VecDeque::new();
        }
    }

    /// Queues a copy of the bytes.
    pub(crate) fn copy(&mut self, bytes: &[u8]) {
        if self.last.capacity() == 0 {
            self.last = buffers::take();
        }
        self.last.put_slice(bytes);
        self.waiting += bytes.len();
    }

    /// Queues bytes, copied if that is cheaper.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= COPY {
            return self.copy(&bytes);
        }
        if !self.last.is_empty() {
            self.queue.push_back(self.last.split().freeze());
        }
        self.waiting += bytes.len();
        self.queue.push_back(bytes);
    }

    /// Writes queued bytes once. Returns the number that the socket has accepted.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(stream);
        let written = if self.queue.is_empty() {
            ready!(stream.poll_write(cx, &self.last))?
        } else {
            let mut slices = [IoSlice::new(&[]); VECTORS];
            let pieces = self.queue.iter().map(Bytes::as_ref).chain([self.last.as_ref()]);
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(pieces) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            ready!(stream.poll_write_vectored(cx, &slices[..count]))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(written))
    }

    fn advance(&mut self, mut written: usize) {
        self.waiting -= written;
        while let Some(first) = self.queue.front_mut() {
            if written < first.len() {
                return first.advance(written);
            }
            written -= first.len();
            self.queue.pop_front();
        }
        if written == self.last.len() {
            // Nothing is queued, and the next message may be long in coming.
            buffers::give(std::mem::take(&mut self.last));
        } else {
            self.last.advance(written);
        }
    }
}

/// How the body that is being written is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoder {
    /// No body is written, even if there is one.
    None,
    /// This many bytes are left.
    Length(u64),
    /// Chunked transfer coding; `trailers` is whether trailers may be written.
    Chunked { trailers: bool },
    /// The body extends to the end of the connection.
    UntilClose,
}

impl Encoder {
    /// Writes a piece of the body. Returns an error if the body is longer than announced.
    pub(crate) fn data(&mut self, out: &mut Outgoing, data: Bytes) -> Result<(), Failure> {
        match self {
            Self::None => {}
            Self::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or_else(|| {
                    Failure::local(Reason::LocalError, "a body is longer than its Content-Length")
                })?;
                out.push(data);
            }
            Self::Chunked { .. } => {
                out.copy(size_line(data.len(), &mut [0; 18]));
                out.push(data);
                out.copy(b"\r\n");
            }
            Self::UntilClose => out.push(data),
        }
        Ok(())
    }

    /// Writes the end of a body. Returns an error if the body is shorter than announced.
    pub(crate) fn end(self, out: &mut Outgoing, fields: Option<&HeaderMap>) -> Result<(), Failure> {
        match self {
            Self::None | Self::Length(0) | Self::UntilClose => {}
            Self::Length(_) => {
                return Err(Failure::local(Reason::LocalError, "a body is shorter than its Content-Length"));
            }
            Self::Chunked { trailers } => {
                out.copy(b"0\r\n");
                for (name, value) in fields.filter(|_| trailers).into_iter().flatten() {
                    if !hop::is_forbidden_in_trailers(name) {
                        field(out, name.as_str(), value.as_bytes());
                    }
                }
                out.copy(b"\r\n");
            }
        }
        Ok(())
    }
}

fn size_line(size: usize, room: &mut [u8; 18]) -> &[u8] {
    let mut at = room.len();
    for byte in [b'\n', b'\r'] {
        at -= 1;
        room[at] = byte;
    }
    let mut left = size;
    loop {
        at -= 1;
        room[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
        if left == 0 {
            return &room[at..];
        }
    }
}

/// Writes a request head. Returns the encoder for its body of `length` bytes; a length of `None` is unknown.
pub(crate) fn request(out: &mut Outgoing, head: &RequestHead, length: Option<u64>) -> Encoder {
    out.copy(head.method.as_str().as_bytes());
    out.copy(b" ");
    match &head.authority {
        Some(authority) if head.method == Method::CONNECT => out.copy(authority.as_str().as_bytes()),
        _ => out.copy(head.path.as_str().as_bytes()),
    }
    out.copy(b" HTTP/1.1\r\n");
    field(out, "host", head.authority.as_ref().map_or(b"", |authority| authority.as_str().as_bytes()));
    fields(out, &head.headers);
    match (&head.upgrade, head.headers.contains_key(header::TE)) {
        (Some(protocol), te) => {
            out.copy(if te { b"connection: upgrade, te\r\n" } else { b"connection: upgrade\r\n" });
            field(out, "upgrade", protocol.as_bytes());
        }
        (None, true) => out.copy(b"connection: te\r\n"),
        (None, false) => {}
    }
    let encoder = match length {
        // A method that defines content sends the length even if it is 0 (RFC 9110 section 8.6).
        Some(0) if !matches!(head.method, Method::POST | Method::PUT | Method::PATCH) => Encoder::None,
        Some(length) => Encoder::Length(length),
        None => Encoder::Chunked { trailers: true },
    };
    framing(out, encoder);
    out.copy(b"\r\n");
    encoder
}

/// The properties of a request on which the writing of its response depends.
#[derive(Debug, Clone)]
pub(crate) struct Answering {
    pub(crate) method: Method,
    pub(crate) http10: bool,
    pub(crate) accepts_trailers: bool,
    /// Whether the client requests a persistent connection.
    pub(crate) keep_alive: bool,
}

/// Writes a final response head. Returns the encoder for its body, and whether the connection persists.
pub(crate) fn response(
    out: &mut Outgoing,
    head: &ResponseHead,
    length: Option<u64>,
    answering: &Answering,
) -> (Encoder, bool) {
    status_line(out, head.status);
    fields(out, &head.headers);
    if !head.headers.contains_key(header::DATE) {
        field(out, "date", date::now().as_bytes());
    }
    let no_content = head.status == StatusCode::NO_CONTENT;
    let bodiless = no_content || head.status == StatusCode::NOT_MODIFIED || answering.method == Method::HEAD;
    let encoder = match length {
        _ if bodiless => Encoder::None,
        Some(length) => Encoder::Length(length),
        None if answering.http10 => Encoder::UntilClose,
        None => Encoder::Chunked { trailers: answering.accepts_trailers },
    };
    if bodiless && !no_content {
        // The length that the response to a GET would have (RFC 9110 section 8.6).
        if let Some(length) = head.headers.get(header::CONTENT_LENGTH) {
            field(out, "content-length", length.as_bytes());
        } else if let Some(length) = length.filter(|length| *length > 0) {
            framing(out, Encoder::Length(length));
        }
    }
    framing(out, encoder);
    let keep_alive = answering.keep_alive && encoder != Encoder::UntilClose;
    if !keep_alive {
        out.copy(b"connection: close\r\n");
    } else if answering.http10 {
        out.copy(b"connection: keep-alive\r\n");
    }
    out.copy(b"\r\n");
    (encoder, keep_alive)
}

/// Writes an interim head, or the head that accepts an upgrade.
pub(crate) fn bare_response(out: &mut Outgoing, head: &ResponseHead) {
    status_line(out, head.status);
    fields(out, &head.headers);
    if let Some(protocol) = &head.upgrade {
        out.copy(b"connection: upgrade\r\n");
        field(out, "upgrade", protocol.as_bytes());
    }
    out.copy(b"\r\n");
}

fn status_line(out: &mut Outgoing, status: StatusCode) {
    if status == StatusCode::OK {
        return out.copy(b"HTTP/1.1 200 OK\r\n");
    }
    out.copy(b"HTTP/1.1 ");
    out.copy(status.as_str().as_bytes());
    out.copy(b" ");
    out.copy(status.canonical_reason().unwrap_or_default().as_bytes());
    out.copy(b"\r\n");
}

fn fields(out: &mut Outgoing, headers: &HeaderMap<HeaderValue>) {
    for (name, value) in headers {
        if !is_ours(name) {
            field(out, name.as_str(), value.as_bytes());
        }
    }
}

/// Returns whether only the codec writes this field, even if a policy has set it.
fn is_ours(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH || *name == header::HOST || hop::is_hop_by_hop(name)
}

fn framing(out: &mut Outgoing, encoder: Encoder) {
    match encoder {
        Encoder::None | Encoder::UntilClose => {}
        Encoder::Length(length) => {
            field(out, "content-length", itoa::Buffer::new().format(length).as_bytes());
        }
        Encoder::Chunked { .. } => out.copy(b"transfer-encoding: chunked\r\n"),
    }
}

fn field(out: &mut Outgoing, name: &str, value: &[u8]) {
    out.last.reserve(name.len() + value.len() + 4);
    out.copy(name.as_bytes());
    out.copy(b": ");
    out.copy(value);
    out.copy(b"\r\n");
}

#[cfg(test)]
mod tests;
