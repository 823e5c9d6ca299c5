//! The ConfigMap `outrigger-trust-roots`, which the leader keeps in its own namespace and in every namespace with sidecars.
//!
//! Pods mount it as `--control-plane-ca`. A copy that was changed or deleted is written again. When a namespace has opted out and its
//! last sidecar is gone, the copy is deleted. The copy in our own namespace, which is written last, records which roots workloads trust, and
//! since when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::select_all;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{Config, watcher};
use kube::runtime::{WatchStreamExt, reflector as reflect};
use kube::{Api, Client, ResourceExt};
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use super::root_record::{RECORD, ROOTS_KEY, RootRecord};
use crate::ca::authority::Authority;
use crate::ca::service::pem;
use crate::kubernetes::NAMESPACE;
use crate::kubernetes::lease::Leadership;

/// The name of the ConfigMap.
pub(in crate::kubernetes) const CONFIG_MAP: &str = "outrigger-trust-roots";
/// Who writes it, for server-side apply.
const MANAGER: &str = "outrigger-control-plane";
/// The label of namespaces and pods, and its value, that ask for sidecars.
const INJECT: (&str, &str) = ("outrigger.dev/inject", "enabled");
/// The annotation of a pod that has a sidecar.
const SIDECAR_ANNOTATION: &str = "outrigger.dev/status";
/// The label that our ConfigMaps have; others of the same name are left alone.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "outrigger");
/// Maximum number of changes that are acted on at once.
const MAX_CHANGES: usize = 4096;
/// The pause after changes, in which further ones gather.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a copy that cannot be written delays a new root.
const MAX_DELAY: Duration = Duration::from_secs(600);
/// Delay before failed writes are repeated, and interval of looking at namespaces that have opted out but still have sidecars.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Writes the ConfigMaps while this replica leads, for as long as it is polled.
pub(in crate::kubernetes) async fn maintain(
    client: Client,
    authority: Arc<Authority>,
    mut leadership: Leadership,
) {
    loop {
        if leadership.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        tokio::select! {
            () = write(&client, &authority) => {}
            _ = leadership.wait_for(|leads| !leads) => {}
        }
    }
}

