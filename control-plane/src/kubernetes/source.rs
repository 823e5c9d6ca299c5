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
use super::secret_watch::{SecretReport, SecretWatches};
use super::status::last_good;
use super::status::route::RouteObjects;
use super::workloads::ApiNode;
use crate::model::resource::{Kind, ResourceId};
use crate::source::assembler::SourceHandle;
use crate::source::sync::SyncStatus;

/// The number of reports that wait to be applied. When it is reached, the reflectors wait.
const QUEUE: usize = 1024;

const POD: WatchedKind = WatchedKind { name: "Pod", group: "", versions: &["v1"], optional: false };
/// For the zones of pods alone.
const NODE: WatchedKind = WatchedKind { name: "Node", group: "", versions: &["v1"], optional: true };

/// What the thread that applies reports receives.
enum Message {
    /// A report of the reflector of a kind.
    OfKind(Kind, Box<Report<DynamicObject>>),
    /// A report about a Secret that a policy refers to.
    OfSecret(ResourceId, SecretReport),
}

/// Returns the kinds of which every object is read. Of Secrets, only those are read that policies refer to.
fn kinds() -> impl Iterator<Item = Kind> {
    Kind::all().filter(|kind| *kind != Kind::Secret)
}

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
        Kind::all().for_each(|kind| sync.add(kind.name()));
        for kind in kinds() {
            let reflector: Reflector<DynamicObject, _> = Reflector {
                client: client.clone(),
                kind: WatchedKind::of(kind),
                sync: sync.clone(),
                reports: reports.clone(),
                convert: Box::new(move |report| Message::OfKind(kind, Box::new(report))),
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
        let secrets =
            SecretWatches::new(client.clone(), sync.clone(), reports.downgrade(), Message::OfSecret);
        let (client, sync) = (client.clone(), sync.clone());
        reflectors.spawn(async move { drop(send_saved.send(last_good::read(client).await)) });
        let applier = move || {
            let Ok(saved) = saved.blocking_recv() else { return };
            apply(received, objects.with_saved(saved), secrets, &assembler, &sync);
        };
        thread::Builder::new().name("source".into()).spawn(applier)?;
        let source = Self { routes, _reflectors: reflectors };
        Ok((source, PodWatch::new(trust_domain.clone(), pods)))
    }
}

/// Applies reports until every reflector has ended.
fn apply(
    mut reports: mpsc::Receiver<Message>,
    mut objects: Objects,
    mut secrets: SecretWatches<Message>,
    assembler: &SourceHandle,
    sync: &SyncStatus,
) {
    let mut waiting = Vec::new();
    let (mut unlisted, mut synced) = (kinds().collect::<Vec<_>>(), false);
    while reports.blocking_recv_many(&mut waiting, QUEUE) > 0 {
        for message in waiting.drain(..) {
            match message {
                Message::OfKind(kind, report) => {
                    if report.is_complete() {
                        unlisted.retain(|other| *other != kind);
                    }
                    objects.apply(kind, *report);
                }
                Message::OfSecret(id, report) if secrets.is_current(&id) => objects.apply_secret(&id, report),
                Message::OfSecret(..) => {}
            }
        }
        let ended = secrets.follow(&objects.secrets_of_policies());
        ended.iter().for_each(|id| objects.apply_secret(id, SecretReport::Missing));
        // Nothing is published before every kind was listed, so that all of it is assembled once. A policy waits for its Secrets, so
        // that it never refuses requests because they are not read yet.
        if !unlisted.is_empty() || !secrets.is_complete() {
            continue;
        }
        if let Some(update) = objects.update() {
            assembler.apply(update);
        }
        if !std::mem::replace(&mut synced, true) {
            sync.synced(Kind::Secret.name());
            assembler.synced();
        }
    }
}
