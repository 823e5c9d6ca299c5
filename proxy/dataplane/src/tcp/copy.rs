//! Bytes both ways between two connections until both directions have ended.
//!
//! Used for TCP, CONNECT and upgrades. Each direction ends on its own: a half-close is passed on as a shutdown, and a side
//! that reads no more is still read to its end. A side that breaks off resets the other, which must not take what it got
//! for the whole; so does silence in both directions for the idle timeout.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::one_way::OneWay;
use crate::permission::Permission;
use crate::socket::stream::Stream;

/// What went through, and how it ended.
#[derive(Debug)]
pub(crate) struct Copied {
    /// Bytes from the client to the upstream.
    pub(crate) received: u64,
    /// Bytes from the upstream to the client.
    pub(crate) sent: u64,
    /// How it ended.
    pub(crate) end: End,
}

/// How a copy ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides closed in order.
    Closed,
    /// Nothing moved for the idle timeout.
    Idle,
    /// It lasted as long as it may.
    Expired,
    /// The client is no longer allowed to connect.
    Denied,
    /// The client's side broke.
    Client(io::Error),
    /// The upstream's side broke.
    Upstream(io::Error),
}

impl Copied {
    /// What its end means for its record; `None` for an orderly one.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let timeout = |why| Some(Failure::downstream(Reason::DownstreamTimeout, why));
        match &self.end {
            End::Closed => None,
            End::Idle => timeout("no byte for the idle timeout"),
            End::Expired => timeout("it lasted as long as it may"),
            End::Denied => {
                Some(Failure::downstream(Reason::AccessDenied, "the connection is no longer allowed"))
            }
            End::Client(error) => Some(Failure::downstream(Reason::DownstreamConnectionTermination, error)),
            End::Upstream(error) => {
                let reason = Reason::UpstreamConnectionTermination;
                Some(Failure::upstream(reason, Reached::ResponseStarted, error))
            }
        }
    }
}

/// One side of a copy, and what was already read from it.
pub(crate) struct Side {
    /// The connection.
    pub(crate) stream: Stream,
    /// Bytes that were read ahead; they go first.
    pub(crate) read: Bytes,
}

/// The time limits of a copy.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CopyLimits {
    /// The longest time without a byte in either direction.
    pub(crate) idle: Option<Duration>,
    /// The longest duration.
    pub(crate) total: Option<Duration>,
}

