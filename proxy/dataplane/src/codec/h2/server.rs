//! The server side: many requests on one connection, all handled within the task of the connection.
//!
//! [`serve`] owns the handlers: they are dropped when the connection ends, and a handler is dropped when the client resets its
//! stream.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::Poll;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::{Ping, Reason as Code};
use http::Method;
use outrigger_core::drain::DrainGuard;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use tokio::time::{Instant, timeout};

use super::cause::Because;
use super::head_memory::HeadMemory;
use super::promised::Promised;
use super::request::{IncomingRequest, accept};
use super::responder::{Responder, ServerStream, refuse};
use super::seen::Seen;
use super::unread::{Receiver, Unread};
use super::wire::Wire;
use super::{FRAME_SIZE, SEND_BUFFER, SMALL_FRAMES, failure};
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
    let unread = Unread::new(window.bytes(), limits.stream_window);
    let seen = Rc::new(Seen::of_client(&limits));
    let wire = Wire::from_client(first, stream, Rc::clone(&seen));
    let handshake = builder(&limits, &window).handshake::<_, Bytes>(wire);
    let mut connection = timeout(limits.head_timeout, handshake)
        .await
        .map_err(|_| Failure::downstream(Reason::DownstreamTimeout, "the HTTP/2 preface came too slowly"))?
        .map_err(|error| failure::downstream(&error))?;
    let mut pings = connection.ping_pong();
    let mut drain = drain;
    let mut drained = pin!(drain.started());
    let mut draining = false;
    let mut idle = Watchdog::new();
    idle.set(limits.idle_timeout);
    let mut life = Watchdog::new();
    if let Some(longest) = limits.longest_life {
        life.set(longest);
    }
    let (mut head, mut late) = (Watchdog::new(), false);
    let mut taken = 0_u32;
    let heads = HeadMemory::default();
    let mut unseen = Unseen::new(limits.resets.unseen);
    let mut flooded = false;
    let mut streams = FuturesUnordered::new();
    let mut freeing = pin!(unread.free_window(&seen));
    let ended = poll_fn(|cx| {
        // Runs as long as the connection.
        let _ = freeing.as_mut().poll(cx);
        if let Some(window) = unread.changed_window() {
            connection.set_target_window_size(window);
        }
        let told = !draining
            && (drained.as_mut().poll(cx).is_ready()
                || life.poll_passed(cx).is_ready()
                || idle.poll_passed(cx).is_ready());
        if told {
            draining = true;
            connection.graceful_shutdown();
            idle.set(limits.head_timeout);
        }
        if draining && streams.is_empty() && idle.poll_passed(cx).is_ready() {
            // The client does not answer the PING between the two GOAWAYs.
            return Poll::Ready(Ok(()));
        }
        // Handlers write into the connection, which then writes to the socket: it is polled after them, and again after each
        // request that it yields.
        loop {
            let mut worked = false;
            while let Poll::Ready(Some(())) = streams.poll_next_unpin(cx) {
                worked = true;
            }
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    if seen.handed_up(respond.stream_id().as_u32()) {
                        // No handler is started for it.
                        refused(&Failure::downstream(
                            Reason::DownstreamConnectionTermination,
                            "reset before it was looked at",
                        ));
                        if !unseen.one_more() {
                            connection.abrupt_shutdown(Code::ENHANCE_YOUR_CALM);
                            flooded = true;
                        }
                        continue;
                    }
                    taken = taken.saturating_add(1);
                    if !draining && limits.requests.is_some_and(|most| taken >= most) {
                        draining = true;
                        connection.graceful_shutdown();
                    }
                    match accept(request, scheme, &limits) {
                        Ok(IncomingRequest { head, size, incoming, wants_continue }) => {
                            let Some(held) = heads.hold(size, seen.head_bytes()) else {
                                let failure = Failure::downstream(
                                    Reason::HeadersTooLarge,
                                    "the heads of this connection take far more than it has sent for them",
                                );
                                refused(&failure);
                                refuse(respond, &failure);
                                continue;
                            };
                            let exchange = ServerStream::new(respond, wants_continue, held, &seen);
                            let (body, tunnel) = if head.asks_for_tunnel() {
                                let receiver = Rc::new(RefCell::new(Receiver::new(incoming)));
                                let watched: Weak<RefCell<Receiver>> = Rc::downgrade(&receiver);
                                unread.watch(watched);
                                (Body::empty(), Some(receiver))
                            } else {
                                (exchange.body(&head, incoming, &limits, (&seen, &unread)), None)
                            };
                            let head_only = head.method == Method::HEAD;
                            let responder =
                                Responder::new(Rc::clone(&exchange), Rc::clone(&limits), head_only, tunnel);
                            streams.push(watched(call(head, body, responder), exchange));
                        }
                        Err((failure, incoming)) => {
                            refused(&failure);
                            refuse(respond, &failure);
                            drop(incoming);
                        }
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    seen.written.polled();
                    let more = seen.all_handed_up();
                    seen.refusals().iter().for_each(&refused);
                    if !worked && !more {
                        break;
                    }
                }
            }
        }
        if seen.has_half_closed()
            && let Some(pings) = &mut pings
        {
            // A client that has closed both sides answers any packet with a reset, which tells the kernel that it is gone; a
            // client that still reads cannot answer. Fails if the connection has ended.
            let _ = pings.send_ping(Ping::opaque());
        }
        if let Some(since) = seen.owed_since() {
            head.set((since + limits.head_timeout).saturating_duration_since(Instant::now()));
            if head.poll_passed(cx).is_ready() {
                late = true;
                connection.abrupt_shutdown(Code::ENHANCE_YOUR_CALM);
                // Written as far as the client accepts it, without waiting.
                let _ = connection.poll_accept(cx);
                return Poll::Ready(Ok(()));
            }
        }
        if !streams.is_empty() {
            idle.set(if draining { limits.head_timeout } else { limits.idle_timeout });
        }
        Poll::Pending
    })
    .await;
    if late {
        let failure = Failure::downstream(Reason::DownstreamTimeout, "the head came too slowly");
        refused(&failure);
        return Err(failure);
    }
    match ended {
        _ if flooded => Err(Failure::downstream(
            Reason::DownstreamProtocolError,
            "too many resets of what was just begun",
        )),
        // A connection that disappears between requests is no failure.
        Err(error) if error.is_io() && streams.is_empty() => Ok(()),
        Err(error) => Err(failure::downstream(&error)),
        Ok(()) => Ok(()),
    }
}

