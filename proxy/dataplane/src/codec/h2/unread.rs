//! Tracks streams of one connection whose received bytes are not read, and frees the connection's receive window when they
//! exhaust it, so that no other stream makes progress.
//!
//! HTTP/2 does not show which streams wait for the window, so the peer is granted a little more ([`Unread::overdrawn`]). If the
//! peer does not use it, no stream needs it. Only if it is exhausted too are the streams that hold the most reset (RFC 9113
//! section 5.2.2).

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::rc::{Rc, Weak};
use std::time::Duration;

use h2::RecvStream;

use super::seen::Seen;

/// How long the window stays exhausted before anything is done.
const PATIENCE: Duration = Duration::from_secs(1);

/// The receiving half of a stream.
#[derive(Debug)]
pub(super) struct Receiver {
    /// `None` once the stream was given up.
    stream: Option<RecvStream>,
    /// The number of bytes read.
    read: u64,
    /// The number of bytes read at the last check.
    read_before: Option<u64>,
}

/// The unread bytes of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unconsumed {
    bytes: usize,
    /// Whether nothing was read since the last check.
    is_still: bool,
    /// Whether the peer may send more.
    is_open: bool,
}

impl Receiver {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream: Some(stream), read: 0, read_before: None }
    }

    /// Returns the stream, unless it was given up.
    pub(super) fn stream(&mut self) -> Option<&mut RecvStream> {
        self.stream.as_mut()
    }

    /// Records that bytes were read, and reopens the windows.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.read += bytes as u64;
        if let Some(stream) = &mut self.stream {
            // Fails only if more is released than was received.
            let _ = stream.flow_control().release_capacity(bytes);
        }
    }

    pub(super) fn unconsumed(&mut self) -> Unconsumed {
        let is_still = self.read_before.replace(self.read) == Some(self.read);
        let Some(stream) = &mut self.stream else { return Unconsumed { bytes: 0, is_still, is_open: false } };
        Unconsumed {
            bytes: stream.flow_control().used_capacity(),
            is_still,
            is_open: !stream.is_end_stream(),
        }
    }

    /// Releases the unread bytes. A later read returns an error.
    pub(super) fn give_up(&mut self) {
        self.stream = None;
    }
}

/// The receiver of a stream: a body or a tunnel.
pub(super) trait Receiving {
    fn unconsumed(&self) -> Unconsumed;
    fn give_up(&self);
}

impl Receiving for RefCell<Receiver> {
    fn unconsumed(&self) -> Unconsumed {
        self.borrow_mut().unconsumed()
    }

    fn give_up(&self) {
        self.borrow_mut().give_up();
    }
}

/// The receiving streams of one connection.
pub(super) struct Unread {
    streams: RefCell<Vec<Weak<dyn Receiving>>>,
    /// The receive windows of the connection and of each stream.
    windows: (u32, u32),
    /// Whether the peer may send one stream's window more than the connection's window.
    overdrawn: Cell<bool>,
    /// The new window, until it was applied to the connection.
    changed: Cell<Option<u32>>,
}

impl Unread {
    /// Creates the state of a connection with a window of `connection` bytes, whose streams have a window of `stream` bytes each.
    pub(super) fn new(connection: u32, stream: u32) -> Self {
        Self {
            streams: RefCell::default(),
            windows: (connection, stream),
            overdrawn: Cell::new(false),
            changed: Cell::new(None),
        }
    }

    /// Adds a stream.
    pub(super) fn watch(&self, stream: Weak<dyn Receiving>) {
        let mut streams = self.streams.borrow_mut();
        if streams.len() == streams.capacity() {
            streams.retain(|stream| stream.strong_count() > 0);
        }
        streams.push(stream);
    }

    /// Returns whether stalled streams have exhausted the window and still hold it.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.overdrawn.get()
    }

    /// Returns the new size of the connection window, if it has changed.
    pub(super) fn changed_window(&self) -> Option<u32> {
        self.changed.take()
    }

    /// Prevents unread streams from blocking others. Never resolves. Must be polled with the connection, to which
    /// [`Self::changed_window`] is then applied.
    pub(super) async fn free_window(&self, seen: &Seen) {
        let (_, stream) = self.windows;
        loop {
            tokio::select! {
                () = seen.receiving.used_up() => {}
                () = tokio::time::sleep(PATIENCE), if self.overdrawn.get() => {
                    if seen.receiving.left() > i64::from(stream) {
                        self.overdraw(false);
                    }
                    continue;
                }
            }
            self.unconsumed();
            tokio::time::sleep(PATIENCE).await;
            if !seen.receiving.is_used_up_for(PATIENCE) {
                continue;
            }
            if self.overdrawn.get() {
                self.give_up();
            } else {
                self.overdraw(true);
            }
        }
    }

    fn overdraw(&self, is: bool) {
        let (connection, stream) = self.windows;
        self.overdrawn.set(is);
        self.changed.set(Some(if is {
            connection.saturating_add(stream).min(i32::MAX as u32)
        } else {
            connection
        }));
    }

    /// Resets enough streams to release a quarter of the unread bytes, if other open streams hold none.
    fn give_up(&self) {
        let looked = self.unconsumed();
        if !looked.iter().any(|(held, _)| held.is_open && held.bytes == 0) {
            return;
        }
        let mut still: Vec<_> =
            looked.into_iter().filter(|(held, _)| held.bytes > 0 && held.is_still).collect();
        still.sort_by_key(|(held, _)| Reverse(held.bytes));
        let all: usize = still.iter().map(|(held, _)| held.bytes).sum();
        let mut freed = 0;
        for (held, stream) in still {
            stream.give_up();
            freed += held.bytes;
            if freed >= all / 4 {
                break;
            }
        }
    }

    fn unconsumed(&self) -> Vec<(Unconsumed, Rc<dyn Receiving>)> {
        let streams: Vec<_> = self.streams.borrow().iter().filter_map(Weak::upgrade).collect();
        streams.into_iter().map(|stream| (stream.unconsumed(), stream)).collect()
    }
}
