//! The exporters of the three signals, as tasks of the control thread.
//!
//! Those of spans and log records end when the workers have dropped their senders, that of metrics when [`Exporters::finish`] is
//! called.

use std::sync::Arc;

use outrigger_core::record::RequestRecord;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::telemetry::local_identity::LocalIdentity;
use crate::telemetry::losses::Losses;
use crate::telemetry::metrics::{self, Sources};
use crate::telemetry::otlp::batches::Batching;
use crate::telemetry::otlp::destination::Destination;
use crate::telemetry::otlp::exporter::Exporter;
use crate::telemetry::otlp::resource::Workload;
use crate::telemetry::otlp::settings::Periodic;
use crate::telemetry::{logs, spans};

/// The running exporters.
#[derive(Debug)]
pub(crate) struct Exporters {
    workload: Workload,
    losses: Arc<Losses>,
    identity: LocalIdentity,
    tasks: JoinSet<()>,
    /// Dropping it ends the exporter of metrics.
    metrics: Option<oneshot::Sender<()>>,
}

/// Accepts finished requests from workers.
type Records = mpsc::Sender<Arc<RequestRecord>>;

impl Exporters {
    /// No exporter runs yet. Call the rest inside the control runtime.
    pub(crate) fn new(workload: Workload, losses: Arc<Losses>, identity: LocalIdentity) -> Self {
        Self { workload, losses, identity, tasks: JoinSet::new(), metrics: None }
    }

    /// Exports the spans of the records that are sent to the result.
    pub(crate) fn export_spans(&mut self, (destination, batching): (Destination, Batching)) -> Records {
        let (sender, batches) = batching.queue();
        let exporter = Exporter::new(destination, Arc::clone(&self.losses));
        self.tasks.spawn(spans::run(batches, exporter, self.workload.clone(), self.identity.clone()));
        sender
    }

    /// Exports a log record for each record that is sent to the result.
    pub(crate) fn export_logs(&mut self, (destination, batching): (Destination, Batching)) -> Records {
        let (sender, batches) = batching.queue();
        let exporter = Exporter::new(destination, Arc::clone(&self.losses));
        self.tasks.spawn(logs::run(batches, exporter, self.workload.clone(), self.identity.clone()));
        sender
    }

    /// Exports `sources`.
    pub(crate) fn export_metrics(&mut self, Periodic { destination, interval }: Periodic, sources: Sources) {
        let (end, ended) = oneshot::channel();
        let exporter = Exporter::new(destination, Arc::clone(&self.losses));
        self.tasks.spawn(metrics::export(sources, interval, exporter, self.workload.clone(), ended));
        self.metrics = Some(end);
    }

    /// Exports what is left. Call it when the workers have ended.
    pub(crate) async fn finish(mut self) {
        drop(self.metrics.take());
        while self.tasks.join_next().await.is_some() {}
    }
}
