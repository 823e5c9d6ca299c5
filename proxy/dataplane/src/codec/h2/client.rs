//! The client side: many requests at a time on one connection.
//!
//! Each connection has a task on the worker, which ends when its last user is dropped or the connection has ended.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use outrigger_core::error::{Failure, Reached};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub(crate) use super::exchange::Exchange;
use super::promised::Promised;
use super::seen::Seen;
use super::slot::{Shared, Slot};
use super::unread::Unread;
use super::wire::Wire;
use super::{FRAME_SIZE, SEND_BUFFER, SMALL_FRAMES, failure};
use crate::codec::body::Body;
use crate::codec::head::RequestHead;
use crate::codec::limits::{Limits, ResetLimits};
use crate::codec::usage::Usage;
use crate::socket::stream::Stream;

/// The interval of PINGs to a peer with requests in flight, and the timeout for its response.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The minimum interval of PINGs that are sent because of a doubt. Applications treat frequent PINGs without requests as abuse
/// (gRPC servers close the connection at the third one within five minutes).
const ASKED_EVERY: Duration = Duration::from_secs(1);
const APPLICATION_ASKED_EVERY: Duration = Duration::from_secs(120);
/// A peer that has sent nothing for this long after such a PING receives no further requests.
const QUIET_AFTER: Duration = Duration::from_secs(1);
/// The number of streams that may be opened before the SETTINGS of the peer are received.
const STREAMS_BEFORE_SETTINGS: usize = 100;
/// How long the connection window may be exhausted before other connections are preferred. Fast senders exhaust it for one
/// round trip.
const CROWDED_AFTER: Duration = Duration::from_millis(200);

/// A connection, shared by its clones.
#[derive(Clone)]
pub(crate) struct ClientConnection {
    shared: Rc<Shared>,
    send: SendRequest<Bytes>,
    ended: watch::Receiver<()>,
}

impl ClientConnection {
    /// Starts a connection. An encrypted one leads to another proxy, to which PINGs are sent regularly: the connections of a
    /// host that vanishes are silent. Applications receive no regular PINGs, since some treat them as abuse.
    pub(crate) async fn start(
        stream: Stream,
        limits: &Limits,
        usage: Rc<dyn Usage>,
    ) -> Result<Self, Failure> {
        let asked = stream.is_encrypted();
        Self::start_asking(stream, limits, usage, asked).await
    }

