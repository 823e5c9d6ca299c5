//! Routes as they apply to one port of one service: merged, in the order in which they are tried, backends resolved.
//!
//! The compact form of Gateway API's HTTPRoute, GRPCRoute and TCPRoute. Every value was checked when it was read, so
//! that translation only writes it down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_core::percentage::Percentage;

use super::service::ServiceKey;

/// The routes of one service, by port. A port without routes has no entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceRoutes {
    /// The service port and its routes, in order of number.
    pub ports: Vec<(u16, PortRoutes)>,
}

impl ServiceRoutes {
    /// The routes that clients of `namespace` use on a service port; none means straight to the service.
    pub fn seen_from(&self, namespace: &str, port: u16) -> Option<&Arc<RouteTable>> {
        let (_, routes) = self.ports.iter().find(|(number, _)| *number == port)?;
        routes.consumers.get(namespace).or(routes.producer.as_ref())
    }
}

/// The routes of one service port. GAMMA (GEP-1294): a producer route stands in the service's namespace and is for
/// everybody; a consumer route stands in another and is for the clients of that namespace, in place of the producer's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortRoutes {
    /// What everybody uses who has no routes of their own.
    pub producer: Option<Arc<RouteTable>>,
    /// What the clients of a namespace use instead.
    pub consumers: BTreeMap<Name, Arc<RouteTable>>,
}

/// Everything that applies to the clients of one service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTable {
    /// Requests, from HTTPRoutes or from GRPCRoutes: the first route that matches is used; where none does, the answer
    /// is 404 (a gRPC client is told UNIMPLEMENTED by the same status).
    Http(Vec<Route>),
    /// Connections, from a TCPRoute: the whole port is opaque bytes, whatever its `appProtocol` says.
    Tcp(TcpRoute),
}

/// One match of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// `httproute/<namespace>/<name>/<rule>/<match>` (or `grpcroute/...`), both counted from 0.
    pub id: Name,
    /// What it applies to.
    pub matches: RouteMatch,
    /// What is done; shared by the matches of one rule.
    pub action: Arc<RouteAction>,
}

/// What a rule does with its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteAction {
    /// Forward or redirect.
    pub target: RouteTarget,
    /// What is changed on the way.
    pub filters: Filters,
    /// For how long.
    pub timeouts: Timeouts,
    /// The rule's own retries (GEP-1731); none means the mesh's default.
    pub retry: Option<Retry>,
}

/// Where requests of a rule go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTarget {
    /// To one of these by weight. None, all of weight 0, or the share of an invalid one: 500.
    Forward(Vec<WeightedBackend>),
    /// Back to the client.
    Redirect(Redirect),
}

/// The TCPRoute of a service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpRoute {
    /// `tcproute/<namespace>/<name>/0/0`.
    pub id: Name,
    /// Where connections go, by weight; the share of an invalid one is refused.
    pub backends: Vec<WeightedBackend>,
}

/// One backend of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightedBackend {
    /// Its share is this over the sum of all weights; 0 takes nothing.
    pub weight: u32,
    /// The service port, or why there is none.
    pub target: Result<BackendTarget, InvalidBackend>,
    /// What is changed for this backend alone: only header changes.
    pub filters: Filters,
}

/// A service port that a route names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendTarget {
    /// The service.
    pub service: ServiceKey,
    /// Its port.
    pub port: u16,
}

/// Why a backend takes no requests: the reasons of Gateway API's `ResolvedRefs` condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidBackend {
    /// In another namespace, and no ReferenceGrant there allows it.
    RefNotPermitted,
    /// No such service, or it has no such port.
    BackendNotFound,
    /// Not a Service, or one of type ExternalName (GEP-1294 keeps those out of routes).
    InvalidKind,
    /// What is spoken there is not what the route carries: requests to opaque bytes, gRPC to HTTP/1.1.
    UnsupportedProtocol,
}

