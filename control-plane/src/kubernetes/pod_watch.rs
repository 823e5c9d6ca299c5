//! Publishes the pods of the cluster as workloads, and those without the sidecar that they are to have, for as long as it is polled.

use std::sync::Arc;

use outrigger_core::identity::TrustDomain;
use tokio::sync::{mpsc, watch};

use super::cni::state::CniState;
use super::pod::ApiPod;
use super::pod_name::PodKey;
use super::reflector::Report;
use super::workloads::{ApiNode, MissingSidecars, Workloads};
use crate::model::registration::Registrations;
use crate::source::assembler::View;
use crate::status::PodStatus;

/// The number of events that are applied together, and that may wait.
pub(super) const QUEUE: usize = 1024;

/// The pods of the cluster.
#[derive(Debug)]
pub(crate) struct PodWatch {
    events: mpsc::Receiver<PodEvent>,
    workloads: Workloads,
    pods_listed: bool,
    nodes_listed: bool,
    without_sidecar: watch::Sender<Arc<[PodStatus]>>,
    cni: watch::Sender<Arc<CniState>>,
    missing_sidecars: watch::Sender<MissingSidecars>,
}

/// An event of the pods, or of the nodes on which they run.
#[derive(Debug)]
pub(super) enum PodEvent {
    Pod(Box<Report<ApiPod>>),
    Node(Box<Report<ApiNode>>),
}

impl PodWatch {
    pub(super) fn new(trust_domain: TrustDomain, events: mpsc::Receiver<PodEvent>) -> Self {
        Self {
            events,
            workloads: Workloads::new(trust_domain),
            pods_listed: false,
            nodes_listed: false,
            without_sidecar: watch::Sender::new(Arc::default()),
            cni: watch::Sender::new(Arc::default()),
            missing_sidecars: watch::Sender::new(Arc::default()),
        }
    }

    /// Returns the pods that run without the sidecar that they are to have, now and later.
    pub(crate) fn without_sidecar(&self) -> watch::Receiver<Arc<[PodStatus]>> {
        self.without_sidecar.subscribe()
    }

    /// Returns the same pods with their UIDs, now and later.
    pub(crate) fn missing_sidecars(&self) -> watch::Receiver<MissingSidecars> {
        self.missing_sidecars.subscribe()
    }

    /// Returns what pods are to the CNI plugin, now and later.
    pub(crate) fn cni(&self) -> watch::Receiver<Arc<CniState>> {
        self.cni.subscribe()
    }

    /// Publishes all pods once they and the nodes were listed. Returns None if the source ends before.
    pub(crate) async fn first(
        mut self,
        configured: &mut watch::Receiver<View>,
        publish: &watch::Sender<Registrations>,
    ) -> Option<Self> {
        configured.mark_changed();
        while !(self.pods_listed && self.nodes_listed) {
            self = self.step(configured).await?;
        }
        self.publish(publish);
        Some(self)
    }

    /// Publishes each change of the pods, or of what determines their ports.
    pub(crate) async fn run(
        mut self,
        mut configured: watch::Receiver<View>,
        publish: watch::Sender<Registrations>,
    ) {
        while let Some(next) = self.step(&mut configured).await {
            self = next;
            self.publish(&publish);
        }
    }

    /// Applies what has changed, on a blocking thread: a list may have thousands of pods. Returns None if the source has ended.
    async fn step(mut self, configured: &mut watch::Receiver<View>) -> Option<Self> {
        let mut waiting = Vec::new();
        let mut mesh = None;
        tokio::select! {
            count = self.events.recv_many(&mut waiting, QUEUE) => if count == 0 { return None },
            changed = configured.changed() => {
                changed.ok()?;
                mesh = Some(Arc::clone(&configured.borrow_and_update().mesh));
            }
        }
        let applied = tokio::task::spawn_blocking(move || {
            mesh.into_iter().for_each(|mesh| self.workloads.set_mesh(mesh));
            for event in waiting {
                match event {
                    PodEvent::Pod(report) => {
                        self.pods_listed |= report.is_complete();
                        if let Report::Event(event) = *report {
                            self.workloads.apply(event);
                        }
                    }
                    PodEvent::Node(report) => {
                        self.nodes_listed |= report.is_complete();
                        if let Report::Event(event) = *report {
                            self.workloads.apply_node(event);
                        }
                    }
                }
            }
            self
        });
        applied.await.inspect_err(|error| tracing::error!(%error, "pods are no longer read")).ok()
    }

    fn publish(&mut self, publish: &watch::Sender<Registrations>) {
        if let Some(registrations) = self.workloads.take_changed() {
            publish.send_replace(registrations);
        }
        if let Some(cni) = self.workloads.take_cni() {
            self.cni.send_replace(Arc::new(cni));
        }
        let Some(pods) = self.workloads.take_without_sidecar() else { return };
        let status =
            |pod: &PodKey| PodStatus { namespace: pod.namespace.to_string(), name: pod.name.to_string() };
        self.without_sidecar.send_replace(pods.keys().map(status).collect());
        self.missing_sidecars.send_replace(Arc::new(pods));
    }
}
