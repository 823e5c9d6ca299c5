//! A connection with a deadline.
//!
//! Every operation checks the deadline. Otherwise a peer that reads nothing would keep the server waiting for a flush or a
//! shutdown, and the connection would outlive the peer's certificate.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Completes when the connection must end.
pub(super) type Deadline = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A stream with a deadline, after which reads return end of file and writes fail.
pub(super) struct BoundedConnection<S, P, Q> {
    stream: S,
    peer: P,
    deadline: Deadline,
    expired: bool,
    /// Released when the connection is dropped.
    _quota: Q,
}

impl<S, P, Q> BoundedConnection<S, P, Q> {
    pub(super) fn new(stream: S, peer: P, deadline: Deadline, quota: Q) -> Self {
        Self { stream, peer, deadline, expired: false, _quota: quota }
    }

    fn is_expired(&mut self, cx: &mut Context<'_>) -> bool {
        self.expired = self.expired || self.deadline.as_mut().poll(cx).is_ready();
        self.expired
    }
}

impl<S: Unpin, P: Unpin, Q: Unpin> BoundedConnection<S, P, Q> {
    /// Runs a write operation, or fails if the deadline has passed.
    fn poll_bounded<T>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        operation: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.is_expired(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        operation(Pin::new(&mut self.stream), cx)
    }
}

impl<S, P: Clone + Send + Sync + 'static, Q> Connected for BoundedConnection<S, P, Q> {
    type ConnectInfo = P;

    fn connect_info(&self) -> P {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin, P: Unpin, Q: Unpin> AsyncRead for BoundedConnection<S, P, Q> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_expired(cx) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin, P: Unpin, Q: Unpin> AsyncWrite for BoundedConnection<S, P, Q> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_bounded(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_bounded(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_bounded(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_bounded(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter, duplex};
    use tokio::time::{sleep, timeout};

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(5);

    /// Returns a connection that, like TLS, buffers more than its peer reads.
    async fn full() -> (BoundedConnection<BufWriter<tokio::io::DuplexStream>, (), ()>, impl Sized) {
        let (ours, theirs) = duplex(16);
        let stream = BufWriter::with_capacity(64, ours);
        let mut connection = BoundedConnection::new(stream, (), Box::pin(sleep(LIFETIME)), ());
        connection.write_all(&[0; 40]).await.unwrap();
        (connection, theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_does_not_outlive_the_deadline() {
        let (mut flushed, _peer) = full().await;
        let error = timeout(LIFETIME * 2, flushed.flush()).await.expect("the flush ends").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        let (mut shut_down, _peer) = full().await;
        let error =
            timeout(LIFETIME * 2, shut_down.shutdown()).await.expect("the shutdown ends").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        let (mut written, _peer) = full().await;
        let error =
            timeout(LIFETIME * 2, written.write_all(&[0; 100])).await.expect("the write ends").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_returns_end_of_file_after_the_deadline() {
        let (mut connection, _peer) = full().await;
        assert_eq!(
            timeout(LIFETIME * 2, connection.read(&mut [0; 1])).await.expect("the read ends").unwrap(),
            0
        );
    }
}
