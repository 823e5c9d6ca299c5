//! Moves bytes from one TCP connection to another within the kernel (splice(2)), through a pipe.
//!
//! Called by `copy` for bulk in the clear. The pipes belong to the worker and are few, because each takes two descriptors: a
//! direction that gets none copies as usual.

use std::cell::{Cell, RefCell};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe holds at most, if the system permits it (`fs.pipe-user-pages-soft`). The default is 64 KiB.
const PIPE_BYTES: usize = 256 * 1024;

/// How many pipes one worker uses at a time.
const MOST: usize = 16;

thread_local! {
    static FREE: RefCell<Vec<(PipeReader, PipeWriter)>> = const { RefCell::new(Vec::new()) };
    static IN_USE: Cell<usize> = const { Cell::new(0) };
}

/// A pipe that one direction uses. Bytes that are left in it when it is dropped are lost, and the pipe with them.
#[derive(Debug)]
pub(super) struct Pipe {
    reader: PipeReader,
    writer: PipeWriter,
    held: usize,
    _slot: Slot,
}

/// One of [`MOST`], until it is dropped.
#[derive(Debug)]
struct Slot;

impl Drop for Slot {
    fn drop(&mut self) {
        IN_USE.set(IN_USE.get() - 1);
    }
}

impl Pipe {
    /// Takes a pipe. Returns None if all are in use or no further one can be created.
    pub(super) fn take() -> Option<Self> {
        if IN_USE.get() == MOST {
            return None;
        }
        let (reader, writer) = match FREE.with_borrow_mut(Vec::pop) {
            Some(free) => free,
            None => {
                let (reader, writer) = io::pipe().ok()?;
                // It works with the default too.
                let _ = fcntl_setpipe_size(&writer, PIPE_BYTES);
                (reader, writer)
            }
        };
        IN_USE.set(IN_USE.get() + 1);
        Some(Self { reader, writer, held: 0, _slot: Slot })
    }

    /// Gives an empty pipe back for the next use.
    pub(super) fn give_back(self) {
        if self.held == 0 {
            FREE.with_borrow_mut(|free| free.push((self.reader, self.writer)));
        }
    }

    /// Returns how many pipes of this worker are in use.
    #[cfg(test)]
    pub(super) fn in_use() -> usize {
        IN_USE.get()
    }

    /// Returns the number of bytes that were read and not yet written.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Reads once from `from` into the empty pipe. Returns the number of bytes, 0 at the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let read = from.try_io(Interest::READABLE, || pass(from, &self.writer, PIPE_BYTES));
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    self.held = *read.as_ref().unwrap_or(&0);
                    return Poll::Ready(read);
                }
            }
        }
    }

    /// Writes once from the pipe, which is not empty, to `to`. Returns the number of bytes.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            let written = to.try_io(Interest::WRITABLE, || pass(&self.reader, to, self.held));
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    self.held -= *written.as_ref().unwrap_or(&0);
                    return Poll::Ready(written);
                }
            }
        }
    }
}

/// Moves at most `most` bytes without blocking.
fn pass(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    loop {
        match splice(&from, None, &to, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK) {
            Err(Errno::INTR) => {}
            moved => return Ok(moved?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_go_through_and_the_end_is_noticed() {
        let ((mut client, from), (to, mut server)) = (pair().await, pair().await);
        let mut pipe = Pipe::take().unwrap();
        client.write_all(b"some bytes").await.unwrap();
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &from)).await.unwrap(), 10);
        assert_eq!((poll_fn(|cx| pipe.poll_drain(cx, &to)).await.unwrap(), pipe.held()), (10, 0));
        let mut read = [0; 10];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"some bytes");
        drop(client);
        assert_eq!(poll_fn(|cx| pipe.poll_fill(cx, &from)).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_pipe_with_bytes_in_it_is_not_used_again() {
        let (mut client, from) = pair().await;
        let mut pipe = Pipe::take().unwrap();
        client.write_all(b"lost").await.unwrap();
        poll_fn(|cx| pipe.poll_fill(cx, &from)).await.unwrap();
        pipe.give_back();
        FREE.with_borrow(|free| assert!(free.is_empty()));
        Pipe::take().unwrap().give_back();
        FREE.with_borrow(|free| assert_eq!(free.len(), 1));
    }

    #[test]
    fn pipes_are_few() {
        let mut pipes: Vec<_> = std::iter::from_fn(Pipe::take).collect();
        assert_eq!(pipes.len(), MOST);
        pipes.pop();
        assert!(Pipe::take().is_some());
    }
}
