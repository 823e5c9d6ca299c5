//! The body of a message: read frame by frame, and never faster than it is consumed.
//!
//! Reading a body drives what it comes from (and, for a response, the sending of its request), so nobody is spawned for
//! it. Its end is always proven: bytes that stop early are an error and never a clean end (RFC 9112 section 8).
//! Dropping a body before its end gives up the exchange: the connection is closed or the stream reset.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use outrigger_core::error::Failure;

/// A piece of a body.
#[derive(Debug, Clone)]
pub(crate) enum Frame {
    /// Some bytes, not empty.
    Data(Bytes),
    /// The trailer fields. Nothing follows them.
    Trailers(HeaderMap),
}

/// What a streamed body comes from. Shared, because a connection outlives the body that it is reading.
pub(crate) trait Source {
    /// The next frame, `None` at the proven end. `turn` is the number that was given to [`Body::streamed`]: a source
    /// that serves one body after another refuses a turn that is over.
    fn poll_frame(&self, turn: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>>;

    /// Goes on with what happens beside this body (a response's request is still being sent) without reading a frame.
    fn poll_progress(&self, _turn: u64, _cx: &mut Context<'_>) {}

    /// The body was dropped before its end.
    fn abandon(&self, _turn: u64) {}
}

/// The body of a request or response.
pub(crate) struct Body {
    content: Content,
    length: Option<u64>,
    count: Option<Rc<Cell<u64>>>,
    frames: Option<Rc<Cell<u64>>>,
}

enum Content {
    Ended,
    Full(Bytes),
    Streamed { source: Rc<dyn Source>, turn: u64 },
}

impl Body {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self::new(Content::Ended, Some(0))
    }

    /// A body that is all here.
    pub(crate) fn full(bytes: Bytes) -> Self {
        let length = bytes.len() as u64;
        Self::new(if bytes.is_empty() { Content::Ended } else { Content::Full(bytes) }, Some(length))
    }

    /// A body that comes from `source`, `length` bytes long if that is known. `turn` is handed back to the source.
    pub(crate) fn streamed(source: Rc<dyn Source>, turn: u64, length: Option<u64>) -> Self {
        Self::new(Content::Streamed { source, turn }, length)
    }

    fn new(content: Content, length: Option<u64>) -> Self {
        Self { content, length, count: None, frames: None }
    }

    /// Adds the bytes that are read from now on to `count`.
    #[must_use]
    pub(crate) fn counted(mut self, count: Rc<Cell<u64>>) -> Self {
        self.count = Some(count);
        self
    }

    /// Counts the frames that are read from now on in `frames`.
    #[must_use]
    pub(crate) fn frames_counted(mut self, frames: Rc<Cell<u64>>) -> Self {
        self.frames = Some(frames);
        self
    }

    /// Whether nothing is left: no bytes and no trailers.
    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.content, Content::Ended)
    }

    /// How many bytes the whole body has, when known beforehand.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next frame; `None` at the end. After an error the body has ended. Cancel-safe.
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
            count.set(count.get() + bytes.len() as u64);
        }
        Poll::Ready(frame)
    }

    /// Goes on with what happens beside this body, without reading from it: call it while its reader cannot take more.
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
            Poll::Ready(Some(Err(Failure::local(outrigger_core::reason::Reason::LocalError, "gone"))))
        }
    }

    #[tokio::test]
    async fn bytes_are_counted() {
        let count = Rc::new(Cell::new(0));
        let mut body = Body::full(Bytes::from_static(b"hello")).counted(count.clone());
        assert_eq!(body.length(), Some(5));
        assert!(matches!(body.frame().await, Some(Ok(Frame::Data(_)))));
        assert!(body.frame().await.is_none());
        assert_eq!(count.get(), 5);
    }

    #[tokio::test]
    async fn after_an_error_a_body_has_ended() {
        let mut body = Body::streamed(Rc::new(Gone), 0, None);
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
    }
}
