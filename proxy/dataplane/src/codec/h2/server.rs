//! The server side: many requests on one connection, all handled within the connection's own task.
//!
//! [`serve`] owns the handlers: when the connection ends they are dropped, and when a client resets its stream the handler
//! of that stream is.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::Method;
use outrigger_core::drain::DrainGuard;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use tokio::time::timeout;

use super::request::{Asked, accept};
use super::responder::{Exchange, Responder, refuse};
use super::rewound::Rewound;
use super::{FRAME_SIZE, PENDING_RESETS, SEND_BUFFER, failure};
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
    let handshake = builder(&limits).handshake::<_, Bytes>(Rewound { first, stream });
    let mut connection = timeout(limits.head_timeout, handshake)
        .await
        .map_err(|_| Failure::downstream(Reason::DownstreamTimeout, "the HTTP/2 preface came too slowly"))?
        .map_err(|error| failure::downstream(&error))?;
    let mut drain = drain;
    let mut drained = pin!(drain.started());
    let mut draining = false;
    let mut idle = Watchdog::new();
    idle.set(limits.idle_timeout);
    let mut life = Watchdog::new();
    if let Some(longest) = limits.longest_life {
        life.set(longest);
    }
    let mut taken = 0_u32;
    let mut streams = FuturesUnordered::new();
    let ended = poll_fn(|cx| {
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
        // Handlers write into the connection, which then writes to the socket: it is polled after them, and again after
        // each request that it brings.
        loop {
            let mut worked = false;
            while let Poll::Ready(Some(())) = streams.poll_next_unpin(cx) {
                worked = true;
            }
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    taken = taken.saturating_add(1);
                    if !draining && limits.requests.is_some_and(|most| taken >= most) {
                        draining = true;
                        connection.graceful_shutdown();
                    }
                    match accept(request, scheme, &limits) {
                        Ok(Asked { head, incoming, wants_continue }) => {
                            let exchange = Exchange::new(respond, wants_continue);
                            let (body, tunnel) = if head.asks_for_tunnel() {
                                (Body::empty(), Some(incoming))
                            } else {
                                (exchange.body(&head, incoming, &limits), None)
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
                Poll::Pending if worked => {}
                Poll::Pending => break,
            }
        }
        if !streams.is_empty() {
            idle.set(if draining { limits.head_timeout } else { limits.idle_timeout });
        }
        Poll::Pending
    })
    .await;
    match ended {
        // A connection that just vanishes between requests is no failure.
        Err(error) if error.is_io() && streams.is_empty() => Ok(()),
        Err(error) => Err(failure::downstream(&error)),
        Ok(()) => Ok(()),
    }
}

fn builder(limits: &Limits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(FRAME_SIZE)
        .max_header_list_size(limits.http2_list_bytes())
        .max_concurrent_streams(limits.concurrent_streams)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_concurrent_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(PENDING_RESETS * 4))
        .max_send_buffer_size(SEND_BUFFER)
        .enable_connect_protocol();
    builder
}

/// Runs a handler, and drops it when the client resets its stream before the answer has begun.
async fn watched(handling: impl Future<Output = ()>, exchange: Rc<Exchange>) {
    let mut handling = pin!(handling);
    poll_fn(|cx| {
        if handling.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        exchange.poll_given_up(cx)
    })
    .await;
    exchange.finish();
}
