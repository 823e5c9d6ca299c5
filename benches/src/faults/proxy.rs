//! The proxies under load.

use std::path::PathBuf;

use outrigger_test_support::limits::Algorithm;

/// The proxy under load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proxy {
    /// Outrigger before plain endpoints.
    Plain,
    /// Outrigger's sidecars on both sides, with mTLS between.
    Mesh,
    /// Envoy, at this path.
    Envoy(PathBuf),
    /// Envoy with its filter for adaptive concurrency.
    EnvoyAdaptive(PathBuf),
    /// HAProxy, at this path.
    Haproxy(PathBuf),
    /// Outrigger before endpoints with a proxy that has another algorithm for its limit.
    Limit(Algorithm),
}

impl Proxy {
    /// The name in the table.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Plain => "Outrigger, plain",
            Self::Mesh => "Outrigger, sidecars",
            Self::Envoy(_) => "Envoy",
            Self::EnvoyAdaptive(_) => "Envoy, adaptive concurrency",
            Self::Haproxy(_) => "HAProxy",
            Self::Limit(Algorithm::Gradient) => "gradient (Envoy)",
            Self::Limit(Algorithm::Gradient2) => "Gradient2 (Netflix)",
            Self::Limit(Algorithm::Vegas) => "Vegas (Netflix)",
            Self::Limit(Algorithm::Aimd) => "AIMD (Netflix)",
            Self::Limit(Algorithm::Codel) => "CoDel, adaptive LIFO (Facebook), given the threads",
        }
    }

    /// Returns true for Outrigger.
    pub(super) fn is_outrigger(&self) -> bool {
        matches!(self, Self::Plain | Self::Mesh)
    }
}