/// Lists and watches, and writes what differs.
async fn write(client: &Client, authority: &Authority) {
    let mut replacements = authority.subscribe();
    let config = || Config::default().timeout(60);
    let (namespaces, writer) = reflector::store();
    let watched = watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), config());
    let namespace_changes = reflect(writer, watched).default_backoff().map(|event| event.map(drop));
    let (pods, writer) = reflector::store();
    let watched = watcher(Api::<PartialObjectMeta<Pod>>::all(client.clone()), config()).modify(strip);
    let pod_changes = reflect(writer, watched).default_backoff().map(|event| event.map(drop));
    let (maps, writer) = reflector::store();
    let named = config().fields(&format!("metadata.name={CONFIG_MAP}"));
    let watched = watcher(Api::<ConfigMap>::all(client.clone()), named);
    let map_changes = reflect(writer, watched).default_backoff().map(|event| event.map(drop));

    let changes = select_all([namespace_changes.boxed(), pod_changes.boxed(), map_changes.boxed()]);
    let mut changes = changes.ready_chunks(MAX_CHANGES);
    let (mut listed, mut repeat, mut unreadable) = (false, false, false);
    let (mut record, mut delayed_since) = (RootRecord::default(), None);
    let mut refused = Refused::default();
    loop {
        let wait = if repeat { RETRY_INTERVAL } else { Duration::MAX };
        tokio::select! {
            changed = changes.next() => match changed {
                Some(changed) => {
                    let error = changed.into_iter().find_map(Result::err);
                    if let Some(error) = error.as_ref().filter(|_| !unreadable) {
                        tracing::warn!(%error, "the namespaces of the trust roots cannot be watched now");
                    }
                    unreadable = error.is_some();
                    // Every pod is looked at for whatever changes, and pods change often.
                    tokio::time::sleep(PAUSE).await;
                }
                None => return,
            },
            _ = replacements.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
        let ready = async {
            tokio::try_join!(namespaces.wait_until_ready(), pods.wait_until_ready(), maps.wait_until_ready())
        };
        listed = listed || futures_util::FutureExt::now_or_never(ready).is_some();
        if !listed {
            continue;
        }
        // What workloads trust is recorded in these copies alone until the CA is read.
        let Some(signer) = authority.signer() else { continue };
        let stored = |root: CertificateDer<'static>| {
            let stored = !signer.former_roots.contains(&root);
            (root, stored)
        };
        let roots: Vec<_> = signer.roots.iter().cloned().map(stored).collect();
        let own = maps.state().into_iter().find(|map| map.metadata.namespace.as_deref() == Some(NAMESPACE));
        let recorded = own.map(|map| RootRecord::of(&map)).unwrap_or_default();
        let pem: String = signer.roots.iter().map(pem).collect();
        let copy = Copy { ours: true, roots: pem, record: None };
        let wanted = wanted(&namespaces, &pods);
        let existing = existing(&maps);
        let (mut failed, mut unwritten) = (false, false);
        let actions = actions(&wanted, &existing, &copy);
        refused.0.retain(|name, _| name == NAMESPACE || actions.iter().any(|(other, _)| other == name));
        for (namespace, action) in actions {
            if refused.waits(&namespace, Instant::now()) {
                (failed, unwritten) = (true, true);
                continue;
            }
            let done = match action {
                Action::Apply => apply(client, &namespace, &copy).await.map(|()| true),
                Action::Delete => delete_or_apply(client, &namespace, &copy, &existing).await,
            };
            if let Err(error) = &done
                && refused.add(&namespace, Instant::now())
            {
                tracing::warn!(%error, namespace, "the trust roots cannot be written; retrying");
            }
            unwritten |= done.is_err();
            failed |= !done.unwrap_or(false);
        }
        // A new root counts as published as soon as it is in our own copy.
        let delayed = unwritten && record.lacks(&recorded, &roots);
        if !is_delayed(&mut delayed_since, delayed, Instant::now()) {
            let mut next = record.clone();
            next.update(recorded, &roots, jiff::Timestamp::now());
            let own = Copy { record: Some(next.to_string()), ..copy };
            let done = match existing.get(NAMESPACE) == Some(&own) {
                true => Ok(()),
                false => apply(client, NAMESPACE, &own).await,
            };
            match done {
                Ok(()) => {
                    record = next;
                    refused.0.remove(NAMESPACE);
                }
                Err(error) => {
                    if refused.add(NAMESPACE, Instant::now()) {
                        tracing::warn!(%error, namespace = NAMESPACE, "the trust roots cannot be written; retrying");
                    }
                    failed = true;
                }
            }
        }
        repeat = failed;
    }
}

/// The namespaces that have refused their copy, with the time of the next attempt. Otherwise each change of a pod would be an attempt.
#[derive(Debug, Default)]
struct Refused(BTreeMap<String, Instant>);

impl Refused {
    fn waits(&self, namespace: &str, now: Instant) -> bool {
        self.0.get(namespace).is_some_and(|next| now < *next)
    }

    /// Records a failure. Returns whether it is the first one of the namespace.
    fn add(&mut self, namespace: &str, now: Instant) -> bool {
        self.0.insert(namespace.to_owned(), now + RETRY_INTERVAL).is_none()
    }
}

/// Returns whether a new root is not published yet because a copy cannot be written, for at most [`MAX_DELAY`]: one namespace that refuses
/// its copy must not prevent the replacement of a CA.
fn is_delayed(since: &mut Option<Instant>, delayed: bool, now: Instant) -> bool {
    if !delayed {
        *since = None;
    }
    delayed && now < *since.get_or_insert(now) + MAX_DELAY
}

/// The ConfigMap of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Copy {
    /// Whether it has our label.
    ours: bool,
    roots: String,
    /// In our own namespace.
    record: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Apply,
    Delete,
}

