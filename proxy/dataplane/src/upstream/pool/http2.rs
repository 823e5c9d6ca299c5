//! HTTP/2 connections, each shared by many requests: a connection takes streams until either end reaches its limit; then
//! another one is dialled.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use outrigger_core::error::Failure;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::lease::{Lease, LeasedConnection, Permit, Queued};
use super::{Pool, PoolSettings, stopping};
use crate::codec::client::Http2Connection;
use crate::codec::limits::Limits;
use crate::codec::usage::Usage;
use crate::upstream::bounds::Peer;
use crate::upstream::dial::{Dialled, EndpointFacts, Wire};

/// Idle timeout. GOAWAY announces the end of a connection, so that this may be long.
const IDLE: Duration = Duration::from_secs(300);

/// A host's HTTP/2 connections.
#[derive(Debug, Default)]
pub(super) struct Http2 {
    shared: RefCell<Vec<SharedConnection>>,
    /// Requests that wait for the connection being established; `None` if there is none.
    starting: RefCell<Option<Vec<Started>>>,
}

/// Passes the new connection, or the failure, to a request that waits for it. The first request receives a stream even if the
/// connection has closed since, so that no request dials indefinitely if connections close at once.
type Started = oneshot::Sender<Result<Option<Lease>, Failure>>;

#[derive(Debug)]
struct SharedConnection {
    connection: Http2Connection,
    facts: EndpointFacts,
    born: Instant,
    used: Cell<Instant>,
    /// The number of requests that it has received.
    carried: Cell<u32>,
}

impl SharedConnection {
    /// Leases one more stream.
    fn lease(&self, queued: Option<Queued>) -> Lease {
        let first = self.carried.get() == 0;
        self.carried.set(self.carried.get().saturating_add(1));
        Lease {
            connection: LeasedConnection::Http2(self.connection.clone(), queued),
            // A closed HTTP/2 connection reports how far the request had come; only the first request can encounter a stale
            // handshake.
            reused: true,
            // A failure of a connection that was dialled for the request, or that is in use, is not due to staleness.
            was_idle: !first && self.connection.streams() == 0,
            facts: self.facts.clone(),
        }
    }

    /// Returns whether it can take one more request at once.
    fn has_capacity(&self, settings: &PoolSettings) -> bool {
        let most = usize::try_from(settings.connections.max_concurrent_streams).unwrap_or(usize::MAX);
        !self.is_spent(settings)
            && self.connection.streams() < most
            && self.connection.capacity() > 0
            && !self.connection.is_crowded()
            && !self.connection.is_quiet()
    }

    fn is_spent(&self, settings: &PoolSettings) -> bool {
        settings.is_spent(self.born.elapsed(), self.carried.get())
    }

    fn is_idle(&self) -> bool {
        self.connection.streams() == 0
    }

    /// Returns whether it is no longer needed.
    fn is_done(&self, settings: &PoolSettings) -> bool {
        !self.connection.is_open() || (self.connection.streams() == 0 && self.is_spent(settings))
    }
}

impl Http2 {
    pub(super) fn has_an_idle_one(&self) -> bool {
        self.shared.borrow().iter().any(SharedConnection::is_idle)
    }
}

impl Pool {
    pub(super) async fn http2(self: &Rc<Self>, peer: &Peer) -> Result<Lease, Failure> {
        let (mut queued, mut permit) = (None, None);
        loop {
            if let Some(lease) = self.shared_stream() {
                return Ok(lease);
            }
            let waits = queued.get_or_insert_with(|| Queued::new(&self.series));
            if self.http2.starting.borrow().is_none() {
                let permit = match permit.take().or_else(|| self.permit()) {
                    Some(permit) => permit,
                    None => {
                        // No further connection may be opened now.
                        if waits.place.is_none() {
                            waits.place = Some(self.bounds.pending(peer).ok_or_else(|| self.overflowed())?);
                        }
                        // Wait for a stream on one of the existing connections, or for a connection to another host to close.
                        if !self.http2.shared.borrow().is_empty() {
                            return self.share(|_| true, queued).ok_or_else(|| self.overflowed());
                        }
                        permit = Some(self.permit_in_time().await?);
                        continue;
                    }
                };
                self.start_http2(permit);
            }
            let (sender, receiver) = oneshot::channel();
            match &mut *self.http2.starting.borrow_mut() {
                Some(waiters) => waiters.push(sender),
                None => continue,
            }
            if let Some(lease) = receiver.await.unwrap_or_else(|_| Err(stopping()))? {
                return Ok(lease);
            }
        }
    }

