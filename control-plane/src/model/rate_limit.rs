//! How much: the meaning of a RateLimitPolicy.

use std::time::Duration;

use outrigger_core::Name;

use super::route::{PathMatch, ValuePattern};
use super::service::ServiceKey;

/// The meaning of a RateLimitPolicy. A request must be within all limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Limits that each sidecar counts by itself.
    pub local: Vec<LocalLimit>,
    /// Limits that a service counts for all sidecars.
    pub global: Option<GlobalLimit>,
}

/// A number of requests in a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalLimit {
    /// What requests are counted by. Empty: all requests together.
    pub by: Vec<Entry>,
    /// At least 1.
    pub requests: u32,
    /// The time.
    pub per: Unit,
    /// How many requests may come at once, at least 1.
    pub burst: u32,
}

/// A unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A second.
    Second,
    /// 60 s.
    Minute,
    /// 3600 s.
    Hour,
    /// 86,400 s.
    Day,
}

/// What a service is asked about each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalLimit {
    /// The service that counts.
    pub service: GlobalService,
    /// The domain of its limits. None: the namespace of the policy.
    pub domain: Option<Name>,
    /// How long it may take.
    pub timeout: Duration,
    /// Whether a request is refused if the service does not answer.
    pub fails_closed: bool,
    /// The descriptors, each with at least one entry.
    pub descriptors: Vec<Vec<Entry>>,
}

/// A port of the Service of global limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalService {
    /// None: the namespace of the policy.
    pub namespace: Option<Name>,
    /// The name.
    pub name: Name,
    /// The port.
    pub port: u16,
}

/// An entry of a descriptor. A request without it is not counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The path without the query is one of these: all of them are counted together.
    Path(PathMatch),
    /// Requests with the same value of a header, whose name is in lower case. With a pattern: all that match it together.
    Header(Name, Option<ValuePattern>),
    /// Requests of the same verified identity; those without one together.
    Caller,
    /// Requests with the same text as a claim of a verified token, by the names that lead to it; those without one together.
    Claim(Vec<Name>),
    /// Requests from the same network, by the lengths of its prefix for IPv4 and IPv6.
    Address(u8, u8),
}

impl RateLimit {
    /// Returns it without the limits that a service counts.
    pub fn without_global(&self) -> Self {
        Self { local: self.local.clone(), global: None }
    }
}

impl GlobalService {
    /// Returns the Service. `namespace` is that of the policy.
    pub fn key(&self, namespace: &Name) -> ServiceKey {
        let namespace = self.namespace.as_ref().unwrap_or(namespace);
        ServiceKey { namespace: namespace.clone(), name: self.name.clone() }
    }
}

impl Unit {
    /// Returns how long it is.
    pub fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
        })
    }
}