/// Returns the other namespaces whose pods get sidecars.
fn wanted(
    namespaces: &Store<PartialObjectMeta<Namespace>>,
    pods: &Store<PartialObjectMeta<Pod>>,
) -> BTreeSet<String> {
    let namespaces = namespaces.state();
    let lasting = namespaces.iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
    let lasting: BTreeMap<_, _> = lasting
        .map(|namespace| {
            (namespace.name_any(), namespace.labels().get(INJECT.0).is_some_and(|value| value == INJECT.1))
        })
        .collect();
    let pods = pods.state();
    let by_pod = pods.iter().filter(|pod| mounts_roots(pod)).filter_map(|pod| pod.namespace());
    let by_pod: BTreeSet<_> = by_pod.filter(|namespace| lasting.contains_key(namespace)).collect();
    let by_label = lasting.into_iter().filter(|(_, opted_in)| *opted_in).map(|(name, _)| name);
    by_label.chain(by_pod).filter(|namespace| namespace != NAMESPACE).collect()
}

/// Returns true if a pod asks for a sidecar, or has one that `outrigger inject` added.
fn mounts_roots(pod: &PartialObjectMeta<Pod>) -> bool {
    pod.labels().get(INJECT.0).is_some_and(|value| value == INJECT.1)
        || pod.annotations().contains_key(SIDECAR_ANNOTATION)
}

/// Removes what is not needed of the metadata of a pod: a cluster has many.
fn strip(pod: &mut PartialObjectMeta<Pod>) {
    pod.managed_fields_mut().clear();
    pod.labels_mut().retain(|name, _| name == INJECT.0);
    pod.annotations_mut().retain(|name, _| name == SIDECAR_ANNOTATION);
}

/// Returns the ConfigMaps by namespace.
fn existing(maps: &Store<ConfigMap>) -> BTreeMap<String, Copy> {
    maps.state().iter().map(|map| (map.namespace().unwrap_or_default(), Copy::of(map))).collect()
}

impl Copy {
    /// Reads a copy. Anyone may annotate that of another namespace, and so its record is ignored.
    fn of(map: &ConfigMap) -> Self {
        let ours = map.labels().get(MANAGED_BY.0).is_some_and(|value| value == MANAGED_BY.1);
        let roots = map.data.as_ref().and_then(|data| data.get(ROOTS_KEY)).cloned().unwrap_or_default();
        let own = map.metadata.namespace.as_deref() == Some(NAMESPACE);
        let record = map.annotations().get(RECORD).filter(|_| own).cloned();
        Self { ours, roots, record }
    }
}

/// Returns what to do in each namespace but our own. `copy` is what each should have.
fn actions(
    wanted: &BTreeSet<String>,
    existing: &BTreeMap<String, Copy>,
    copy: &Copy,
) -> Vec<(String, Action)> {
    let differs = |namespace: &&String| existing.get(*namespace) != Some(copy);
    let apply = wanted.iter().filter(differs).map(|namespace| (namespace.clone(), Action::Apply));
    let unwanted = existing
        .iter()
        .filter(|(namespace, copy)| copy.ours && !wanted.contains(*namespace) && *namespace != NAMESPACE);
    let delete = unwanted.map(|(namespace, _)| (namespace.clone(), Action::Delete));
    apply.chain(delete).collect()
}

async fn apply(client: &Client, namespace: &str, copy: &Copy) -> Result<(), kube::Error> {
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(CONFIG_MAP.into()),
            labels: Some([(MANAGED_BY.0.into(), MANAGED_BY.1.into())].into()),
            annotations: copy.record.clone().map(|record| [(RECORD.into(), record)].into()),
            ..ObjectMeta::default()
        },
        data: Some([(ROOTS_KEY.into(), copy.roots.clone())].into()),
        ..ConfigMap::default()
    };
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&map));
    match maps.patch(CONFIG_MAP, &params, &patch).await {
        // One that somebody has made immutable can only be replaced.
        Err(kube::Error::Api(status)) if status.code == 422 => {
            maps.delete(CONFIG_MAP, &DeleteParams::default()).await?;
            maps.patch(CONFIG_MAP, &params, &patch).await?;
        }
        written => drop(written?),
    }
    tracing::info!(namespace, "wrote the trust roots");
    Ok(())
}

/// Deletes a copy, or keeps it current while a pod with a sidecar mounts it. Returns whether it is deleted.
async fn delete_or_apply(
    client: &Client,
    namespace: &str,
    copy: &Copy,
    existing: &BTreeMap<String, Copy>,
) -> Result<bool, kube::Error> {
    let deleted = delete_unused(client, namespace).await?;
    if !deleted && existing.get(namespace).is_some_and(|existing| existing != copy) {
        apply(client, namespace, copy).await?;
    }
    Ok(deleted)
}