fn builder(limits: &Limits, window: &Promised) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(window.bytes())
        .data_frame_budget(SMALL_FRAMES)
        .max_frame_size(FRAME_SIZE)
        .max_header_list_size(limits.http2_list_bytes())
        .max_concurrent_streams(limits.concurrent_streams)
        // Heads are inspected before many more are read (`seen`), so they do not accumulate; [`Unseen`] sets the limit.
        .max_pending_accept_reset_streams(usize::MAX)
        .max_concurrent_reset_streams(limits.resets.remembered)
        .max_local_error_reset_streams(limits.resets.errors)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_connect_protocol();
    builder
}

/// Limits streams that were reset before they were accepted.
struct Unseen {
    burst: Option<u32>,
    left: f64,
    last: Instant,
}

impl Unseen {
    fn new(burst: Option<u32>) -> Self {
        Self { burst, left: burst.map_or(0.0, f64::from), last: Instant::now() }
    }

    /// Counts one more and returns whether it is within the limit.
    fn one_more(&mut self) -> bool {
        let Some(burst) = self.burst.map(f64::from) else { return true };
        let now = Instant::now();
        let back = now.duration_since(self.last).as_secs_f64() * burst / 10.0;
        self.last = now;
        self.left = (self.left + back).min(burst) - 1.0;
        self.left >= 0.0
    }
}

/// Runs a handler, and drops it if the client resets its stream before the response has begun.
async fn watched(handling: impl Future<Output = ()>, exchange: Rc<ServerStream>) {
    let because = {
        let mut handling = pin!(handling);
        let reset = poll_fn(|cx| {
            if handling.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            exchange.poll_given_up(cx).map(Some)
        });
        reset.await.map(Because::of_reset)
        // The handler is dropped here.
    };
    drop(because);
    exchange.finish();
}
