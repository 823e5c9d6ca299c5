//! Who may call what: the meaning of an AuthorizationPolicy.

use ipnet::IpNet;
use outrigger_core::Name;

use super::route::{PathMatch, ValueMatch};

/// The meaning of an AuthorizationPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// What happens to requests that match.
    pub action: Action,
    /// A request matches if one of them does. None matches nothing.
    pub rules: Vec<AuthorizationRule>,
    /// It stands for a policy that was refused and that has no good version: it denies everything.
    pub stands_in: bool,
}

/// What happens to requests that match a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// They are allowed. What no such policy of a place allows is refused there.
    Allow,
    /// They are refused, also if another policy allows them.
    Deny,
    /// They would be allowed, if this were an Allow policy: what would be refused then is only recorded.
    Audit,
}

impl Action {
    /// Returns the name, as in YAML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Audit => "Audit",
        }
    }
}

/// Matches a request if one source and one operation do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationRule {
    /// The callers. Empty: anyone.
    pub from: Vec<Source>,
    /// What they request. Empty: anything.
    pub to: Vec<Operation>,
}

/// A caller. Each list that is not empty must have a match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// Service accounts.
    pub service_accounts: Vec<ServiceAccount>,
    /// The namespaces of the identities.
    pub namespaces: Vec<Name>,
    /// SPIFFE IDs.
    pub spiffe_ids: Vec<SpiffeMatch>,
    /// The addresses of the connections.
    pub cidrs: Vec<IpNet>,
    /// Claims of verified tokens: all must match.
    pub claims: Vec<ClaimMatch>,
}

/// A claim, which is one of some texts or a list with one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimMatch {
    /// The names that lead to it, at least one.
    pub path: Vec<Name>,
    /// The texts, at least one.
    pub values: Vec<Name>,
}

/// A service account of the mesh's trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// None: the namespace of the policy.
    pub namespace: Option<Name>,
    /// The name.
    pub name: Name,
}

/// What a SPIFFE ID must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpiffeMatch {
    /// Exactly this.
    Exact(Name),
    /// It begins with this, which ends with a slash.
    Prefix(Name),
}

/// What a caller requests. Each list that is not empty must have a match; of headers, all must match. gRPC methods are paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operation {
    /// Ports of the application.
    pub ports: Vec<u16>,
    /// Names of hosts in lower case, without a port. One that begins with `*.` matches every name below.
    pub hosts: Vec<Name>,
    /// Methods.
    pub methods: Vec<http::Method>,
    /// Paths without the query.
    pub paths: Vec<PathMatch>,
    /// Headers.
    pub headers: Vec<ValueMatch>,
}

impl Operation {
    /// Returns true if it has a condition on requests, which a connection of opaque bytes cannot satisfy.
    pub fn needs_requests(&self) -> bool {
        let Self { ports: _, hosts, methods, paths, headers } = self;
        !(hosts.is_empty() && methods.is_empty() && paths.is_empty() && headers.is_empty())
    }
}

impl Authorization {
    /// Returns what stands for a refused policy: it denies everything.
    pub fn stand_in() -> Self {
        let everything = AuthorizationRule { from: Vec::new(), to: Vec::new() };
        Self { action: Action::Deny, rules: vec![everything], stands_in: true }
    }
}
