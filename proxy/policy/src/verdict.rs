//! What an HTTP filter reads of a request, and what it decides.
//!
//! A filter does no I/O. The data path carries out its [`Verdict`], within the time that the request has, and passes the
//! request to the next filter only after [`Verdict::Admit`].

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;

use crate::header_match::Head;

/// A request, as filters see it.
#[derive(Debug, Clone, Copy)]
pub struct FilterRequest<'a> {
    /// Its head.
    pub head: Head<'a>,
    /// The connection that it came on.
    pub source: Source<'a>,
    /// The cluster that its route chose, or `None` if the route answers itself.
    pub cluster: Option<&'a str>,
    /// Returns a random number, uniform over `u32`.
    pub random: fn() -> u32,
}

/// The caller of a request, or of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Its verified identity.
    pub identity: Option<&'a SpiffeId>,
    /// Its address.
    pub address: IpAddr,
    /// The address that it connected to: the original destination if the connection was redirected.
    pub destination: SocketAddr,
    /// The server name that it asked for in the TLS handshake, in lower case.
    pub server_name: Option<&'a str>,
}

/// The decision about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The next filter decides; after the last one, the request is forwarded.
    Admit,
    /// It is answered with status 200, these fields and no body.
    Answer(HeaderMap),
    /// It is answered with an error.
    Refuse(Refusal),
    /// The second verdict holds after this time.
    Wait(Duration, Box<Self>),
}

/// An error that a filter answers a request with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The reason, for the record and the answer.
    pub reason: Reason,
    /// The status. For a gRPC client it is only the source of the `grpc-status`, if that is not set.
    pub status: StatusCode,
    /// The `grpc-status`, if it does not follow from reason and status.
    pub grpc_status: Option<u8>,
}

/// What the filters that a request passed do to its response. Applies to every response: the upstream's, the route's own,
/// and those of the proxy for failures.
#[derive(Debug, Default)]
pub struct ResponseChanges {
    changes: Vec<HeaderMap>,
}

impl ResponseChanges {
    /// Sets fields of the response. `Vary` is added to what is there (RFC 9110 section 12.5.5); every other field is replaced.
    pub fn set(&mut self, fields: HeaderMap) {
        self.changes.push(fields);
    }

    /// Changes the fields of a response: those of the last filter first, as in Envoy.
    pub fn apply(&self, response: &mut HeaderMap) {
        for (name, value) in self.changes.iter().rev().flatten() {
            if name == header::VARY {
                response.append(name, value.clone());
            } else {
                response.insert(name, value.clone());
            }
        }
    }
}

#[cfg(test)]
impl Source<'_> {
    /// Some caller without an identity.
    pub(crate) const STRANGER: Self = Self {
        identity: None,
        address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        destination: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 80),
        server_name: None,
    };
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_first_filter_changes_a_response_last() {
        let field = |name, value| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        let mut changes = ResponseChanges::default();
        for (name, value) in [(header::SERVER, "first"), (header::SERVER, "second"), (header::VARY, "origin")]
        {
            changes.set(field(name, value));
        }
        let mut response = field(header::VARY, "accept");
        changes.apply(&mut response);
        assert_eq!(response[header::SERVER], "first");
        let vary: Vec<_> = response.get_all(header::VARY).iter().collect();
        assert_eq!(vary, ["accept", "origin"]);
    }
}