impl InvalidBackend {
    /// The reason as the condition `ResolvedRefs` has it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::RefNotPermitted => "RefNotPermitted",
            Self::BackendNotFound => "BackendNotFound",
            Self::InvalidKind => "InvalidKind",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
        }
    }
}

/// What a route applies to: all of it must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMatch {
    /// The path, without the query.
    pub path: PathMatch,
    /// The method.
    pub method: Option<http::Method>,
    /// Header values; no name twice.
    pub headers: Vec<ValueMatch>,
    /// Query parameters, by exact name; no name twice. The first value of the request counts.
    pub query: Vec<ValueMatch>,
    /// Only gRPC requests.
    pub grpc: bool,
}

/// What a path must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// This, byte for byte.
    Exact(Name),
    /// This, or something below it: `/a` matches `/a` and `/a/b` and not `/ab`. No trailing slash, but `/` itself is
    /// every path.
    Prefix(Name),
    /// The whole path matches this expression, which compiles.
    Regex(Name),
}

/// What the value of a header or a query parameter must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueMatch {
    /// The name: lower case for a header, as written for a parameter.
    pub name: Name,
    /// The value.
    pub value: ValuePattern,
}

/// A wanted value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValuePattern {
    /// This, byte for byte.
    Exact(Name),
    /// The whole value matches this expression, which compiles.
    Regex(Name),
}

/// What is changed on the way. Each at most once, as Gateway API has it, but mirrors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    /// To the request's headers.
    pub request_headers: HeaderChanges,
    /// To the response's headers.
    pub response_headers: HeaderChanges,
    /// To the request's host and path.
    pub rewrite: Option<Rewrite>,
    /// Copies of requests, whose answers are dropped.
    pub mirrors: Vec<Mirror>,
    /// Answers to browsers about other origins.
    pub cors: Option<Cors>,
}

/// Changes of headers: removed, then set, then added. Names are lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// In place of all values there are.
    pub set: Vec<(Name, Name)>,
    /// Besides the values there are.
    pub add: Vec<(Name, Name)>,
    /// Taken away.
    pub remove: Vec<Name>,
}

impl HeaderChanges {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// An answer that sends the client elsewhere; what is absent stays as the request had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The scheme.
    pub scheme: Option<RedirectScheme>,
    /// The host.
    pub hostname: Option<Name>,
    /// The path.
    pub path: Option<PathRewrite>,
    /// The port. Absent: the well-known one of a changed scheme, else the port of the request.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// The scheme of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectScheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

/// A change of the request's host and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The new host.
    pub hostname: Option<Name>,
    /// The new path.
    pub path: Option<PathRewrite>,
}

/// A new path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRewrite {
    /// In place of all of it.
    Full(Name),
    /// In place of the prefix that matched; the rule matches prefixes only.
    Prefix(Name),
}

/// A copy of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Where copies go, or why they go nowhere.
    pub target: Result<BackendTarget, InvalidBackend>,
    /// Of how many requests.
    pub share: Percentage,
}

/// What browsers are told about requests from other origins (GEP-1767).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Origins: exact, `*`, or with a `*` in place of leading host labels.
    pub allow_origins: Vec<Name>,
    /// Whether cookies may be sent.
    pub allow_credentials: bool,
    /// Methods, or `*`.
    pub allow_methods: Vec<Name>,
    /// Request headers, or `*`.
    pub allow_headers: Vec<Name>,
    /// Response headers, or `*`.
    pub expose_headers: Vec<Name>,
    /// For how long a browser may remember the answer; Gateway API's default is 5 s.
    pub max_age: Duration,
}

/// Time limits of a rule (GEP-1742). Zero means none, and so does absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's first byte to the response's last, all tries together.
    pub request: Option<Duration>,
    /// For each try.
    pub backend_request: Option<Duration>,
}

/// A rule's own retries (GEP-1731).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Statuses of a response that are tried again: 400 to 599.
    pub codes: Vec<u16>,
    /// How many tries after the first; absent: the mesh's default.
    pub attempts: Option<u32>,
    /// The least time before the next try; absent: the mesh's default.
    pub backoff: Option<Duration>,
}
