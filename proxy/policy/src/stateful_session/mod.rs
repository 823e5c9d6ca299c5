//! Session persistence: a client that repeats what an earlier response gave it stays with the endpoint that answered
//! (`envoy.extensions.filters.http.stateful_session.v3.StatefulSession`).
//!
//! The data path asks for the [`Session`] of a request, prefers its endpoint when it picks one, and passes the endpoint that answered back. The
//! filter itself admits every request. What a client sends is never trusted: an endpoint is preferred only if the cluster has it.

mod token;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::header::SET_COOKIE;
use http::{HeaderName, HeaderValue};
use outrigger_proto::xds::stateful_session::stateful_session_per_route::Override;
use outrigger_proto::xds::{cookie_session, core, header_session, http_types, stateful_session, type_url};

use crate::cookie::Cookie;
use crate::field::{Unusable, duration, non_empty, required, unpack};
use crate::header_match::Head;
use crate::header_mutation::{HeaderMutation, mutable_name};
use crate::verdict::ResponseChanges;
use token::Token;

/// How sessions are kept.
#[derive(Debug, Clone)]
pub struct StatefulSession {
    state: State,
    strict: bool,
}

/// Where the endpoint of a session is kept.
#[derive(Debug, Clone)]
enum State {
    Cookie {
        cookie: Cookie,
        /// The path that requests must have. Empty is any.
        path: Box<str>,
        /// How long a session lasts. Zero is as long as that of the client.
        ttl: Duration,
    },
    Header(HeaderName),
}

/// The session of one request. It may be a new one.
#[derive(Debug, Clone)]
pub struct Session<'a> {
    of: &'a StatefulSession,
    token: Option<Token>,
}

/// The endpoint that a request should go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    /// The address of the endpoint.
    pub address: SocketAddr,
    /// Whether the request fails rather than go to another one.
    pub strict: bool,
}

impl StatefulSession {
    /// Decodes the filter of a listener. Returns `None` without a `session_state`: then only routes have sessions.
    pub fn decode(wire: stateful_session::StatefulSession) -> Result<Option<Self>, Unusable> {
        let stateful_session::StatefulSession {
            session_state,
            strict,
            stat_prefix: _, // for statistics that do not exist here
            status_on_strict_destination_not_found: status,
        } = wire;
        if strict && !matches!(status, 0 | 503) {
            let why = "only 503 is supported";
            return Err(Unusable::new("status_on_strict_destination_not_found", why));
        }
        let Some(core::TypedExtensionConfig { name: _, typed_config }) = session_state else {
            return Ok(None);
        };
        let state = required("typed_config", typed_config).and_then(|any| match any.type_url.as_str() {
            type_url::COOKIE_SESSION => {
                let wire = unpack(&any, type_url::COOKIE_SESSION);
                wire.and_then(State::cookie).map_err(|bad| bad.within("typed_config"))
            }
            type_url::HEADER_SESSION => {
                let wire = unpack(&any, type_url::HEADER_SESSION);
                wire.and_then(State::header).map_err(|bad| bad.within("typed_config"))
            }
            other => Err(Unusable::new("typed_config", format_args!("{other} is not supported"))),
        });
        Ok(Some(Self { state: state.map_err(|bad| bad.within("session_state"))?, strict }))
    }

    /// Decodes the configuration of a route. Returns `None` if it has no sessions.
    pub fn decode_for_route(
        wire: stateful_session::StatefulSessionPerRoute,
    ) -> Result<Option<Self>, Unusable> {
        let stateful_session::StatefulSessionPerRoute { r#override } = wire;
        match required("override", r#override)? {
            Override::Disabled(true) => Ok(None),
            Override::Disabled(false) => Err(Unusable::new("disabled", "must be true")),
            Override::StatefulSession(wire) => {
                Self::decode(wire).map_err(|bad| bad.within("stateful_session"))
            }
        }
    }

    /// Returns the session of a request, as it came from the client. Returns `None` if the path of the cookie does not match: then the request has
    /// none and begins none.
    pub fn of_request(&self, head: &Head<'_>, now: SystemTime) -> Option<Session<'_>> {
        let token = match &self.state {
            State::Cookie { path, .. } if !matches_path(path, head.path) => return None,
            State::Cookie { cookie, .. } => {
                cookie.value(head).and_then(Token::of_cookie).filter(|token| !token.is_over(now))
            }
            State::Header(name) => {
                head.headers.get(name).and_then(|value| Token::of_header(value.as_bytes()))
            }
        };
        Some(Session { of: self, token })
    }
}

impl State {
    fn cookie(wire: cookie_session::CookieBasedSessionState) -> Result<Self, Unusable> {
        let cookie_session::CookieBasedSessionState { cookie } = wire;
        let http_types::Cookie { name, ttl, path, attributes } = required("cookie", cookie)?;
        let of = || {
            let ttl = duration("ttl", ttl)?;
            let attributes = attributes.into_iter().map(|wire| {
                let http_types::CookieAttribute { name, value } = wire;
                (name, value)
            });
            let cookie = Cookie::new(name, ttl, &path, attributes)?;
            // As in Envoy, parts of a second do not count.
            let ttl = Duration::from_secs(ttl.unwrap_or_default().as_secs());
            Ok(Self::Cookie { cookie, path: path.into(), ttl })
        };
        of().map_err(|bad: Unusable| bad.within("cookie"))
    }

    fn header(wire: header_session::HeaderBasedSessionState) -> Result<Self, Unusable> {
        let header_session::HeaderBasedSessionState { name } = wire;
        mutable_name("name", &non_empty("name", name)?).map(Self::Header)
    }
}

impl Session<'_> {
    /// Returns the endpoint that it is bound to. `None` for a new session.
    pub fn pinned(&self) -> Option<Pinned> {
        self.token.as_ref().map(|token| Pinned { address: token.address, strict: self.of.strict })
    }

    /// Returns whether it is bound to this cluster, or `None` if that is not known: a token that Envoy made, or that of a header, names only the
    /// endpoint.
    pub fn is_of(&self, cluster: &str) -> Option<bool> {
        self.token.as_ref()?.cluster.map(|of| of == token::cluster_id(cluster))
    }

    /// Adds what binds the session to the endpoint of `cluster` that answered, unless the client has it already.
    pub fn answered_by(
        &self,
        address: SocketAddr,
        cluster: &str,
        now: SystemTime,
        changes: &mut ResponseChanges,
    ) {
        if self.token.as_ref().is_some_and(|token| token.address == address) {
            return;
        }
        let mut fields = HeaderMutation::default();
        match &self.of.state {
            State::Cookie { cookie, ttl, .. } => {
                let cluster = Some(token::cluster_id(cluster));
                let expires = Some(*ttl).filter(|ttl| !ttl.is_zero()).and_then(|ttl| now.checked_add(ttl));
                let token = Token { address, cluster, expires: expires.map(token::since_1970) };
                cookie.set(&token.for_cookie()).into_iter().for_each(|line| fields.append(SET_COOKIE, line));
            }
            State::Header(name) => {
                if let Ok(value) = HeaderValue::try_from(token::for_header(address)) {
                    fields.set(name.clone(), value);
                }
            }
        }
        changes.mutate(fields);
    }
}

/// Returns whether the path of a request is that of a cookie or below it (RFC 6265 section 5.1.4).
fn matches_path(cookie: &str, request: &str) -> bool {
    let Some(rest) = request.strip_prefix(cookie) else { return false };
    cookie.is_empty()
        || cookie.ends_with('/')
        || matches!(rest.bytes().next(), None | Some(b'/' | b'?' | b'#'))
}
