//! Reads requests from streams: the head in the form of the pipeline, and the body.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::ext::Protocol;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Version, header};
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;

use super::field_value::{OUTER_WHITESPACE, has_outer_whitespace};
use super::incoming::{ErrorMapping, Incoming};
use super::responder::ServerStream;
use super::seen::Seen;
use super::unread::{Receiving, Unconsumed, Unread};
use super::{failure, websocket};
use crate::codec::body::{Body, Frame, Source};
use crate::codec::head::{RequestHead, Scheme, expects_continue};
use crate::codec::limits::{FieldSize, Limits, METHOD_BYTES};
use crate::codec::{authority, hop, path};

/// A request in the pipeline's form.
pub(super) struct IncomingRequest {
    pub(super) head: RequestHead,
    /// The size of its fields.
    pub(super) size: FieldSize,
    /// The receiving half of its stream.
    pub(super) incoming: RecvStream,
    /// Whether the client waits for a 100 before it sends the body (RFC 9110 section 10.1.1).
    pub(super) wants_continue: bool,
}

/// Converts a request. Returns an error if it is malformed or too large. h2 has already checked pseudo-fields, connection
/// fields, characters and lengths.
pub(super) fn accept(
    request: Request<RecvStream>,
    scheme: Scheme,
    limits: &Limits,
) -> Result<IncomingRequest, (Failure, RecvStream)> {
    let (mut parts, incoming) = request.into_parts();
    let protocol = parts.extensions.remove::<Protocol>();
    let rule = |rule: &str| Failure::downstream(Reason::DownstreamProtocolError, rule);
    let uri = parts.uri.into_parts();
    // `host` next to `:authority` is redundant and is not passed on, so it is counted twice at most.
    let size = FieldSize::of(&parts.headers).with_host(uri.authority.as_ref());
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let read = || {
        if !limits.allow(size) {
            return Err(Failure::downstream(Reason::HeadersTooLarge, "the head is too large"));
        }
        if uri.path_and_query.as_ref().is_some_and(|path| path.as_str().len() > limits.target_bytes) {
            return Err(Failure::downstream(Reason::UriTooLong, "the path is too long"));
        }
        if has_outer_whitespace(&parts.headers) {
            return Err(rule(OUTER_WHITESPACE));
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
                let authority = authority::normal(authority).map_err(rule)?;
                if host.is_some_and(|host| !authority::agree(&authority, &host, scheme)) {
                    return Err(rule(":authority and host name different hosts"));
                }
                authority
            }
            (None, Some(host)) => host,
            (None, None) => return Err(rule("neither :authority nor host")),
        };
        let (method, upgrade) = match &protocol {
            // A WebSocket (RFC 8441 section 5), which in the pipeline is a GET with an upgrade.
            Some(protocol) if protocol.as_str().eq_ignore_ascii_case(websocket::NAME) => {
                (Method::GET, Some(HeaderValue::from_static(websocket::NAME)))
            }
            Some(_) => return Err(Failure::downstream(Reason::UpgradeRefused, "an unknown :protocol")),
            None => (parts.method.clone(), None),
        };
        if method.as_str().len() > METHOD_BYTES {
            return Err(rule("the method is too long"));
        }
        if method == Method::CONNECT && authority.port_u16().is_none() {
            return Err(rule("CONNECT without a port"));
        }
        let path = match uri.path_and_query {
            Some(path) if method != Method::CONNECT => path::normal(&method, path).map_err(rule)?,
            _ => PathAndQuery::from_static("/"),
        };
        Ok((method, upgrade, scheme, authority, path))
    };
    let (method, upgrade, scheme, authority, path) = match read() {
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
    if upgrade.is_some() {
        websocket::asked(&mut parts.headers);
    }
    let wants_continue = !incoming.is_end_stream() && expects_continue(&parts.headers);
    let head = RequestHead {
        method,
        scheme,
        authority: Some(authority),
        path,
        version: Version::HTTP_2,
        headers: parts.headers,
        upgrade,
    };
    Ok(IncomingRequest { head, size, incoming, wants_continue })
}

/// Joins `cookie` fields: HTTP/2 may split `cookie`; in other versions it is one field (RFC 9113 section 8.2.3).
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

impl ServerStream {
    /// Returns the body of the request with that head.
    pub(super) fn body(
        self: &Rc<Self>,
        head: &RequestHead,
        incoming: RecvStream,
        limits: &Rc<Limits>,
        (seen, unread): (&Rc<Seen>, &Unread),
    ) -> Body {
        if incoming.is_end_stream() {
            return Body::empty();
        }
        let length =
            head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let incoming = RefCell::new(Incoming::new(incoming, limits, seen, FROM_CLIENT));
        let source = Rc::new(RequestBody { incoming, exchange: Rc::clone(self) });
        let watched: Weak<RequestBody> = Rc::downgrade(&source);
        unread.watch(watched);
        Body::streamed(source, 0, length)
    }
}

const FROM_CLIENT: ErrorMapping = ErrorMapping {
    error: failure::downstream,
    broken: |rule| Failure::downstream(Reason::DownstreamProtocolError, rule),
    too_large: |what| Failure::downstream(Reason::HeadersTooLarge, what),
};

struct RequestBody {
    incoming: RefCell<Incoming>,
    exchange: Rc<ServerStream>,
}

impl Receiving for RequestBody {
    fn unconsumed(&self) -> Unconsumed {
        self.incoming.borrow_mut().unconsumed()
    }

    fn give_up(&self) {
        self.incoming.borrow_mut().give_up();
    }
}

impl Source for RequestBody {
    fn poll_frame(&self, _turn: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        self.exchange.body_is_read();
        self.incoming.borrow_mut().poll_frame(cx)
    }
}
