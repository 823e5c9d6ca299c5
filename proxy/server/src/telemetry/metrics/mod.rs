//! The proxy's metrics: all counters of the process, merged over the workers at each scrape or export.
//!
//! [`Sources`] keeps no state. It reads the workers' counters, the losses and the discovery state, and returns families. The
//! admin endpoint encodes them as text, [`export()`] sends them by OTLP. docs/metrics.md lists every name with its
//! kind and labels; a test compares the two.

mod export;
mod families;
mod overload;
mod requests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_core::metrics::{Family, process};
use outrigger_dataplane::SharedClusters;
use outrigger_dataplane::metrics::{Registry, Totals};

pub(crate) use self::export::run as export;
use crate::dns::counters::QueryCounters;
use crate::telemetry::local_identity::LocalIdentity;
use crate::telemetry::losses::Losses;

/// What the metrics are read from.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    /// The workers' counters.
    pub(crate) workers: Arc<Registry>,
    /// What the workers share about clusters.
    pub(crate) clusters: Arc<SharedClusters>,
    /// Delivered and lost telemetry.
    pub(crate) losses: Arc<Losses>,
    /// This workload: the source of outbound requests, the destination of inbound ones.
    pub(crate) identity: LocalIdentity,
    /// Configuration, certificates, readiness.
    pub(crate) mesh: MeshGauges,
    /// The queries of the DNS answerer, if there is one.
    pub(crate) queries: Option<QueryCounters>,
}

/// Reads the discovery state at each scrape.
#[derive(Clone)]
pub(crate) struct MeshGauges(pub(crate) Arc<dyn Fn() -> Mesh + Send + Sync>);

impl fmt::Debug for MeshGauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshGauges")
    }
}

/// The state of the control plane connection, configuration and certificate.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Mesh {
    /// Whether the proxy is ready.
    pub(crate) ready: bool,
    /// Whether a stream to the control plane is established.
    pub(crate) connected: bool,
    /// One entry per resource type.
    pub(crate) xds: Vec<XdsType>,
    /// When configuration was last published.
    pub(crate) last_update: Option<SystemTime>,
    /// When the workload's certificate is valid.
    pub(crate) certificate: Option<Range<SystemTime>>,
}

/// The state of one xDS resource type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct XdsType {
    /// `cds`, `eds`, `lds`, `rds`.
    pub(crate) kind: &'static str,
    /// Accepted resources.
    pub(crate) resources: u64,
    /// Responses acknowledged.
    pub(crate) acknowledged: u64,
    /// Rejected responses.
    pub(crate) refused: u64,
}

impl Sources {
    /// Returns all families with their values now.
    pub(crate) fn families(&self) -> Vec<Family> {
        let Totals { process, responses, requests, clusters, ejections, without_mtls, denials } =
            self.workers.totals();
        let local = self.identity.get();
        let mut all = requests::families(local.as_ref(), &responses, &requests).to_vec();
        all.extend(families::downstream(&process));
        all.push(families::without_mtls(&without_mtls));
        all.push(families::denials(&denials));
        all.extend(families::upstream(&clusters, &ejections));
        all.extend(overload::families(&self.clusters.applications()));
        all.extend(families::telemetry(&process, self.losses.counts()));
        all.extend(self.queries.iter().map(|queries| families::queries(queries.read())));
        all.extend(families::mesh(&(self.mesh.0)()));
        all.extend(process::families());
        all
    }
}

#[cfg(test)]
mod tests;
