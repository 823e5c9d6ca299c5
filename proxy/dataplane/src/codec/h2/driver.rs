//! Moves the bytes of one connection between its [`Connection`] and its [`Stream`]: one task reads, writes and keeps the timers.
//!
//! The server's and the client's task poll it with what they do between reading and writing. It ends with the connection; if it
//! is dropped, the connection ends.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::Instant;

use super::connection::Connection;
use super::frame::Code;
use super::lingering::Lingering;
use crate::codec::buffers;
use crate::codec::limits::{HALF_CLOSED, LOOK_AFTER};
use crate::codec::watchdog::Watchdog;
use crate::socket::stream::{Peer, Stream};

/// Capacity for a read, and for reads of a peer that fills it.
const READ: usize = 16 * 1024;
const LARGE_READ: usize = 64 * 1024;
/// How long an idle connection keeps the memory of its streams, which its next request needs. Short, since what many connections hold at
/// a time stays with the process: the allocator returns no pages that are used in part.
const KEPT_FOR: Duration = Duration::from_millis(100);
/// Slices of one write.
const SLICES: usize = 64;
/// Reads before what was caused by them is written.
const READS_AT_ONCE: usize = 4;

/// The transport of a connection.
pub(super) struct Driver {
    connection: Rc<RefCell<Connection>>,
    stream: Stream,
    read: BytesMut,
    /// Whether `read` contains bytes that were not yet passed on.
    unreceived: bool,
    /// Whether nothing was read because of what is to be written first.
    held_back: bool,
    /// Capacity for the next read.
    capacity: usize,
    /// Whether all that was written has left the stream's own buffers.
    flushed: bool,
    relief: Watchdog,
    /// Whether no stream is left and nothing is to be written, and when memory is released because of that.
    idle: bool,
    release: Watchdog,
    /// Set when the client has half-closed and waits for responses.
    half_closed: Option<HalfClosed>,
    /// Set when everything was written and this side is closed.
    lingering: Option<Lingering>,
}

struct HalfClosed {
    since: Instant,
    /// When the kernel is next asked whether the client is still there.
    look: Watchdog,
}

impl Driver {
    /// Drives `connection` over `stream`, from which `first` was already read.
    pub(super) fn new(connection: Rc<RefCell<Connection>>, stream: Stream, first: Bytes) -> Self {
        Self {
            connection,
            stream,
            unreceived: !first.is_empty(),
            read: BytesMut::from(first),
            held_back: false,
            capacity: READ,
            flushed: true,
            relief: Watchdog::new(),
            idle: false,
            release: Watchdog::new(),
            half_closed: None,
            lingering: None,
        }
    }

