//! What an HTTP filter reads of a request, and what it decides.
//!
//! A filter does no I/O. The data path carries out its [`Verdict`], within the time that the request has, and passes the
//! request to the next filter only after [`Verdict::Admit`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, StatusCode, Version, header};
use outrigger_core::error::Failure;
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;

pub use crate::claim::NamedClaims;
use crate::descriptor::{RouteDescriptors, Subject};
use crate::header_match::Head;
use crate::header_mutation::HeaderMutation;
use crate::key_source::RemoteKeys;
use crate::question::{Question, ServiceReply};

/// A request, as filters see it.
#[derive(Debug, Clone, Copy)]
pub struct FilterRequest<'a> {
    /// Its head.
    pub head: Head<'a>,
    /// The connection that it came on.
    pub source: Source<'a>,
    /// The cluster that its route chose, or `None` if the route answers itself.
    pub cluster: Option<&'a str>,
    /// How its route describes it to rate limits, or `None` if the route answers itself.
    pub descriptors: Option<&'a RouteDescriptors>,
    /// Its version of HTTP.
    pub version: Version,
    /// Whether it has a body that can be read: bytes may follow its head, and they are no tunnel.
    pub has_body: bool,
    /// The length of the body, if it is known beforehand.
    pub body_length: Option<u64>,
    /// The workload that this proxy serves.
    pub workload: &'a dyn Workload,
    /// Returns a random number, uniform over `u32`.
    pub random: fn() -> u32,
    /// Returns the time since a fixed point, which never goes back.
    pub now: fn() -> Duration,
    /// Returns the time of day.
    pub time_of_day: fn() -> SystemTime,
    /// The claims of its verified tokens.
    pub claims: &'a [NamedClaims],
}

impl<'a> FilterRequest<'a> {
    /// Returns what descriptors say of it.
    pub(crate) fn subject(&self) -> Subject<'a> {
        let Source { identity, address, .. } = self.source;
        Subject { head: self.head, identity, address, cluster: self.cluster, claims: self.claims }
    }
}

/// The workload that a proxy serves.
pub trait Workload: fmt::Debug {
    /// Returns its identity, or `None` before it has its first certificate.
    fn identity(&self) -> Option<SpiffeId>;
}

/// The caller of a request, or of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Its verified identity.
    pub identity: Option<&'a SpiffeId>,
    /// Its address.
    pub address: IpAddr,
    /// The port that it connected from.
    pub port: u16,
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
    /// The same, after these changes to its fields.
    AdmitWith(HeaderMutation),
    /// The same for a request that could not be checked, because the service that decides about it failed. Counted.
    AdmitUnchecked(HeaderMutation),
    /// The same, after these changes to it.
    AdmitChanged(Box<RequestChanges>),
    /// It is answered with status 200, these fields and no body.
    Answer(HeaderMap),
    /// It is answered with an error.
    Refuse(Refusal),
    /// It is answered with this.
    Respond(Box<Response>),
    /// The second verdict holds after this time.
    Wait(Duration, Box<Self>),
    /// The first bytes of its body are read, this many at most; the filter decides again with them.
    ReadBody(usize),
    /// The next fetch of keys, after so many, is awaited; then the filter decides again.
    AwaitKeys(Arc<RemoteKeys>, u64),
    /// A service is asked; the filter decides again with its reply.
    Ask(Box<Question>),
}

impl Verdict {
    /// Refuses the request. The `grpc-status` for a gRPC client follows from the reason and the status.
    pub(crate) fn refuse(reason: Reason, status: StatusCode) -> Self {
        Self::Refuse(Refusal { reason, status, grpc_status: None })
    }
}

/// What a filter decides with after its first verdict: the result of the previous one.
#[derive(Debug)]
pub enum Heard {
    /// Of [`Verdict::ReadBody`].
    Body(Beginning),
    /// Of [`Verdict::Ask`]: the reply, or why there is none.
    Reply(Result<ServiceReply, Failure>),
}

