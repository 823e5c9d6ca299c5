//! Reads requests from streams: the head in the form of the pipeline, and the body.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Version, header};
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;

use super::handle::Handle;
use super::hpack::Section;
use super::incoming::Incoming;
use super::responder::ServerStream;
use super::{failure, websocket};
use crate::codec::authority;
use crate::codec::body::{Frame, Source};
use crate::codec::head::{RequestHead, Scheme};
use crate::codec::limits::{FieldSize, Limits, METHOD_BYTES};

/// A request in the pipeline's form.
pub(super) struct IncomingRequest {
    pub(super) head: RequestHead,
    /// The size of its fields.
    pub(super) size: FieldSize,
    /// The length of its body, if it was announced.
    pub(super) length: Option<u64>,
    /// Whether the client waits for a 100 before it sends the body (RFC 9110 section 10.1.1).
    pub(super) expects_continue: bool,
}

/// Takes the head of a request, which is not malformed by itself, out of `section`. Returns an error if it is too large or a rule of the proxy refuses
/// it. `scheme` is that of the connection.
pub(super) fn accept(
    section: &mut Section,
    scheme: Scheme,
    limits: &Limits,
) -> Result<IncomingRequest, Failure> {
    let rule = |rule: &str| Failure::downstream(Reason::DownstreamProtocolError, rule);
    // `host` next to `:authority` is redundant and is not passed on, so it is counted twice at most.
    let size = section.size;
    if section.too_large || !limits.allow(size) {
        return Err(Failure::downstream(Reason::HeadersTooLarge, "the head is too large"));
    }
    if section.path.as_ref().is_some_and(|path| path.as_str().len() > limits.target_bytes) {
        return Err(Failure::downstream(Reason::UriTooLong, "the path is too long"));
    }
    if let Some(refused) = section.refused {
        return Err(rule(refused));
    }
    let scheme = section.scheme.flatten().unwrap_or(scheme);
    let host = match section.host.take() {
        Some(host) => Some(authority::parse(Bytes::copy_from_slice(host.as_bytes())).map_err(rule)?),
        None => None,
    };
    let authority = match (section.authority.take(), host) {
        (Some(authority), Some(host)) if !authority::agree(&authority, &host, scheme) => {
            return Err(rule(":authority and host name different hosts"));
        }
        (Some(authority), _) | (None, Some(authority)) => authority,
        (None, None) => return Err(rule("neither :authority nor host")),
    };
    let (method, upgrade) = match section.protocol.take() {
        None => (section.method.take().unwrap_or_default(), None),
        // A WebSocket (RFC 8441 section 5), which in the pipeline is a GET with an upgrade.
        Some(protocol) if protocol.as_bytes().eq_ignore_ascii_case(websocket::NAME.as_bytes()) => {
            (Method::GET, Some(HeaderValue::from_static(websocket::NAME)))
        }
        Some(_) => return Err(Failure::downstream(Reason::UpgradeRefused, "an unknown :protocol")),
    };
    if method.as_str().len() > METHOD_BYTES {
        return Err(rule("the method is too long"));
    }
    if method == Method::CONNECT && authority.port_u16().is_none() {
        return Err(rule("CONNECT without a port"));
    }
    let path = section.path.take().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if path.as_str() == "*" && method != Method::OPTIONS {
        return Err(rule("the target * is of OPTIONS alone"));
    }
    let mut headers = std::mem::take(&mut section.fields);
    if section.cookies > 1 {
        join_cookies(&mut headers);
    }
    if upgrade.is_some() {
        websocket::asked(&mut headers);
    }
    let head = RequestHead {
        method,
        scheme,
        authority: Some(authority),
        path,
        version: Version::HTTP_2,
        headers,
        upgrade,
    };
    let (length, expects_continue) = (section.content_length, section.expects_continue);
    Ok(IncomingRequest { head, size, length, expects_continue })
}

/// Joins `cookie` fields: HTTP/2 may split `cookie`; in other versions it is one field (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    let (mut joined, mut sensitive) = (first.as_bytes().to_vec(), first.is_sensitive());
    for crumb in crumbs {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
        sensitive |= crumb.is_sensitive();
    }
    if let Ok(mut joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        joined.set_sensitive(sensitive);
        headers.insert(header::COOKIE, joined);
    }
}

/// Receives the body of a request on `handle`.
pub(super) fn incoming(handle: Handle, limits: &Rc<Limits>) -> Incoming {
    Incoming::new(handle, Rc::clone(limits), |error, _| failure::downstream(error))
}

impl Source for ServerStream {
    fn poll_frame(&self, _turn: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Failure>>> {
        self.body_is_read();
        self.incoming.poll_frame(cx)
    }
}
