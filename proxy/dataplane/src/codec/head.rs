//! Message heads, as the pipeline sees them: parsed, checked, and the same for every HTTP version.
//!
//! They contain no framing and no hop-by-hop fields: the codec removes them and writes its own. Field names are lower-case, as
//! HTTP/2 requires and HTTP/1 permits (RFC 9110 section 5.1); the order of values of a name is kept.

use http::header::{EXPECT, TE};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use outrigger_policy::header_match::Head;

use super::maps;

/// The head of a request.
#[derive(Debug, Clone)]
pub(crate) struct RequestHead {
    /// The method.
    pub method: Method,
    /// The scheme of the request.
    pub scheme: Scheme,
    /// Host and port, from the absolute form, `:authority` or `Host`, which were checked to agree. `None` only in HTTP/1.0.
    /// `Host` is not among the fields; the codec writes it.
    pub authority: Option<Authority>,
    /// The path in its normal form (`codec::path`) and the query as sent; `*` for `OPTIONS *`; `/` for CONNECT, which has none.
    pub path: PathAndQuery,
    /// The version in which it was received. The upstream connection has its own.
    pub version: Version,
    /// End-to-end fields. `te` is here only as `trailers`; `content-length` is here as sent, already checked.
    pub headers: HeaderMap,
    /// The protocols of `Connection: upgrade` and `Upgrade`. If it is set, HTTP/1 writes both.
    pub upgrade: Option<HeaderValue>,
}

impl RequestHead {
    /// Returns the view of it for matchers and policies.
    pub(crate) fn view(&self) -> Head<'_> {
        Head {
            method: &self.method,
            scheme: self.scheme.as_str(),
            authority: self.authority.as_ref().map_or("", |authority| authority.as_str()),
            path: self.path.as_str(),
            headers: &self.headers,
        }
    }

    /// Drops it, and gives back its map to the worker.
    pub(crate) fn give_back(self) {
        maps::give(self.headers);
    }

    /// Returns whether the client accepts trailers (RFC 9110 section 6.5.1).
    pub(crate) fn accepts_trailers(&self) -> bool {
        self.headers.contains_key(TE)
    }

    /// Returns whether a successful response turns the connection into a tunnel: CONNECT or an upgrade.
    pub(crate) fn asks_for_tunnel(&self) -> bool {
        self.method == Method::CONNECT || self.upgrade.is_some()
    }
}

/// Returns whether the sender waits for a 100 before it sends the body (RFC 9110 section 10.1.1).
pub(crate) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The head of a response, interim or final.
#[derive(Debug, Clone)]
pub(crate) struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// End-to-end fields.
    pub headers: HeaderMap,
    /// The protocol that a 101 switches to.
    pub upgrade: Option<HeaderValue>,
}

impl ResponseHead {
    /// Creates a head without fields.
    pub(crate) fn new(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), upgrade: None }
    }
}

/// The scheme of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// Returns the name in a URI.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}