/// Deletes a copy unless a pod with a sidecar still mounts it. Returns whether it is deleted.
async fn delete_unused(client: &Client, namespace: &str) -> Result<bool, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods.list_metadata(&ListParams::default()).await?;
    if pods.items.iter().any(|pod| pod.annotations().contains_key(SIDECAR_ANNOTATION)) {
        return Ok(false);
    }
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    match maps.delete(CONFIG_MAP, &DeleteParams::default()).await {
        Ok(_) => tracing::info!(namespace, "deleted the trust roots of a namespace without sidecars"),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error),
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_mounts_the_roots_if_it_asks_for_a_sidecar_or_has_one() {
        let pod = |metadata: serde_json::Value| {
            let mut pod: PartialObjectMeta<Pod> =
                serde_json::from_value(serde_json::json!({ "metadata": metadata })).unwrap();
            strip(&mut pod);
            mounts_roots(&pod)
        };
        assert!(pod(serde_json::json!({"labels": {"outrigger.dev/inject": "enabled", "app": "cart"}})));
        assert!(pod(serde_json::json!({"annotations": {"outrigger.dev/status": "{}", "other": "x"}})));
        assert!(!pod(serde_json::json!({"labels": {"outrigger.dev/inject": "disabled", "app": "cart"}})));
    }

    #[test]
    fn copies_are_written_where_they_differ_and_deleted_where_no_namespace_wants_them() {
        let wanted = ["new", "same", "changed", "foreign"].map(String::from).into();
        let copy = |ours: bool, roots: &str| Copy { ours, roots: roots.to_owned(), record: None };
        let existing = [
            ("same", copy(true, "roots")),
            ("changed", copy(true, "other")),
            ("foreign", copy(false, "roots")),
            ("opted-out", copy(true, "roots")),
            ("unrelated", copy(false, "roots")),
            // Written when all others have the roots.
            (NAMESPACE, copy(true, "other")),
        ];
        let existing = existing.map(|(namespace, copy)| (namespace.to_owned(), copy)).into();
        let expected = [
            ("changed", Action::Apply),
            ("foreign", Action::Apply),
            ("new", Action::Apply),
            ("opted-out", Action::Delete),
        ];
        let expected = expected.map(|(namespace, action)| (namespace.to_owned(), action));
        assert_eq!(actions(&wanted, &existing, &copy(true, "roots")), expected);
    }

    #[test]
    fn the_record_in_a_copy_of_another_namespace_is_ignored() {
        let copy = |namespace: &str| {
            let metadata = serde_json::json!({"namespace": namespace, "annotations": {RECORD: "{}"}});
            Copy::of(&serde_json::from_value(serde_json::json!({ "metadata": metadata })).unwrap()).record
        };
        assert_eq!((copy("shop"), copy(NAMESPACE)), (None, Some("{}".to_owned())));
    }

    #[test]
    fn a_namespace_that_refuses_its_copy_is_logged_once_and_waits() {
        let (mut refused, now) = (Refused::default(), Instant::now());
        assert!(!refused.waits("shop", now) && refused.add("shop", now));
        assert!(refused.waits("shop", now) && !refused.waits("other", now));
        assert!(!refused.waits("shop", now + RETRY_INTERVAL) && !refused.add("shop", now + RETRY_INTERVAL));
        assert!(refused.waits("shop", now + RETRY_INTERVAL));
    }

    #[test]
    fn a_copy_that_cannot_be_written_delays_a_new_root_for_a_limited_time() {
        let (mut since, start) = (None, Instant::now());
        assert!(is_delayed(&mut since, true, start));
        assert!(is_delayed(&mut since, true, start + MAX_DELAY / 2));
        assert!(!is_delayed(&mut since, true, start + MAX_DELAY));
        assert!(!is_delayed(&mut since, false, start + MAX_DELAY));
        assert!(is_delayed(&mut since, true, start + MAX_DELAY), "another root");
    }
}