    pub(in crate::codec) async fn start_asking(
        stream: Stream,
        limits: &Limits,
        usage: Rc<dyn Usage>,
        asked: bool,
    ) -> Result<Self, Failure> {
        let mut builder = h2::client::Builder::new();
        let window = Promised::new(limits.connection_window);
        // What a server sends on cancelled streams is no attack: it may not have received the reset yet.
        let ResetLimits { unseen: _, remembered, errors } = ResetLimits::MEMBER;
        builder
            .enable_push(false)
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(window.bytes())
            .data_frame_budget(SMALL_FRAMES)
            .max_frame_size(FRAME_SIZE)
            .max_header_list_size(limits.http2_list_bytes())
            .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
            .max_concurrent_reset_streams(remembered)
            .max_local_error_reset_streams(errors)
            .max_send_buffer_size(SEND_BUFFER);
        let seen = Rc::new(Seen::of_server(limits));
        let (send, mut connection) = builder
            .handshake::<_, Bytes>(Wire::to_server(stream, Rc::clone(&seen)))
            .await
            .map_err(|error| failure::upstream(&error, Reached::NotWritten))?;
        let (alive, ended) = watch::channel(());
        let shared = Rc::new(Shared {
            limits: Rc::new(limits.clone()),
            seen,
            unread: Unread::new(window.bytes(), limits.stream_window),
            streams: Cell::new(0),
            usage,
            of_proxy: asked,
            asked: Cell::new(None),
            ask: Notify::new(),
        });
        let pings = connection.ping_pong();
        let watched = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            let _promised = window;
            let mut freeing = pin!(watched.unread.free_window(&watched.seen));
            let ended = poll_fn(|cx| {
                // Runs as long as the connection.
                let _ = freeing.as_mut().poll(cx);
                if let Some(window) = watched.unread.changed_window() {
                    connection.set_target_window_size(window);
                }
                Pin::new(&mut connection).poll(cx)
            });
            // Each stream receives the error, or observes that the connection was dropped; this is for debugging.
            tokio::select! {
                ended = ended => if let Err(error) = ended {
                    tracing::debug!(%error, "upstream HTTP/2 connection ended");
                },
                () = watched.silence(pings) => tracing::debug!("upstream HTTP/2 connection was silent"),
            }
            watched.seen.ended();
            drop(alive);
        });
        Ok(Self { shared, send, ended })
    }

    pub(crate) fn capacity(&self) -> usize {
        if !self.is_open() {
            return 0;
        }
        self.send.current_max_send_streams().saturating_sub(self.streams())
    }

    pub(crate) fn streams(&self) -> usize {
        self.shared.streams.get()
    }

    pub(crate) fn is_open(&self) -> bool {
        let polled = self.send.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        self.ended.has_changed().is_ok() && !matches!(polled, Poll::Ready(Err(_)))
    }

    /// Returns whether stalled streams have exhausted the connection window, in either direction.
    pub(crate) fn is_crowded(&self) -> bool {
        let Shared { seen, unread, .. } = &*self.shared;
        unread.is_overdrawn()
            || seen.receiving.is_used_up_for(CROWDED_AFTER)
            || seen.sending.is_used_up_for(CROWDED_AFTER)
    }

    /// Returns when bytes were last received.
    pub(crate) fn last_heard(&self) -> Instant {
        self.shared.seen.last_heard()
    }

    /// Sends a PING, unless one was sent recently.
    pub(crate) fn ask(&self) {
        let Shared { asked, ask, of_proxy, .. } = &*self.shared;
        let pause = if *of_proxy { ASKED_EVERY } else { APPLICATION_ASKED_EVERY };
        if asked.get().is_none_or(|asked| self.last_heard() >= asked && asked.elapsed() >= pause) {
            asked.set(Some(Instant::now()));
            ask.notify_one();
        }
    }

    /// Returns whether a PING was sent and nothing was received since, for a while.
    pub(crate) fn is_quiet(&self) -> bool {
        let quiet = |asked: Instant| self.last_heard() < asked && asked.elapsed() >= QUIET_AFTER;
        self.shared.asked.get().is_some_and(quiet)
    }

    pub(crate) fn send(&self, head: RequestHead, body: Body) -> Exchange {
        Exchange::new(self.send.clone(), head, body, Slot::new(&self.shared))
    }
}

impl Shared {
    /// Resolves when the peer does not respond to a PING while requests are in flight. Never resolves for an application.
    async fn silence(&self, pings: Option<PingPong>) {
        let Some(mut pings) = pings else { return std::future::pending().await };
        loop {
            let patience = tokio::select! {
                () = tokio::time::sleep(PING_EVERY), if self.of_proxy => {
                    if self.streams.get() == 0 {
                        continue;
                    }
                    PING_TIMEOUT
                }
                // A PING because of a doubt does not end the requests earlier. Requests of an application are not ended at all.
                () = self.ask.notified() => if self.of_proxy { PING_EVERY + PING_TIMEOUT } else { Duration::MAX },
            };
            match tokio::time::timeout(patience, pings.ping(Ping::opaque())).await {
                Err(_) => return,
                Ok(Ok(_)) => {}
                // The connection has ended and reports this itself.
                Ok(Err(_)) => return std::future::pending().await,
            }
        }
    }
}

impl fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConnection").field("streams", &self.streams()).finish_non_exhaustive()
    }
}
