//! Reads on behind the end of a server's connection, so that the client gets what was written last.
//!
//! A client that still reads sends WINDOW_UPDATE meanwhile. If that meets a closed socket, the kernel answers with a reset and
//! drops what the client has not read yet (RFC 9112 section 9.6 describes the same for HTTP/1).

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::codec::watchdog::Watchdog;
use crate::socket::stream::Stream;

/// How long the client may send nothing.
const QUIET: Duration = Duration::from_secs(1);
/// How long it may go on.
const MOST: Duration = Duration::from_secs(10);
/// How many bytes it may send.
const MOST_BYTES: usize = 1024 * 1024;
/// Capacity for a read.
const READ: usize = 4 * 1024;

/// Discards what the client sends, until it closes its side.
pub(super) struct Lingering {
    until: Instant,
    quiet: Watchdog,
    /// Bytes that may still come.
    left: usize,
    discarded: BytesMut,
}

impl Lingering {
    pub(super) fn new() -> Self {
        let mut quiet = Watchdog::new();
        quiet.set(QUIET);
        Self { until: Instant::now() + MOST, quiet, left: MOST_BYTES, discarded: BytesMut::new() }
    }

    /// Ready when the client has closed its side of `stream`, or its time is over.
    pub(super) fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.discarded.clear();
            self.discarded.reserve(READ);
            match pin!(stream.read_buf(&mut self.discarded)).poll(cx) {
                Poll::Ready(Ok(bytes @ 1..)) if bytes < self.left && Instant::now() < self.until => {
                    self.left -= bytes;
                    self.quiet.set(QUIET);
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return self.quiet.poll_passed(cx),
            }
        }
    }
}

impl fmt::Debug for Lingering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lingering").field("until", &self.until).finish_non_exhaustive()
    }
}
