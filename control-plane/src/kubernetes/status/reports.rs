//! What the proxies of all replicas reject.
//!
//! A proxy is connected to one replica, and another one may be the leader, which alone writes statuses. So each replica reports
//! what its own proxies reject in a ConfigMap, and the leader reads all of them. A report is owned by the replica's pod, and so
//! removed with it. There are none in a mesh without rejections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::rejections::{self, by_route};
use super::{FIELD_MANAGER, StatusInputs};
use crate::kubernetes::NAMESPACE;
use crate::model::resource::ResourceId;

/// What the status of each route says of which a proxy rejects configuration.
pub(super) type Rejected = BTreeMap<ResourceId, Arc<str>>;

/// How often rejections are read.
const INTERVAL: Duration = Duration::from_secs(2);
/// Maximum duration of a round.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of routes in a report. A ConfigMap has at most 1 MiB, a message about 1 KiB.
const MAX_ROUTES: usize = 500;
/// The label of reports.
const LABEL: &str = "outrigger.dev/rejections";

/// Reports what this replica's proxies reject, and publishes what those of all replicas reject while this one leads. Runs until
/// the receivers are dropped.
pub(super) async fn exchange(
    client: Client,
    inputs: StatusInputs,
    leading: watch::Receiver<bool>,
    publish: watch::Sender<Rejected>,
) {
    let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    let mut reported = None;
    let mut failed = false;
    while !publish.is_closed() {
        let own = read_own(&inputs).await;
        let round = round(&client, &maps, &own, &mut reported, *leading.borrow());
        let (all, error) = match timeout(TIMEOUT, round).await {
            Ok(Ok(all)) => (all, None),
            Ok(Err(error)) => (own, Some(error.to_string())),
            Err(_) => (own, Some(format!("no response within {TIMEOUT:?}"))),
        };
        if let Some(error) = error.as_ref().filter(|_| !failed) {
            tracing::warn!(error, "the rejections of other replicas' proxies are not known");
        }
        failed = error.is_some();
        publish.send_if_modified(|old| std::mem::replace(old, all.clone()) != all);
        sleep(INTERVAL).await;
    }
}

/// Writes the own report if it changed, and returns the rejections of all replicas.
async fn round(
    client: &Client,
    maps: &Api<ConfigMap>,
    own: &Rejected,
    reported: &mut Option<Rejected>,
    leads: bool,
) -> Result<Rejected, kube::Error> {
    if reported.as_ref() != Some(own) {
        report(client, maps, own).await?;
        *reported = Some(own.clone());
    }
    let mut all = own.clone();
    if leads {
        let others = maps.list(&ListParams::default().labels(LABEL)).await?;
        for (id, message) in others.into_iter().flat_map(decode) {
            all.entry(id).or_insert(message);
        }
    }
    Ok(all)
}

/// Writes the own report, or deletes it if it is empty.
async fn report(client: &Client, maps: &Api<ConfigMap>, own: &Rejected) -> Result<(), kube::Error> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let pod = host.trim();
    let name = format!("outrigger-rejections-{pod}");
    if own.is_empty() {
        return match maps.delete(&name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            deleted => deleted.map(drop),
        };
    }
    // Outside of a pod there is no owner.
    let owner = Api::<Pod>::namespaced(client.clone(), NAMESPACE).get_opt(pod).await?;
    let params = PatchParams::apply(FIELD_MANAGER).force();
    maps.patch(&name, &params, &Patch::Apply(encode(&name, owner.as_ref(), own))).await.map(drop)
}

fn encode(name: &str, owner: Option<&Pod>, rejected: &Rejected) -> ConfigMap {
    let owner = owner.map(|pod| OwnerReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    });
    // A key of a ConfigMap has no slash, and a name has no underscore.
    let key = |id: &ResourceId| format!("{}_{}_{}", id.kind, id.namespace, id.name);
    let data = rejected.iter().take(MAX_ROUTES).map(|(id, message)| (key(id), message.to_string()));
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some([(LABEL.into(), String::new())].into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(data.collect()),
        ..ConfigMap::default()
    }
}

fn decode(map: ConfigMap) -> impl Iterator<Item = (ResourceId, Arc<str>)> {
    let data = map.data.unwrap_or_default().into_iter();
    data.filter_map(|(key, message)| Some((rejections::resource_id(&key.replace('_', "/"))?, message.into())))
}

/// Returns what the proxies of this replica reject.
async fn read_own(inputs: &StatusInputs) -> Rejected {
    let StatusInputs { xds, cluster_domain, view, .. } = inputs;
    if xds.count().refused == 0 {
        return Rejected::new();
    }
    let (xds, mesh, domain) = (xds.clone(), Arc::clone(&view.borrow().mesh), Arc::clone(cluster_domain));
    // It may wait for translations.
    let read = move || by_route(&xds.rejections(), &mesh, &domain);
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::resource::Kind;

    #[test]
    fn a_report_is_read_back_and_ends_with_its_pod() {
        let id =
            |name: &str| ResourceId { kind: Kind::GrpcRoute, namespace: "shop".into(), name: name.into() };
        let rejected: Rejected = [(id("a.b-c"), "web-1: no".into()), (id("d"), "web-2: no".into())].into();
        let metadata =
            ObjectMeta { name: Some("cp-1".into()), uid: Some("u".into()), ..ObjectMeta::default() };
        let map = encode("r", Some(&Pod { metadata, ..Pod::default() }), &rejected);
        let owner = &map.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.uid.as_str()), ("Pod", "cp-1", "u"));
        assert_eq!(decode(map).collect::<Rejected>(), rejected);
    }

    #[test]
    fn a_report_is_bounded() {
        let id = |n: usize| ResourceId {
            kind: Kind::HttpRoute,
            namespace: "a".into(),
            name: n.to_string().into(),
        };
        let many: Rejected = (0..2 * MAX_ROUTES).map(|n| (id(n), "x".into())).collect();
        assert_eq!(encode("r", None, &many).data.unwrap().len(), MAX_ROUTES);
    }
}