    /// Reads and writes as far as possible. `work` is called before what was received is written, and must accept all requests. Ready when
    /// the connection has ended ([`Connection::end`]) and what was left was written as far as the peer takes it at once, or when it has drained
    /// and all was written.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, mut work: impl FnMut()) -> Poll<()> {
        if let Some(lingering) = &mut self.lingering {
            work();
            return lingering.poll(&mut self.stream, cx);
        }
        self.connection.borrow_mut().runs();
        loop {
            let now = Instant::now();
            // One of the handlers may be what this task was woken for, and may accept what would hold back reading.
            work();
            let reading = self.poll_receive(cx, now);
            work();
            let blocked = self.poll_write(cx, now).is_pending();
            let ended = self.connection.borrow().end().is_some();
            if ended && (blocked || self.is_broken()) {
                return Poll::Ready(());
            }
            // The last response has to reach the client, however slowly it reads.
            let complete = ended || (!blocked && self.connection.borrow().is_drained());
            if complete && self.poll_close(cx).is_ready() {
                if !self.connection.borrow().lingers() {
                    return Poll::Ready(());
                }
                self.read = BytesMut::new();
                return self.lingering.insert(Lingering::new()).poll(&mut self.stream, cx);
            }
            if self.half_closed.is_some() && !blocked && !self.owes_responses() {
                // The last one was just written.
                continue;
            }
            // What was written may have been what held back reading.
            let resumes = std::mem::take(&mut self.held_back) && self.connection.borrow().may_read();
            if reading.is_ready() || resumes || self.relieve(cx) {
                continue;
            }
            let mut connection = self.connection.borrow_mut();
            if connection.active_streams() > 0 || !self.read.is_empty() || !connection.is_flushed() {
                self.idle = false;
            } else {
                buffers::give(std::mem::take(&mut self.read));
                if !std::mem::replace(&mut self.idle, true) {
                    self.release.set(KEPT_FOR);
                }
                if self.release.poll_passed(cx).is_ready() {
                    connection.shrink();
                }
            }
            connection.wait(cx);
            return Poll::Pending;
        }
    }

    /// Returns whether the connection has been idle for so long that its memory was released.
    pub(super) fn is_released(&self) -> bool {
        self.idle && self.release.has_passed()
    }

    /// Reads and passes on what is there, all of it before requests are accepted: a reset may follow its request. Ready if there may be
    /// more, now or after requests were accepted.
    fn poll_receive(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        for _ in 0..READS_AT_ONCE {
            if self.unreceived {
                self.unreceived = self.connection.borrow_mut().receive(&mut self.read, now);
                if self.unreceived {
                    return Poll::Ready(());
                }
            }
            ready!(self.poll_read(cx));
            self.unreceived = !self.read.is_empty();
        }
        Poll::Ready(())
    }

    fn is_broken(&self) -> bool {
        matches!(self.connection.borrow().end(), Some(super::connection::End::Io(..)))
    }

    /// Ready when bytes were read, or the input has ended.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.connection.borrow().may_read() {
            self.held_back = true;
            return Poll::Pending;
        }
        if self.half_closed.is_some() {
            return self.poll_half_closed(cx);
        }
        if self.read.capacity() == 0 {
            self.read = buffers::take();
        }
        self.read.reserve(self.capacity);
        let spare = self.read.capacity() - self.read.len();
        let read = pin!(self.stream.read_buf(&mut self.read)).poll(cx);
        match read {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => self.poll_half_closed(cx),
            Poll::Ready(Ok(bytes)) => {
                self.capacity = if bytes >= spare { LARGE_READ } else { READ };
                Poll::Ready(())
            }
            Poll::Ready(Err(error)) => {
                self.connection.borrow_mut().fail(error);
                Poll::Ready(())
            }
        }
    }

    /// Ends the input, when no responses are owed to the peer any more, not all of its requests are complete, or it is gone.
    fn poll_half_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let owes = self.owes_responses();
        let (stream, connection) = (&mut self.stream, &self.connection);
        if owes {
            let half_closed = self.half_closed.get_or_insert_with(|| {
                // A client that has closed both sides answers any packet with a reset, which tells the kernel that it is gone; a
                // client that still reads cannot answer.
                connection.borrow_mut().ping(Instant::now());
                let mut look = Watchdog::new();
                look.set(Duration::ZERO);
                HalfClosed { since: Instant::now(), look }
            });
            let mut gone = false;
            while !gone && half_closed.look.poll_passed(cx).is_ready() {
                gone = match stream.peer() {
                    Peer::Reads => false,
                    Peer::Gone => true,
                    Peer::Unknown => half_closed.since.elapsed() >= HALF_CLOSED,
                };
                half_closed.look.set(LOOK_AFTER);
            }
            if !gone {
                return Poll::Pending;
            }
        }
        connection.borrow_mut().end_of_input();
        Poll::Ready(())
    }

    /// Returns whether nothing but responses, or the rest of the last one, is owed to the peer.
    fn owes_responses(&self) -> bool {
        self.connection.borrow_mut().owes_only_responses(self.flushed)
    }

    /// Ready when everything was written that can be sent now.
    fn poll_write(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        loop {
            let mut connection = self.connection.borrow_mut();
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = connection.transmit(&mut slices, now);
            let written = match &slices[..used] {
                [] => break,
                [one] => Pin::new(&mut self.stream).poll_write(cx, one),
                slices => Pin::new(&mut self.stream).poll_write_vectored(cx, slices),
            };
            self.flushed = false;
            match written {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => connection.fail(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(bytes)) => {
                    connection.transmitted(bytes);
                    continue;
                }
                Poll::Ready(Err(error)) => connection.fail(error),
            }
            return Poll::Ready(());
        }
        if !self.flushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => self.connection.borrow_mut().fail(error),
            }
            self.flushed = true;
        }
        Poll::Ready(())
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.stream).poll_shutdown(cx).map(drop)
    }

    /// Frees the connection's receive window, if it is time. Returns whether that may have caused something to write.
    fn relieve(&mut self, cx: &mut Context<'_>) -> bool {
        let due = self.connection.borrow().relief_due();
        let Some(due) = due else { return false };
        self.relief.set(due.saturating_duration_since(Instant::now()));
        let is_due = self.relief.poll_passed(cx).is_ready();
        if is_due {
            self.connection.borrow_mut().relieve(Instant::now());
        }
        is_due
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.connection.borrow_mut().shut_down(Code::NO_ERROR);
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("stream", &self.stream).finish_non_exhaustive()
    }
}
