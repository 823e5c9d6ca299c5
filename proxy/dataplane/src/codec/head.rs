//! The heads of messages, as the pipeline sees them: parsed, checked, and the same for every HTTP version.
//!
//! No framing and no hop-by-hop field is in here: the codec has taken them out and writes its own. Field names are
//! lower-case, as HTTP/2 demands and HTTP/1 permits (RFC 9110 section 5.1); their order within a name is kept.

use http::header::{EXPECT, TE};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use outrigger_policy::header_match::Head;

/// The head of a request.
#[derive(Debug, Clone)]
pub(crate) struct RequestHead {
    /// The method.
    pub method: Method,
    /// How the request was asked for.
    pub scheme: Scheme,
    /// Host and port as asked: from the absolute form, `:authority` or `Host`, which were checked to agree.
    /// `None` only in HTTP/1.0. `Host` is not among the fields; the codec writes it.
    pub authority: Option<Authority>,
    /// The path in its normal form (`codec::path`) and the query as sent; `*` for `OPTIONS *`; `/` for CONNECT, which has none.
    pub path: PathAndQuery,
    /// The version in which it came. The version in which it goes on is the connection's.
    pub version: Version,
    /// End-to-end fields. `te` is here only as `trailers`; `content-length` is here as sent, already checked.
    pub headers: HeaderMap,
    /// The protocol asked for by `Connection: upgrade` and `Upgrade`; set, HTTP/1 writes both.
    pub upgrade: Option<HeaderValue>,
}

impl RequestHead {
    /// What matchers and policies see of it.
    pub(crate) fn view(&self) -> Head<'_> {
        Head {
            method: &self.method,
            scheme: self.scheme.as_str(),
            authority: self.authority.as_ref().map_or("", |authority| authority.as_str()),
            path: self.path.as_str(),
            headers: &self.headers,
        }
    }

    /// Whether who sent this reads trailers (RFC 9110 section 6.5.1).
    pub(crate) fn accepts_trailers(&self) -> bool {
        self.headers.contains_key(TE)
    }

    /// Whether the answer, if it agrees, turns the connection into a tunnel: CONNECT or an upgrade.
    pub(crate) fn asks_for_tunnel(&self) -> bool {
        self.method == Method::CONNECT || self.upgrade.is_some()
    }
}

/// Whether who sent these fields waits for a 100 before a body (RFC 9110 section 10.1.1).
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
    /// A head without fields.
    pub(crate) fn new(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), upgrade: None }
    }
}

/// How a request was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// The name in a URI.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}
