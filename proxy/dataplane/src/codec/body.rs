//! Message bodies, read frame by frame, and never faster than they are consumed.
//!
//! Reading a body drives its source (and, for a response, the sending of its request), so that no task is spawned for it. Its
//! end is always proven: a truncated body is an error and never a clean end (RFC 9112 section 8). Dropping a body before its
//! end cancels the exchange: the connection is closed or the stream reset.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;

/// A frame of a body.
#[derive(Debug, Clone)]
pub(crate) enum Frame {
    /// Some bytes, not empty.
    Data(Bytes),
    /// The trailer fields. Nothing follows them.
    Trailers(HeaderMap),
}

/// The source of a streamed body. Shared, because a connection outlives the body that is read from it.
pub(crate) trait Source {
    /// Returns the next frame, or `None` at the proven end. `turn` is the number that was passed to [`Body::streamed`]: a
    /// source of one body after another refuses a turn that has ended.
    fn poll_frame(&self, turn: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>>;

    /// Drives what happens concurrently (such as the sending of a response's request) without reading a frame.
    fn poll_progress(&self, _turn: u64, _cx: &mut Context<'_>) {}

    /// Called when the body is dropped before its end.
    fn abandon(&self, _turn: u64) {}
}

/// The numbers of body bytes of one request.
#[derive(Debug, Default)]
pub(crate) struct ByteCounts {
    /// From the client.
    pub(crate) received: Cell<u64>,
    /// To the client.
    pub(crate) sent: Cell<u64>,
}

impl ByteCounts {
    /// Returns both together, which changes whenever a byte moves.
    pub(crate) fn moved(&self) -> u64 {
        self.received.get() + self.sent.get()
    }
}

/// One of a request's [`ByteCounts`].
#[derive(Debug, Clone)]
pub(crate) enum ByteCount {
    Received(Rc<ByteCounts>),
    Sent(Rc<ByteCounts>),
}

impl ByteCount {
    fn add(&self, bytes: usize) {
        let count = match self {
            Self::Received(counts) => &counts.received,
            Self::Sent(counts) => &counts.sent,
        };
        count.set(count.get() + bytes as u64);
    }
}

/// The body of a request or response.
pub(crate) struct Body {
    content: Content,
    length: Option<u64>,
    count: Option<ByteCount>,
    frames: Option<Rc<Cell<u64>>>,
}

enum Content {
    Ended,
    Full(Bytes),
    Streamed { source: Rc<dyn Source>, turn: u64 },
}

impl Body {
    /// Creates an empty body.
    pub(crate) fn empty() -> Self {
        Self::new(Content::Ended, Some(0))
    }

    /// Creates a body that is completely in memory.
    pub(crate) fn full(bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        Self::new(if bytes.is_empty() { Content::Ended } else { Content::Full(bytes) }, Some(length))
    }

    /// Creates a body that is read from `source`, of `length` bytes if known. `turn` is passed to the source.
    pub(crate) fn streamed(source: Rc<dyn Source>, turn: u64, length: Option<u64>) -> Self {
        Self::new(Content::Streamed { source, turn }, length)
    }

    fn new(content: Content, length: Option<u64>) -> Self {
        Self { content, length, count: None, frames: None }
    }

    /// Adds the bytes that are read from now on to `count`.
    #[must_use]
    pub(crate) fn counted(mut self, count: ByteCount) -> Self {
        self.count = Some(count);
        self
    }

    /// Counts the frames that are read from now on in `frames`.
    #[must_use]
    pub(crate) fn frames_counted(mut self, frames: Rc<Cell<u64>>) -> Self {
        self.frames = Some(frames);
        self
    }

    /// Returns whether nothing is left: no bytes and no trailers.
    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.content, Content::Ended)
    }

    /// Returns how many bytes the whole body has, when known beforehand.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// Reads all of it, at most `longest` bytes. Returns the bytes and the trailers.
    pub(crate) async fn read_all(mut self, longest: usize) -> Result<(Bytes, HeaderMap), Failure> {
        let (mut all, mut trailers) = (BytesMut::new(), HeaderMap::new());
        while let Some(frame) = self.frame().await {
            match frame? {
                Frame::Data(data) if all.len() + data.len() > longest => {
                    let what = "the reply of the service is too long";
                    return Err(Failure::upstream(Reason::UpstreamProtocolError, Reached::Maybe, what));
                }
                Frame::Data(data) => all.extend_from_slice(&data),
                Frame::Trailers(fields) => trailers = fields,
            }
        }
        Ok((all.freeze(), trailers))
    }

    /// Returns the next frame, or `None` at the end. After an error the body has ended. Cancel-safe.
    pub(crate) async fn frame(&mut self) -> Option<Result<Frame, Failure>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// The next frame, see [`Body::frame`].
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        let frame = match &mut self.content {
            Content::Ended => None,
            Content::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.content = Content::Ended;
                Some(Ok(Frame::Data(bytes)))
            }
            Content::Streamed { source, turn } => {
                let frame = std::task::ready!(source.poll_frame(*turn, cx));
                if !matches!(frame, Some(Ok(Frame::Data(_)))) {
                    self.content = Content::Ended;
                }
                frame
            }
        };
        if let (Some(Ok(_)), Some(frames)) = (&frame, &self.frames) {
            frames.set(frames.get().wrapping_add(1));
        }
        if let (Some(Ok(Frame::Data(bytes))), Some(count)) = (&frame, &self.count) {
            count.add(bytes.len());
        }
        Poll::Ready(frame)
    }

    /// Drives what happens concurrently, without reading a frame: to be called while the reader of the body cannot accept
    /// more.
    pub(crate) fn poll_progress(&mut self, cx: &mut Context<'_>) {
        if let Content::Streamed { source, turn } = &self.content {
            source.poll_progress(*turn, cx);
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Content::Streamed { source, turn } = &self.content {
            source.abandon(*turn);
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("ended", &self.is_ended()).field("length", &self.length).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Gone;
    impl Source for Gone {
        fn poll_frame(&self, _: u64, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
            Poll::Ready(Some(Err(Failure::local(Reason::LocalError, "gone"))))
        }
    }

    #[tokio::test]
    async fn bytes_are_counted() {
        let counts = Rc::<ByteCounts>::default();
        let mut body = Body::full(Bytes::from_static(b"hello")).counted(ByteCount::Sent(Rc::clone(&counts)));
        assert_eq!(body.length(), Some(5));
        assert!(matches!(body.frame().await, Some(Ok(Frame::Data(_)))));
        assert!(body.frame().await.is_none());
        assert_eq!((counts.received.get(), counts.sent.get()), (0, 5));
    }

    #[tokio::test]
    async fn after_an_error_a_body_has_ended() {
        let mut body = Body::streamed(Rc::new(Gone), 0, None);
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
    }
}
