//! The client side: many requests at a time on one connection.
//!
//! Each connection has a task on the worker, which ends when its last user is dropped or the connection has ended.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::connection::{Config, Connection};
use super::driver::Driver;
pub(crate) use super::exchange::Exchange;
use super::promised::Promised;
use super::slot::{Shared, Slot};
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
/// How long the connection window may be exhausted before other connections are preferred. Fast senders exhaust it for one
/// round trip.
const CROWDED_AFTER: Duration = Duration::from_millis(200);

/// A connection, shared by its clones.
#[derive(Clone)]
pub(crate) struct ClientConnection {
    shared: Rc<Shared>,
}

impl ClientConnection {
    /// Starts a connection. An encrypted one leads to another proxy, to which PINGs are sent regularly: the connections of a
    /// host that vanishes are silent. Applications receive no regular PINGs, since some treat them as abuse.
    pub(crate) fn start(stream: Stream, limits: &Limits, usage: Rc<dyn Usage>) -> Self {
        let asked = stream.is_encrypted();
        Self::start_asking(stream, limits, usage, asked)
    }

    pub(in crate::codec) fn start_asking(
        stream: Stream,
        limits: &Limits,
        usage: Rc<dyn Usage>,
        asked: bool,
    ) -> Self {
        let window = Promised::new(limits.connection_window);
        // What a server sends on cancelled streams is no attack: it may not have received the reset yet.
        let config = Config { resets: ResetLimits::MEMBER, ..Config::new(limits, window.bytes()) };
        let connection = Rc::new(RefCell::new(Connection::client(config, Instant::now())));
        let mut driver = Driver::new(Rc::clone(&connection), stream, Bytes::new());
        let driven = Rc::clone(&connection);
        tokio::task::spawn_local(async move {
            let _promised = window;
            tokio::select! {
                () = poll_fn(|cx| driver.poll(cx, || {})) => {
                    tracing::debug!(end = ?driven.borrow().end(), "upstream HTTP/2 connection ended");
                }
                () = silence(&driven, asked) => tracing::debug!("upstream HTTP/2 connection was silent"),
            }
        });
        let shared = Shared {
            limits: Rc::new(limits.clone()),
            connection,
            streams: Cell::new(0),
            usage,
            of_proxy: asked,
            asked: Cell::new(None),
        };
        Self { shared: Rc::new(shared) }
    }

    pub(crate) fn capacity(&self) -> usize {
        if !self.is_open() {
            return 0;
        }
        self.shared.connection.borrow().stream_limit().saturating_sub(self.streams())
    }

    pub(crate) fn streams(&self) -> usize {
        self.shared.streams.get()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.shared.connection.borrow().is_open()
    }

    /// Returns whether stalled streams have exhausted the connection window, in either direction.
    pub(crate) fn is_crowded(&self) -> bool {
        let connection = self.shared.connection.borrow();
        connection.is_overdrawn()
            || connection.exhausted_since().is_some_and(|since| since.elapsed() >= CROWDED_AFTER)
    }

    /// Returns when bytes were last received.
    pub(crate) fn last_heard(&self) -> Instant {
        self.shared.connection.borrow().last_heard()
    }

    /// Sends a PING, unless one was sent recently.
    pub(crate) fn ask(&self) {
        let Shared { asked, of_proxy, connection, .. } = &*self.shared;
        let pause = if *of_proxy { ASKED_EVERY } else { APPLICATION_ASKED_EVERY };
        if asked.get().is_none_or(|asked| self.last_heard() >= asked && asked.elapsed() >= pause) {
            asked.set(Some(Instant::now()));
            connection.borrow_mut().ping(Instant::now());
        }
    }

    /// Returns whether a PING was sent and nothing was received since, for a while.
    pub(crate) fn is_quiet(&self) -> bool {
        let quiet = |asked: Instant| self.last_heard() < asked && asked.elapsed() >= QUIET_AFTER;
        self.shared.asked.get().is_some_and(quiet)
    }

    pub(crate) fn send(&self, head: &RequestHead, body: Body) -> Exchange {
        Exchange::new(head, body, Slot::new(&self.shared))
    }
}

/// Resolves when the peer does not respond to a PING while requests are in flight. Never resolves for an application, whose
/// requests are not ended by a PING at all.
async fn silence(connection: &RefCell<Connection>, of_proxy: bool) {
    if !of_proxy {
        return std::future::pending().await;
    }
    loop {
        sleep(PING_EVERY).await;
        let is_used = connection.borrow().active_streams() > 0;
        // A PING that was sent because of a doubt does not end the requests earlier.
        if is_used {
            connection.borrow_mut().ping(Instant::now());
        }
        let answered = poll_fn(|cx| connection.borrow_mut().poll_answered(cx));
        if timeout(PING_TIMEOUT, answered).await.is_err() {
            return;
        }
    }
}

impl fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConnection").field("streams", &self.streams()).finish_non_exhaustive()
    }
}