/// The first bytes of a body. They are still part of the request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beginning {
    /// The bytes.
    pub bytes: Bytes,
    /// Whether more bytes follow.
    pub is_cut: bool,
}

/// A response that a filter makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The reason, for the record and the response.
    pub reason: Reason,
    /// The status. For a gRPC client it becomes a `grpc-status`.
    pub status: StatusCode,
    /// Its fields.
    pub fields: HeaderMap,
    /// Its body. For a gRPC client it becomes the `grpc-message`.
    pub body: Bytes,
}

/// What a filter changes in a request that it admits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestChanges {
    /// Changes to its fields.
    pub fields: HeaderMutation,
    /// Its new path and query.
    pub path: Option<PathAndQuery>,
    /// Claims for later filters.
    pub claims: Vec<NamedClaims>,
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
    /// `None` for most requests, each of which has one pointer for it.
    changes: Option<Box<Changes>>,
}

#[derive(Debug, Default)]
struct Changes {
    fields: Vec<Change>,
    /// In bytes per second.
    pace: Option<NonZeroU64>,
    /// What is held until the response is complete.
    held: Vec<Box<dyn fmt::Debug>>,
}

#[derive(Debug)]
enum Change {
    Set(HeaderMap),
    Mutate(HeaderMutation),
}

impl ResponseChanges {
    /// Sets fields of the response. `Vary` is added to what is there (RFC 9110 section 12.5.5); every other field is replaced.
    pub fn set(&mut self, fields: HeaderMap) {
        self.add(Change::Set(fields));
    }

    /// Changes the fields of the response.
    pub fn mutate(&mut self, fields: HeaderMutation) {
        self.add(Change::Mutate(fields));
    }

    fn add(&mut self, change: Change) {
        self.changes.get_or_insert_default().fields.push(change);
    }

    /// Lets the body of the response pass at this rate at most, in bytes per second. The lowest of several applies.
    pub fn pace(&mut self, rate: NonZeroU64) {
        let pace = &mut self.changes.get_or_insert_default().pace;
        *pace = Some(pace.map_or(rate, |other| other.min(rate)));
    }

    /// Returns the rate at which the body of the response may pass, in bytes per second. `None` is any rate.
    pub fn rate(&self) -> Option<NonZeroU64> {
        self.changes.as_ref()?.pace
    }

    /// Keeps `guard` until the response is complete or its client has gone.
    pub(crate) fn hold(&mut self, guard: Box<dyn fmt::Debug>) {
        self.changes.get_or_insert_default().held.push(guard);
    }

    /// Changes the fields of a response: those of the last filter first, as in Envoy.
    pub fn apply(&self, response: &mut HeaderMap) {
        for change in self.changes.iter().flat_map(|changes| changes.fields.iter().rev()) {
            let fields = match change {
                Change::Set(fields) => fields,
                Change::Mutate(fields) => {
                    fields.apply(response);
                    continue;
                }
            };
            for (name, value) in fields {
                if name == header::VARY {
                    response.append(name, value.clone());
                } else {
                    response.insert(name, value.clone());
                }
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
        port: 50_000,
        destination: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 80),
        server_name: None,
    };
}

#[cfg(test)]
impl Workload for () {
    fn identity(&self) -> Option<SpiffeId> {
        None
    }
}

#[cfg(test)]
impl<'a> FilterRequest<'a> {
    /// A request of [`Source::STRANGER`] over HTTP/1.1, without a body.
    pub(crate) fn of(head: Head<'a>) -> Self {
        Self {
            head,
            source: Source::STRANGER,
            cluster: None,
            descriptors: None,
            version: Version::HTTP_11,
            has_body: false,
            body_length: Some(0),
            workload: &(),
            random: || 0,
            now: || Duration::ZERO,
            time_of_day: || SystemTime::UNIX_EPOCH,
            claims: &[],
        }
    }
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
