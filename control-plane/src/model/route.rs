//! Routes as they apply to one port of one service: merged, in order of precedence, with their backends resolved.
//!
//! A compact form of Gateway API's HTTPRoute, GRPCRoute and TCPRoute. Every value was validated when it was read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Name;
use outrigger_core::percentage::Percentage;

use super::service::ServiceKey;
use super::session_persistence::SessionPersistence;

/// The routes of one service, by port. A port without routes has no entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceRoutes {
    /// The service port and its routes, in order of number.
    pub ports: Vec<(u16, PortRoutes)>,
}

impl ServiceRoutes {
    /// Returns the routes that clients of `namespace` use on a service port. None means that requests go to the service itself.
    pub fn seen_from(&self, namespace: &str, port: u16) -> Option<&Arc<RouteTable>> {
        let (_, routes) = self.ports.iter().find(|(number, _)| *number == port)?;
        routes.consumers.get(namespace).or(routes.producer.as_ref())
    }

    /// Returns true if a rule for requests forwards to one of these services.
    pub fn lead_to(&self, services: &[ServiceKey]) -> bool {
        let tables = self.ports.iter().flat_map(|(_, of)| of.consumers.values().chain(&of.producer));
        let rules = tables.filter_map(|table| match &**table {
            RouteTable::Http(routes) => Some(routes),
            RouteTable::Tcp(_) => None,
        });
        rules.flatten().any(|route| match &route.action.target {
            RouteTarget::Forward(backends) => {
                backends.iter().any(|of| of.target.as_ref().is_ok_and(|of| services.contains(&of.service)))
            }
            RouteTarget::Redirect(_) => false,
        })
    }
}

/// The routes of one service port. GAMMA (GEP-1294): a producer route is in the service's namespace and applies to all
/// clients; a consumer route is in another namespace and applies to the clients there, instead of the producer route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortRoutes {
    /// The routes of clients whose namespace has none of its own.
    pub producer: Option<Arc<RouteTable>>,
    /// The routes of the clients of a namespace.
    pub consumers: BTreeMap<Name, Arc<RouteTable>>,
}

/// Everything that applies to the clients of one service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTable {
    /// Requests, from HTTPRoutes or from GRPCRoutes. The first route that matches is used. If none does, the answer is 404,
    /// which a gRPC client reads as UNIMPLEMENTED.
    Http(Vec<Route>),
    /// Connections, from a TCPRoute: the whole port is opaque bytes, whatever its `appProtocol` says.
    Tcp(TcpRoute),
}

/// One match of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// `httproute/<namespace>/<name>/<rule>/<match>` (or `grpcroute/...`), both counted from 0.
    pub id: Name,
    /// The requests that it matches.
    pub matches: RouteMatch,
    /// The action, shared by the matches of one rule.
    pub action: Arc<RouteAction>,
}

/// What a rule does with its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteAction {
    /// Forward or redirect.
    pub target: RouteTarget,
    /// The changes of requests and responses.
    pub filters: Filters,
    /// The time limits.
    pub timeouts: Timeouts,
    /// The rule's own retries (GEP-1731). None means the mesh's default.
    pub retry: Option<Retry>,
    /// How the rule's sessions are kept. None: as the policies of its backends say.
    pub session_persistence: Option<SessionPersistence>,
}

/// Where the requests of a rule go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTarget {
    /// To one of these, by weight. The answer is 500 if there is none, if all have weight 0, and for the share of an invalid
    /// one.
    Forward(Vec<WeightedBackend>),
    /// A redirect to the client.
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
    /// Its share is this weight divided by the sum of all weights. With weight 0 it gets no requests.
    pub weight: u32,
    /// The service port, or why it cannot be used.
    pub target: Result<BackendTarget, InvalidBackend>,
    /// The changes for this backend alone. Only header changes are supported.
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

/// Why a backend gets no requests: the reasons of Gateway API's `ResolvedRefs` condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvalidBackend {
    /// In another namespace, and no ReferenceGrant there allows it.
    RefNotPermitted,
    /// No such service, or it has no such port.
    BackendNotFound,
    /// Not a Service, or one of type ExternalName (GEP-1294 excludes those).
    InvalidKind,
    /// The backend's protocol does not fit the route: opaque bytes for requests, HTTP/1.1 for gRPC.
    UnsupportedProtocol,
}

impl InvalidBackend {
    /// Returns the reason as it is in the condition `ResolvedRefs`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::RefNotPermitted => "RefNotPermitted",
            Self::BackendNotFound => "BackendNotFound",
            Self::InvalidKind => "InvalidKind",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
        }
    }
}

