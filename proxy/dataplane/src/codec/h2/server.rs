//! The server side: many requests on one connection, all handled within the connection's own task.
//!
//! [`serve`] owns the handlers: when the connection ends they are dropped, and when a client resets its stream the handler
//! of that stream is.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::Reason as Code;
use h2::server::SendResponse;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use outrigger_core::drain::DrainGuard;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use tokio::time::timeout;

use super::incoming::Incoming;
use super::outgoing::{Cut, Outgoing};
use super::rewound::Rewound;
use super::{FRAME_SIZE, PENDING_RESETS, SEND_BUFFER, failure};
use crate::codec::body::{Body, Frame, Source};
use crate::codec::head::{RequestHead, ResponseHead, Scheme};
use crate::codec::limits::Limits;
use crate::codec::watchdog::Watchdog;
use crate::codec::{authority, date, hop, path};
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
    let mut streams = FuturesUnordered::new();
    let ended = poll_fn(|cx| {
        if !draining && (drained.as_mut().poll(cx).is_ready() || idle.poll_passed(cx).is_ready()) {
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
                Poll::Ready(Some(Ok((request, respond)))) => match accept(request, scheme, &limits) {
                    Ok((head, incoming, wants_continue)) => {
                        let exchange = Rc::new(Exchange {
                            respond: RefCell::new(respond),
                            answered: Cell::new(false),
                            owes_continue: Cell::new(wants_continue),
                        });
                        let responder = Responder {
                            exchange: exchange.clone(),
                            limits: limits.clone(),
                            head_only: head.method == Method::HEAD,
                        };
                        let body = incoming_body(&head, incoming, &exchange, &limits);
                        streams.push(watched(call(head, body, responder), exchange));
                    }
                    Err((failure, incoming)) => {
                        refused(&failure);
                        refuse(respond, &failure);
                        drop(incoming);
                    }
                },
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
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.concurrent_streams)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_concurrent_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(Some(PENDING_RESETS * 4))
        .max_send_buffer_size(SEND_BUFFER);
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

/// A request as the pipeline sees it, or why it is none. h2 has checked pseudo-fields, connection fields and lengths.
#[allow(clippy::type_complexity, reason = "named by its one caller, in one match")]
fn accept(
    request: Request<h2::RecvStream>,
    scheme: Scheme,
    limits: &Limits,
) -> Result<(RequestHead, h2::RecvStream, bool), (Failure, h2::RecvStream)> {
    let (mut parts, incoming) = request.into_parts();
    let rule = |rule: &str| Failure::downstream(Reason::DownstreamProtocolError, rule);
    let uri = parts.uri.into_parts();
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let read = || {
        if parts.headers.len() > limits.fields {
            return Err(Failure::downstream(Reason::HeadersTooLarge, "too many fields"));
        }
        if uri.path_and_query.as_ref().is_some_and(|path| path.as_str().len() > limits.target_bytes) {
            return Err(Failure::downstream(Reason::UriTooLong, "the path is too long"));
        }
        if parts.headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
            return Err(rule("more than one content-length"));
        }
        let scheme = match uri.scheme.as_ref().map(http::uri::Scheme::as_str) {
            Some("https") => Scheme::Https,
            Some("http") => Scheme::Http,
            _ => scheme,
        };
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err(rule("more than one host"));
        }
        let host = host
            .map(|host| authority::parse(Bytes::copy_from_slice(host.as_bytes())).map_err(rule))
            .transpose()?;
        let authority = match (uri.authority, host) {
            (Some(authority), host) => {
                authority::check(&authority).map_err(rule)?;
                if host.is_some_and(|host| !authority::agree(&authority, &host, scheme)) {
                    return Err(rule(":authority and host name different hosts"));
                }
                authority
            }
            (None, Some(host)) => host,
            (None, None) => return Err(rule("neither :authority nor host")),
        };
        let path = match uri.path_and_query {
            Some(path) if parts.method != Method::CONNECT => {
                path::normal(&parts.method, path).map_err(rule)?
            }
            _ => PathAndQuery::from_static("/"),
        };
        Ok((scheme, authority, path))
    };
    let (scheme, authority, path) = match read() {
        Ok(read) => read,
        Err(failure) => return Err((failure, incoming)),
    };
    parts.headers.remove(header::HOST);
    let keeps_te = parts.headers.get(header::TE).is_some_and(hop::keep_te);
    if keeps_te {
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    } else {
        parts.headers.remove(header::TE);
    }
    join_cookies(&mut parts.headers);
    let expects_continue = !incoming.is_end_stream()
        && parts
            .headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let head = RequestHead {
        method: parts.method,
        scheme,
        authority: Some(authority),
        path,
        version: Version::HTTP_2,
        headers: parts.headers,
        upgrade: None,
    };
    Ok((head, incoming, expects_continue))
}

/// HTTP/2 may split `cookie`; elsewhere it is one field (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut http::HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(header::COOKIE, joined);
    }
}

fn incoming_body(
    head: &RequestHead,
    incoming: h2::RecvStream,
    exchange: &Rc<Exchange>,
    limits: &Limits,
) -> Body {
    if incoming.is_end_stream() {
        return Body::empty();
    }
    let length = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let incoming = Incoming::new(incoming, limits, failure::downstream);
    let source = RequestBody { incoming: RefCell::new(incoming), exchange: exchange.clone() };
    Body::streamed(Rc::new(source), 0, length)
}

