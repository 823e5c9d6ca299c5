//! The server side: many requests on one connection, all handled within the task of the connection.
//!
//! [`serve`] owns the handlers: they are dropped when the connection ends, and a handler is dropped when the client resets its
//! stream.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::Method;
use outrigger_core::drain::DrainGuard;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use tokio::time::Instant;

use super::connection::{Config, Connection, End, Incoming, Refusal, StreamError, StreamKey};
use super::driver::Driver;
use super::failure;
use super::frame::Code;
use super::handle::Handle;
use super::handlers::Handlers;
use super::head_memory::HeadMemory;
use super::hpack::Section;
use super::promised::Promised;
use super::request::{self, IncomingRequest, accept};
use super::responder::{Responder, ServerStream, refuse};
use crate::codec::body::Body;
use crate::codec::head::{RequestHead, Scheme};
use crate::codec::limits::Limits;
use crate::codec::watchdog::Watchdog;
use crate::socket::stream::Stream;

/// Serves `stream` until it ends or has drained.
pub(crate) async fn serve<C, F, R>(
    stream: Stream,
    first: Bytes,
    limits: Rc<Limits>,
    drain: DrainGuard,
    call: C,
    refused: R,
) -> Result<(), Failure>
where
    C: Fn(RequestHead, Body, Responder) -> F,
    F: Future<Output = ()>,
    R: Fn(&Failure),
{
    let scheme = if stream.is_encrypted() { Scheme::Https } else { Scheme::Http };
    let window = Promised::new(limits.connection_window);
    let connection = Connection::server(Config::new(&limits, window.bytes()), Instant::now());
    let connection = Rc::new(RefCell::new(connection));
    let mut driver = Driver::new(Rc::clone(&connection), stream, first);
    let mut server = Server {
        connection: Rc::clone(&connection),
        scheme,
        limits: Rc::clone(&limits),
        heads: HeadMemory::default(),
        taken: 0,
        handlers: Handlers::new(),
        call,
        refused: &refused,
    };
    let mut drain = drain;
    let mut drained = pin!(drain.started());
    let (mut draining, mut unflushed) = (false, false);
    let (mut idle, mut life, mut head) = (Watchdog::new(), Watchdog::new(), Watchdog::new());
    idle.set(limits.idle_timeout);
    if let Some(longest) = limits.longest_life {
        life.set(longest);
    }
    let late = poll_fn(|cx| {
        server.handlers.runs();
        let told = !draining
            && (drained.as_mut().poll(cx).is_ready()
                || life.poll_passed(cx).is_ready()
                || idle.poll_passed(cx).is_ready());
        if told {
            draining = true;
            connection.borrow_mut().shut_down_gracefully();
            idle.set(limits.head_timeout);
        }
        if draining && server.handlers.is_empty() && idle.poll_passed(cx).is_ready() {
            // The client does not answer the PING between the two GOAWAYs.
            return Poll::Ready(false);
        }
        if driver.poll(cx, || server.work()).is_ready() {
            if connection.borrow().end().is_none() {
                // It has drained: the last response was just written, and its handler is to return.
                server.work();
            }
            return Poll::Ready(false);
        }
        if driver.is_released() {
            server.handlers.shrink();
        }
        if !draining && server.has_taken_all() {
            draining = true;
            idle.set(limits.head_timeout);
        }
        let owed_since = connection.borrow().owed_since();
        if let Some(since) = owed_since {
            head.set((since + limits.head_timeout).saturating_duration_since(Instant::now()));
            if head.poll_passed(cx).is_ready() {
                connection.borrow_mut().shut_down(Code::ENHANCE_YOUR_CALM);
                // Written as far as the client accepts it, without waiting.
                let _ = driver.poll(cx, || {});
                return Poll::Ready(true);
            }
        }
        let is_flushed = connection.borrow().is_flushed();
        if !is_flushed {
            // A client that reads the end of the last response slowly is not cut off.
            idle.set(limits.write_timeout);
        } else if !server.handlers.is_empty() || unflushed {
            idle.set(if draining { limits.head_timeout } else { limits.idle_timeout });
        }
        unflushed = !is_flushed;
        server.handlers.wait(cx);
        Poll::Pending
    })
    .await;
    if late {
        let failure = Failure::downstream(Reason::DownstreamTimeout, "the head came too slowly");
        refused(&failure);
        return Err(failure);
    }
    let end = connection.borrow().end().cloned();
    match end {
        Some(end @ (End::Violation { .. } | End::GoAway(_))) => {
            Err(failure::downstream(&StreamError::Connection(end)))
        }
        // A connection that disappears between requests is no failure.
        Some(end @ End::Io(_)) if !server.handlers.is_empty() => {
            Err(failure::downstream(&StreamError::Connection(end)))
        }
        _ => Ok(()),
    }
}

