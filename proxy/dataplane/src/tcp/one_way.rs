//! One direction of a copy.
//!
//! Bytes are read into a scratch buffer of the worker, and only what the receiver does not take at once is kept, so that an idle
//! connection holds no buffer. Bulk in the clear stays in the kernel ([`Pipe`]). A half-close is passed on as a shutdown.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::splice::Pipe;
use crate::socket::stream::Stream;

/// What is read at once. What the other side does not take of it is the most that a direction holds.
const SCRATCH_BYTES: usize = 64 * 1024;

/// A read of at least this much is bulk, after which a pipe is used; less than this much through a pipe is no longer. A pipe
/// costs more than a copy of few bytes.
const BULK: usize = 32 * 1024;
const NO_BULK: usize = 8 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// Where an error came from.
enum Fault {
    Read(io::Error),
    Write(io::Error),
}

/// Bytes in one direction.
pub(super) struct OneWay {
    /// Read and not yet written.
    waiting: Bytes,
    state: DirectionState,
    unflushed: bool,
    /// Whether the last read was a large one.
    is_bulk: bool,
    /// For bulk.
    pipe: Option<Pipe>,
    /// How many have been written.
    pub(super) bytes: u64,
    /// Why the receiver reads no more. What it sends is still relayed: a server may answer before it has read
    /// everything, and close.
    pub(super) refused: Option<io::Error>,
}

enum DirectionState {
    Reading,
    Closing,
    Closed,
}

impl OneWay {
    pub(super) fn new(waiting: Bytes) -> Self {
        Self {
            waiting,
            state: DirectionState::Reading,
            unflushed: false,
            is_bulk: false,
            pipe: None,
            bytes: 0,
            refused: None,
        }
    }

    /// Ready when the sender has closed or the receiver takes no more; fails when the sender has broken off.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Poll<io::Result<()>> {
        while !matches!(self.state, DirectionState::Closed) {
            match ready!(self.poll_step(cx, from, to)) {
                Ok(()) => {}
                Err(Fault::Read(error)) => return Poll::Ready(Err(error)),
                Err(Fault::Write(error)) => {
                    self.waiting = Bytes::new();
                    self.pipe = None;
                    self.state = DirectionState::Closed;
                    self.refused = Some(error);
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Poll<Result<(), Fault>> {
        if !self.waiting.is_empty() {
            let written = ready!(Pin::new(to).poll_write(cx, &self.waiting)).map_err(Fault::Write)?;
            self.wrote(written)?;
            self.waiting.advance(written);
            return Poll::Ready(Ok(()));
        }
        if let (Some(pipe), Some(to)) = (&mut self.pipe, to.plain())
            && pipe.held() > 0
        {
            let written = ready!(pipe.poll_drain(cx, to)).map_err(Fault::Write)?;
            if pipe.held() == 0 && !self.is_bulk {
                self.give_back_pipe();
            }
            self.wrote(written)?;
            return Poll::Ready(Ok(()));
        }
        match self.state {
            DirectionState::Reading => match self.poll_read(cx, from, to)? {
                Poll::Ready(true) => {}
                Poll::Ready(false) => self.state = DirectionState::Closing,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(to).poll_flush(cx)).map_err(Fault::Write)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            },
            DirectionState::Closing => {
                match ready!(Pin::new(to).poll_shutdown(cx)) {
                    // The other end is gone already: nothing is left to be closed.
                    Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                    shut => shut.map_err(Fault::Write)?,
                }
                self.state = DirectionState::Closed;
            }
            DirectionState::Closed => {}
        }
        Poll::Ready(Ok(()))
    }

    fn give_back_pipe(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
    }

    /// Reads once; false at the sender's end.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Poll<Result<bool, Fault>> {
        if self.is_bulk
            && let (Some(plain), Some(_)) = (from.plain(), to.plain())
            && let Some(read) = self.poll_fill_pipe(cx, plain)
        {
            return read;
        }
        self.poll_pass(cx, from, to)
    }

    /// Reads once into a pipe. Returns None if none can be used.
    fn poll_fill_pipe(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
    ) -> Option<Poll<Result<bool, Fault>>> {
        let mut pipe = self.pipe.take().or_else(Pipe::take)?;
        let read = match pipe.poll_fill(cx, from) {
            // Nothing more is there: an idle direction holds no pipe.
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(false)),
            Poll::Ready(Ok(read)) => {
                self.is_bulk = read >= NO_BULK;
                self.pipe = Some(pipe);
                return Some(Poll::Ready(Ok(true)));
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(Fault::Read(error))),
        };
        pipe.give_back();
        Some(read)
    }

    /// Reads once and writes what it can of it; false at the sender's end.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
    ) -> Poll<Result<bool, Fault>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut buffer)).map_err(Fault::Read)?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(false));
            }
            self.is_bulk = buffer.filled().len() >= BULK;
            let written = match Pin::new(to).poll_write(cx, buffer.filled()) {
                Poll::Ready(written) => written.map_err(Fault::Write)?,
                Poll::Pending => 0,
            };
            if written > 0 {
                self.wrote(written)?;
            }
            if written < buffer.filled().len() {
                self.waiting = Bytes::copy_from_slice(&buffer.filled()[written..]);
            }
            Poll::Ready(Ok(true))
        })
    }

    fn wrote(&mut self, bytes: usize) -> Result<(), Fault> {
        if bytes == 0 {
            return Err(Fault::Write(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        self.bytes += bytes as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn bulk_goes_through_a_pipe_and_arrives_whole_also_at_a_slow_receiver() {
        let ((mut client, from), (to, mut server)) = (pair().await, pair().await);
        let sent: Vec<u8> = (0..8 * 1024 * 1024_u32).map(|at| (at / 251) as u8).collect();
        let expected = sent.clone();
        let sending = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
        });
        let receiving = tokio::spawn(async move {
            // Until the buffers in between are full.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let mut received = Vec::new();
            server.read_to_end(&mut received).await.unwrap();
            received
        });
        let (mut from, mut to) = (Stream::Plain(from), Stream::Plain(to));
        let (mut way, mut pipes) = (OneWay::new(Bytes::new()), 0);
        let copied = poll_fn(|cx| {
            let polled = way.poll(cx, &mut from, &mut to);
            pipes = Pipe::in_use().max(pipes);
            polled
        });
        copied.await.unwrap();
        sending.await.unwrap();
        assert!(receiving.await.unwrap() == expected);
        assert_eq!((way.bytes, pipes, Pipe::in_use()), (expected.len() as u64, 1, 0));
    }
}