/// Answers what the codec refuses.
fn refuse(mut respond: SendResponse<Bytes>, failure: &Failure) {
    let mut response = Response::new(());
    *response.status_mut() = failure.reason.status();
    response.headers_mut().insert("x-outrigger-reason", HeaderValue::from_static(failure.reason.name()));
    // Fails when the stream is gone already.
    let _ = respond.send_response(response, true);
}

/// What a stream's handler, body and responder share.
struct Exchange {
    respond: RefCell<SendResponse<Bytes>>,
    /// The answer has begun, or was refused.
    answered: Cell<bool>,
    /// The client waits for a 100 before it sends its body (RFC 9110 section 10.1.1).
    owes_continue: Cell<bool>,
}

impl Exchange {
    fn poll_given_up(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.answered.get() {
            return Poll::Pending;
        }
        let given_up = self.respond.borrow_mut().poll_reset(cx).map(drop);
        if given_up.is_ready() {
            self.answered.set(true);
        }
        given_up
    }

    /// A handler that left its request without an answer has failed.
    fn finish(&self) {
        if !self.answered.get() {
            let failure = Failure::local(Reason::LocalError, "a request was left without an answer");
            let mut response = Response::new(());
            *response.status_mut() = failure.reason.status();
            response
                .headers_mut()
                .insert("x-outrigger-reason", HeaderValue::from_static(failure.reason.name()));
            // Fails when the stream is gone already.
            let _ = self.respond.borrow_mut().send_response(response, true);
        }
    }

    fn interim(&self, head: ResponseHead) -> Result<(), Failure> {
        if head.status == StatusCode::CONTINUE {
            self.owes_continue.set(false);
        }
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        self.respond.borrow_mut().send_informational(response).map_err(|error| failure::downstream(&error))
    }
}

struct RequestBody {
    incoming: RefCell<Incoming>,
    exchange: Rc<Exchange>,
}

impl Source for RequestBody {
    fn poll_frame(&self, _turn: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        if self.exchange.owes_continue.get() && !self.exchange.answered.get() {
            // Somebody reads the body, and nobody has told the client to send it. A failure comes back with the body.
            let _ = self.exchange.interim(ResponseHead::new(StatusCode::CONTINUE));
        }
        self.incoming.borrow_mut().poll_frame(cx)
    }
}

/// Answers one request of an HTTP/2 connection.
pub(crate) struct Responder {
    exchange: Rc<Exchange>,
    limits: Rc<Limits>,
    head_only: bool,
}

impl Responder {
    pub(crate) fn interim(&mut self, head: ResponseHead) -> Result<(), Failure> {
        self.exchange.interim(head)
    }

    pub(crate) async fn respond(self, head: ResponseHead, body: Body) -> (u64, Result<(), Failure>) {
        let bodiless = self.head_only
            || head.status == StatusCode::NO_CONTENT
            || head.status == StatusCode::NOT_MODIFIED;
        let length = body.length();
        let body = if bodiless { Body::empty() } else { body };
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        let headers = response.headers_mut();
        hop::strip(headers);
        if head.status == StatusCode::NO_CONTENT {
            headers.remove(header::CONTENT_LENGTH);
        } else if !bodiless || !headers.contains_key(header::CONTENT_LENGTH) {
            // h2 holds us to what is said here, so the body's own length is. Of nothing, END_STREAM says enough.
            match length {
                Some(0) if bodiless || !headers.contains_key(header::CONTENT_LENGTH) => {}
                Some(length) => drop(headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length))),
                None => drop(headers.remove(header::CONTENT_LENGTH)),
            }
        }
        if !headers.contains_key(header::DATE) {
            headers.insert(header::DATE, date::now());
        }
        self.exchange.answered.set(true);
        let begun = self.exchange.respond.borrow_mut().send_response(response, body.is_ended());
        let stream = match begun {
            Ok(stream) => stream,
            Err(error) => return (0, Err(failure::downstream(&error))),
        };
        if body.is_ended() {
            return (0, Ok(()));
        }
        let mut outgoing = Outgoing::new(stream, body);
        let (mut patience, mut stalled) = (Watchdog::new(), None);
        let sent = poll_fn(|cx| {
            if let Poll::Ready(sent) = outgoing.poll(cx) {
                return Poll::Ready(Some(sent));
            }
            // A client may consume slowly, but something has to move.
            let at = outgoing.is_blocked().then_some(outgoing.bytes);
            if stalled != at {
                stalled = at;
                patience.set(self.limits.idle_timeout);
            }
            if at.is_some() { patience.poll_passed(cx).map(|()| None) } else { Poll::Pending }
        })
        .await;
        let Some(sent) = sent else {
            outgoing.cancel();
            let failure =
                Failure::downstream(Reason::DownstreamConnectionTermination, "the client reads nothing");
            return (outgoing.bytes, Err(failure));
        };
        let outcome = match sent {
            Ok(()) => Ok(()),
            Err(Cut::Body(failure)) => Err(Failure { reached: Reached::ResponseStarted, ..failure }),
            Err(Cut::Stream(error)) => Err(failure::downstream(&error)),
        };
        (outgoing.bytes, outcome)
    }

    pub(crate) fn refuse(self) {
        self.exchange.answered.set(true);
        self.exchange.respond.borrow_mut().send_reset(Code::REFUSED_STREAM);
    }
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder").field("head_only", &self.head_only).finish_non_exhaustive()
    }
}
