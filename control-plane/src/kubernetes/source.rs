//! Starts a reflector for each kind, and applies what they report to the assembler.
//!
//! The source is synced once every kind was listed, or is known to be missing. A thread decodes the objects, since that of 10,000
//! routes takes a while; what has accumulated meanwhile is applied as one update.

use std::io;
use std::thread;

use kube::Client;
use kube::api::DynamicObject;
use outrigger_core::identity::TrustDomain;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::discovery::WatchedKind;
use super::objects::Objects;
use super::pod::ApiPod;
use super::pod_watch::{self, PodEvent, PodWatch};
use super::reflector::{Reflector, Report};
use super::status::last_good;
use super::status::route::RouteObjects;
use super::workloads::ApiNode;
use crate::model::resource::Kind;
use crate::source::assembler::SourceHandle;
use crate::source::sync::SyncStatus;

/// The number of reports that wait to be applied. When it is reached, the reflectors wait.
const QUEUE: usize = 1024;

const POD: WatchedKind = WatchedKind { name: "Pod", group: "", versions: &["v1"], optional: false };
/// For the zones of pods alone.
const NODE: WatchedKind = WatchedKind { name: "Node", group: "", versions: &["v1"], optional: true };

/// The reflectors. Dropping it stops them.
#[derive(Debug)]
pub(crate) struct ClusterSource {
    /// The objects of all routes, for their status.
    pub(crate) routes: watch::Receiver<RouteObjects>,
    _reflectors: JoinSet<()>,
}

impl ClusterSource {
    /// Starts to read the cluster. `sync` has what is not synced yet.
    ///
    /// Returns an error if a thread cannot be started.
    pub(crate) fn start(
        client: &Client,
        trust_domain: &TrustDomain,
        assembler: SourceHandle,
        sync: &SyncStatus,
    ) -> io::Result<(Self, PodWatch)> {
        let (reports, received) = mpsc::channel(QUEUE);
        let mut reflectors = JoinSet::new();
        for kind in Kind::all() {
            sync.add(kind.name());
            let reflector: Reflector<DynamicObject, _> = Reflector {
                client: client.clone(),
                kind: WatchedKind::of(kind),
                sync: sync.clone(),
                reports: reports.clone(),
                convert: Box::new(move |report| (kind, report)),
            };
            reflectors.spawn(reflector.run());
        }
        let (pod_events, pods) = mpsc::channel(pod_watch::QUEUE);
        [POD, NODE].iter().for_each(|kind| sync.add(kind.name));
        let pod_reflector: Reflector<ApiPod, _> = Reflector {
            client: client.clone(),
            kind: POD,
            sync: sync.clone(),
            reports: pod_events.clone(),
            convert: Box::new(|report| PodEvent::Pod(Box::new(report))),
        };
        let node_reflector: Reflector<ApiNode, _> = Reflector {
            client: client.clone(),
            kind: NODE,
            sync: sync.clone(),
            reports: pod_events,
            convert: Box::new(|report| PodEvent::Node(Box::new(report))),
        };
        reflectors.spawn(pod_reflector.run());
        reflectors.spawn(node_reflector.run());
        let (objects, (send_saved, saved)) = (Objects::default(), oneshot::channel());
        let routes = objects.routes();
        let client = client.clone();
        reflectors.spawn(async move { drop(send_saved.send(last_good::read(client).await)) });
        let applier = move || {
            let Ok(saved) = saved.blocking_recv() else { return };
            apply(received, objects.with_saved(saved), &assembler);
        };
        thread::Builder::new().name("source".into()).spawn(applier)?;
        let source = Self { routes, _reflectors: reflectors };
        Ok((source, PodWatch::new(trust_domain.clone(), pods)))
    }
}

/// Applies reports until every reflector has ended.
fn apply(
    mut reports: mpsc::Receiver<(Kind, Report<DynamicObject>)>,
    mut objects: Objects,
    assembler: &SourceHandle,
) {
    let mut waiting = Vec::new();
    let mut unlisted: Vec<Kind> = Kind::all().collect();
    while reports.blocking_recv_many(&mut waiting, QUEUE) > 0 {
        let synced = unlisted.is_empty();
        for (kind, report) in waiting.drain(..) {
            if report.is_complete() {
                unlisted.retain(|other| *other != kind);
            }
            objects.apply(kind, report);
        }
        // Nothing is published before every kind was listed, so that all of it is assembled once.
        if unlisted.is_empty()
            && let Some(update) = objects.update()
        {
            assembler.apply(update);
        }
        if !synced && unlisted.is_empty() {
            assembler.synced();
        }
    }
}