    /// Leases a stream of a connection that can take one more request at once.
    pub(super) fn shared_stream(&self) -> Option<Lease> {
        let settings = self.settings.borrow();
        self.http2.shared.borrow_mut().retain(|shared| !shared.is_done(&settings));
        self.share(|shared| shared.has_capacity(&settings), None)
    }

    /// Returns the least used connection that `fits`.
    fn share(&self, fits: impl Fn(&SharedConnection) -> bool, queued: Option<Queued>) -> Option<Lease> {
        let shared = self.http2.shared.borrow();
        let fitting = shared.iter().filter(|shared| fits(shared));
        let chosen = fitting.min_by_key(|shared| shared.connection.streams())?;
        Some(chosen.lease(queued))
    }

    /// Dials one more HTTP/2 connection for all waiting requests. Owned by the worker; ends within the connect timeout.
    fn start_http2(self: &Rc<Self>, permit: Permit) {
        *self.http2.starting.borrow_mut() = Some(Vec::new());
        let pool = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let started = pool.dial_http2(permit).await;
            let mut outcome = started.map(|shared| {
                let lease = shared.lease(None);
                // A retired pool keeps it too, for the requests that wait for it; it is dropped with the pool.
                pool.http2.shared.borrow_mut().push(shared);
                Some(lease)
            });
            let waiters = pool.http2.starting.take().unwrap_or_default();
            if outcome.is_err() && waiters.iter().all(oneshot::Sender::is_closed) {
                pool.unseen_failure();
            }
            for waiter in waiters {
                let next = outcome.as_ref().map(|_| None).map_err(Failure::clone);
                // A request that no longer waits leaves the first stream to the next request.
                outcome = waiter.send(outcome).err().unwrap_or(next);
            }
        });
    }

    async fn dial_http2(&self, permit: Permit) -> Result<SharedConnection, Failure> {
        let dialled = self.dial(Wire::Http2).await?;
        self.http2_of(dialled, permit).await
    }

    /// Leases a stream of a connection that was dialled for one request, and adds the connection to the pool.
    pub(super) async fn keep_http2(&self, dialled: Dialled, permit: Permit) -> Result<Lease, Failure> {
        let shared = self.http2_of(dialled, permit).await?;
        let lease = shared.lease(None);
        self.http2.shared.borrow_mut().push(shared);
        Ok(lease)
    }

    async fn http2_of(&self, dialled: Dialled, permit: Permit) -> Result<SharedConnection, Failure> {
        let Dialled { stream, facts, http2: _ } = dialled;
        let limits = {
            let connections = &self.settings.borrow().connections;
            Limits {
                stream_window: connections.initial_stream_window,
                connection_window: connections.initial_connection_window,
                ..Limits::clone(self.dialer.limits(&self.target))
            }
        };
        permit.ends();
        let connection = Http2Connection::start(stream, &limits, Rc::new(permit));
        let now = Instant::now();
        let (used, carried) = (Cell::new(now), Cell::new(0));
        Ok(SharedConnection { connection, facts, born: now, used, carried })
    }

    /// Sends a PING on every connection.
    pub(in crate::upstream) fn ask(&self) {
        self.http2.shared.borrow().iter().for_each(|shared| shared.connection.ask());
    }

    /// Returns whether the host has shared connections, and leaves PINGs unanswered on all of them.
    pub(in crate::upstream) fn is_quiet(&self) -> bool {
        let shared = self.http2.shared.borrow();
        !shared.is_empty() && shared.iter().all(|shared| shared.connection.is_quiet())
    }

    /// Closes connections that were idle for too long or that the host has closed.
    pub(super) fn tidy_http2(&self, now: Instant) {
        let settings = self.settings.borrow();
        let longest = settings.connections.idle_timeout.map_or(IDLE, |idle| idle.min(IDLE));
        self.http2.shared.borrow_mut().retain(|shared| {
            if shared.connection.streams() > 0 {
                shared.used.set(now);
            }
            !shared.is_done(&settings) && now.duration_since(shared.used.get()) < longest
        });
    }

    /// Closes the connection that has been idle for longest. Returns false if there is none. Its permit is returned slightly
    /// later, after GOAWAY.
    pub(super) fn close_an_idle_http2(&self) -> bool {
        let mut shared = self.http2.shared.borrow_mut();
        let idle = shared.iter().enumerate().filter(|(_, shared)| shared.is_idle());
        let Some((at, _)) = idle.min_by_key(|(_, shared)| shared.used.get()) else { return false };
        let closed = shared.remove(at);
        drop(shared);
        drop(closed);
        true
    }

    pub(super) fn let_shared_ones_go(&self) {
        self.http2.shared.take();
    }
}