/// Which requests a route matches. All conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMatch {
    /// The path, without the query.
    pub path: PathMatch,
    /// The method.
    pub method: Option<http::Method>,
    /// Header values; no name twice.
    pub headers: Vec<ValueMatch>,
    /// Query parameters, by exact name; no name twice. The first value in the request is compared.
    pub query: Vec<ValueMatch>,
    /// Only gRPC requests.
    pub grpc: bool,
}

/// What a path must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// Exactly this.
    Exact(Name),
    /// This path and those below it: `/a` matches `/a` and `/a/b` and not `/ab`. Without a trailing slash, except for `/`, which
    /// matches every path.
    Prefix(Name),
    /// The whole path matches this valid regular expression.
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

/// How a value is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValuePattern {
    /// Exactly this.
    Exact(Name),
    /// The whole value matches this valid regular expression.
    Regex(Name),
}

/// Changes of requests and responses. Each filter at most once, except mirrors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    /// Changes of the request's headers.
    pub request_headers: HeaderChanges,
    /// Changes of the response's headers.
    pub response_headers: HeaderChanges,
    /// The change of the request's host and path.
    pub rewrite: Option<Rewrite>,
    /// Copies of requests, whose responses are dropped.
    pub mirrors: Vec<Mirror>,
    /// Answers to cross-origin requests of browsers.
    pub cors: Option<Cors>,
    /// A service that decides about the requests.
    pub external_auth: Option<ExternalAuth>,
}

/// Changes of headers: removed, then set, then added. Names are lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Headers to set, replacing all values.
    pub set: Vec<(Name, Name)>,
    /// Headers to add to the existing values.
    pub add: Vec<(Name, Name)>,
    /// Headers to remove.
    pub remove: Vec<Name>,
}

impl HeaderChanges {
    /// Returns true if nothing changes.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// A redirect of the client. What is absent stays as in the request.
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
    /// Replaces the whole path.
    Full(Name),
    /// Replaces the matched prefix; the rule has one match, of a prefix.
    Prefix(Name),
}

/// A copy of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The service port that gets the copies, or why it cannot be used.
    pub target: Result<BackendTarget, InvalidBackend>,
    /// The share of requests that is copied.
    pub share: Percentage,
}

/// External authorization (GEP-1494).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalAuth {
    /// The service port that decides, or why it cannot be used. Then no request passes.
    pub target: Result<BackendTarget, InvalidBackend>,
    /// How it is asked.
    pub check: AuthCheck,
}

/// How an authorization service is asked about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthCheck {
    /// In which form.
    pub protocol: AuthProtocol,
    /// The longest body of a request that it sees, in bytes. 0: it sees none.
    pub longest_body: u32,
    /// Of a longer body, it sees the beginning. Otherwise the request is refused.
    pub may_be_cut: bool,
    /// How long it may take. None: the mesh's default.
    pub timeout: Option<Duration>,
    /// A request that it gives no answer about is forwarded.
    pub fails_open: bool,
}

/// How an authorization service is asked. Names of headers are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthProtocol {
    /// By `envoy.service.auth.v3.Authorization/Check`.
    Grpc {
        /// The headers that it sees, or all if there are none.
        allowed_headers: Vec<Name>,
    },
    /// By a request like the one that it decides about.
    Http(HttpAuth),
}

/// How an authorization service is asked over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAuth {
    /// What is put before the request's path: empty, or without a trailing slash.
    pub path_prefix: Name,
    /// The headers that it sees besides those that it always does.
    pub allowed_headers: Vec<Name>,
    /// The headers of its reply that are copied into the request, or all that fit if there are none.
    pub allowed_response_headers: Vec<Name>,
    /// The headers of a denial that the client gets besides those that it always does, or all if there are none.
    pub allowed_client_headers: Vec<Name>,
}

/// The answer to cross-origin requests of browsers (GEP-1767).
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
    /// For how long a browser may cache the answer. Gateway API's default is 5 s.
    pub max_age: Duration,
}

/// Time limits of a rule (GEP-1742). Zero and absent both mean no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's first byte to the response's last, over all attempts.
    pub request: Option<Duration>,
    /// For each attempt.
    pub backend_request: Option<Duration>,
}

/// A rule's own retries (GEP-1731).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Response statuses that are retried: 400 to 599.
    pub codes: Vec<u16>,
    /// The maximum number of retries. Absent: the mesh's default.
    pub attempts: Option<u32>,
    /// The minimum time before a retry. Absent: the mesh's default.
    pub backoff: Option<Duration>,
}