/// Copies until both directions have ended, a side breaks off, its time is over, or `permission` is withdrawn. Cancelling it
/// drops both connections.
pub(crate) async fn copy_both(
    client: Side,
    upstream: Side,
    limits: CopyLimits,
    permission: Option<&Permission>,
) -> Copied {
    let (mut client_stream, mut upstream_stream) = (client.stream, upstream.stream);
    let (mut up, mut down) = (OneWay::new(client.read), OneWay::new(upstream.read));
    let CopyLimits { idle, total } = limits;
    let began = Instant::now();
    // The first end that can come; moved on when it was not one.
    let first = idle.into_iter().chain(total).min();
    let timer = tokio::time::sleep(first.unwrap_or(Duration::MAX / 4).min(Duration::from_secs(86_400 * 365)));
    tokio::pin!(timer);
    let mut moved_at = Instant::now();
    let mut moved = 0;

    let end = poll_fn(|cx| {
        // Before any byte is copied: the configuration may have changed while the upstream was dialled.
        if permission.is_some_and(|permission| permission.poll_withdrawn(cx).is_ready()) {
            return Poll::Ready(Some(End::Denied));
        }
        let upward = up.poll(cx, &mut client_stream, &mut upstream_stream);
        let downward = down.poll(cx, &mut upstream_stream, &mut client_stream);
        match (upward, downward) {
            (Poll::Ready(Err(error)), _) => return Poll::Ready(Some(End::Client(error))),
            (_, Poll::Ready(Err(error))) => return Poll::Ready(Some(End::Upstream(error))),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(None),
            _ => {}
        }
        if first.is_none() {
            return Poll::Pending;
        }
        if moved != up.bytes + down.bytes {
            moved = up.bytes + down.bytes;
            moved_at = Instant::now();
        }
        // The timer is moved only when it fires, not for every byte.
        while timer.as_mut().poll(cx).is_ready() {
            if total.is_some_and(|total| began.elapsed() >= total) {
                return Poll::Ready(Some(End::Expired));
            }
            if idle.is_some_and(|idle| moved_at.elapsed() >= idle) {
                return Poll::Ready(Some(End::Idle));
            }
            let ends = idle.map(|idle| moved_at + idle).into_iter().chain(total.map(|total| began + total));
            timer.as_mut().reset(ends.min().unwrap_or(began));
        }
        Poll::Pending
    })
    .await;
    if end.is_some() {
        client_stream.reset();
        upstream_stream.reset();
    }
    let refused = up.refused.map(End::Upstream).or(down.refused.map(End::Client));
    let end = end.or(refused).unwrap_or(End::Closed);
    Copied { received: up.bytes, sent: down.bytes, end }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::{JoinHandle, spawn_local};

    use super::*;

    fn side(stream: DuplexStream) -> Side {
        Side { stream: Stream::Memory(stream), read: Bytes::new() }
    }

    fn copying(client: Side, upstream: Side, limits: CopyLimits) -> JoinHandle<Copied> {
        spawn_local(copy_both(client, upstream, limits, None))
    }

    #[tokio::test(flavor = "local")]
    async fn a_half_closed_side_still_gets_its_answer() {
        let (mut client, down) = duplex(8);
        let (mut upstream, up) = duplex(8);
        let copy = copying(side(down), side(up), CopyLimits::default());
        let asked = tokio::spawn(async move {
            let mut question = Vec::new();
            upstream.read_to_end(&mut question).await.unwrap();
            upstream.write_all(&[b'x'; 1000]).await.unwrap();
            question
        });
        client.write_all(b"a question longer than the pipe").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!((asked.await.unwrap().len(), answer.len()), (31, 1000));
        let copied = copy.await.unwrap();
        assert!(matches!(copied.end, End::Closed));
        assert_eq!((copied.received, copied.sent), (31, 1000));
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn silence_in_both_directions_ends_the_copy_and_traffic_in_one_does_not() {
        let (mut client, down) = duplex(64);
        let (_upstream, up) = duplex(64);
        let started = Instant::now();
        let limits = CopyLimits { idle: Some(Duration::from_secs(60)), total: None };
        let copy = copying(side(down), side(up), limits);
        tokio::time::sleep(Duration::from_secs(50)).await;
        client.write_all(b"x").await.unwrap();
        let copied = copy.await.unwrap();
        assert!(matches!(copied.end, End::Idle));
        assert_eq!(started.elapsed().as_secs(), 110);
    }

    #[tokio::test(flavor = "local", start_paused = true)]
    async fn a_copy_ends_when_it_has_lasted_for_long_enough() {
        let (mut client, down) = duplex(64);
        let (_upstream, up) = duplex(64 * 1024);
        let started = Instant::now();
        let idle = Some(Duration::from_secs(20));
        let limits = CopyLimits { idle, total: Some(Duration::from_secs(60)) };
        let copy = copying(side(down), side(up), limits);
        while client.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(15)).await;
        }
        assert!(matches!(copy.await.unwrap().end, End::Expired));
        assert!(started.elapsed() >= Duration::from_secs(60));
    }

    #[test]
    fn a_relay_fits_in_one_kib() {
        let side = || side(duplex(1).0);
        let size = size_of_val(&copy_both(side(), side(), CopyLimits::default(), None));
        assert!(size <= 1024, "it takes {size} bytes");
    }

    #[tokio::test(flavor = "local")]
    async fn what_was_read_ahead_goes_first() {
        let (mut client, down) = duplex(64);
        let (mut upstream, up) = duplex(64);
        let ahead = Side { stream: Stream::Memory(down), read: Bytes::from_static(b"first ") };
        copying(ahead, side(up), CopyLimits::default());
        client.write_all(b"second").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = String::new();
        upstream.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "first second");
    }
}