/// The requests of a connection.
struct Server<'a, C, F, R> {
    connection: Rc<RefCell<Connection>>,
    scheme: Scheme,
    limits: Rc<Limits>,
    heads: HeadMemory,
    /// The number of requests so far.
    taken: u32,
    handlers: Handlers<F>,
    /// Handles one request.
    call: C,
    /// Records a request that was refused.
    refused: &'a R,
}

impl<C, F, R> Server<'_, C, F, R>
where
    C: Fn(RequestHead, Body, Responder) -> F,
    F: Future<Output = ()>,
    R: Fn(&Failure),
{
    /// Accepts all requests, and runs the handlers that were woken.
    fn work(&mut self) {
        loop {
            let mut worked = false;
            loop {
                let incoming = self.connection.borrow_mut().accept();
                let Some(incoming) = incoming else { break };
                worked = true;
                match incoming {
                    Incoming::Request { key, section, ended } => self.accept(key, section, ended),
                    Incoming::Refused(refusal) => (self.refused)(&refusal_of(refusal)),
                }
            }
            worked |= self.handlers.poll();
            if !worked {
                return;
            }
        }
    }

    fn accept(&mut self, key: StreamKey, mut section: Box<Section>, ended: bool) {
        let handle = Handle::new(&self.connection, key);
        self.taken = self.taken.saturating_add(1);
        if self.has_taken_all() {
            self.connection.borrow_mut().shut_down_gracefully();
        }
        let refused = |failure: Failure| {
            (self.refused)(&failure);
            refuse(&handle, &failure);
        };
        let request = match accept(&mut section, self.scheme, &self.limits) {
            Ok(request) => request,
            Err(failure) => return refused(failure),
        };
        section.give();
        let IncomingRequest { head, size, length, expects_continue } = request;
        let sent = self.connection.borrow().head_bytes();
        let Some(held) = self.heads.hold(size, sent) else {
            return refused(Failure::downstream(
                Reason::HeadersTooLarge,
                "the heads of this connection take far more than it has sent for them",
            ));
        };
        let incoming = request::incoming(handle, &self.limits);
        let exchange = ServerStream::new(incoming, !ended && expects_continue, held);
        let tunnel = head.asks_for_tunnel();
        let body = match ended || tunnel {
            true => Body::empty(),
            false => Body::streamed(Rc::clone(&exchange) as _, 0, length),
        };
        let head_only = head.method == Method::HEAD;
        let responder = Responder::new(Rc::clone(&exchange), head_only, tunnel);
        self.handlers.push((self.call)(head, body, responder), exchange);
    }

    /// Returns whether the connection has served as many requests as it may.
    fn has_taken_all(&self) -> bool {
        self.limits.requests.is_some_and(|most| self.taken >= most)
    }
}

fn refusal_of(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Malformed(rule) => Failure::downstream(Reason::DownstreamProtocolError, rule),
        Refusal::TooManyStreams => {
            Failure::downstream(Reason::DownstreamProtocolError, "more streams at a time than allowed")
        }
        Refusal::ResetUnseen => {
            Failure::downstream(Reason::DownstreamConnectionTermination, "reset before it was looked at")
        }
    }
}
