//! Keeps the last good versions of routes whose current version is refused, so that a replica that restarts falls back to them too.
//!
//! Gateway API allows the fallback only to controllers that can restore such a version. The leader writes one ConfigMap for each
//! route that falls back, and deletes it when the route is accepted or gone: not while routes of its kind cannot be listed. Each replica reads
//! them once, before it reads objects. If the API server does not accept a write, it is repeated; meanwhile the version is in memory alone.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{FIELD_MANAGER, RouteObjects};
use crate::kubernetes::NAMESPACE;
use crate::model::resource::Kind;

/// The label of the ConfigMaps.
const LABEL: &str = "outrigger.dev/last-good";
/// Their names begin with this and end with the UID of the route.
const PREFIX: &str = "outrigger-last-good-";
/// The key of the object.
const KEY: &str = "object.json";
/// Changes within this time are saved together.
const COALESCE: Duration = Duration::from_millis(500);
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// Maximum duration of a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a new leader deletes nothing: what its watches report may be older than what its predecessor has written.
const SETTLE: Duration = Duration::from_secs(120);

/// Last good versions by the UIDs of their routes.
pub(crate) type LastGood = HashMap<String, Value>;

/// Reads the saved versions. Attempts are repeated until they succeed: an API server that has just started refuses everyone.
pub(crate) async fn read(client: Client) -> LastGood {
    let maps = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    let mut failed = false;
    loop {
        match within(maps.list(&ListParams::default().labels(LABEL))).await {
            Ok(list) => return list.items.iter().filter_map(decode).collect(),
            Err(error) if !failed => {
                tracing::warn!(error, "the last good versions of routes cannot be read: retrying");
                failed = true;
            }
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}

/// Saves the versions while this replica leads. Runs until the senders are dropped.
pub(super) async fn maintain(
    client: Client,
    mut routes: watch::Receiver<RouteObjects>,
    mut leading: watch::Receiver<bool>,
) {
    let maps = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    let mut failed = false;
    while leading.wait_for(|leading| *leading).await.is_ok() {
        let settled = sleep(SETTLE);
        tokio::pin!(settled);
        // Another replica may have written meanwhile.
        let mut saved = None;
        while *leading.borrow() {
            let wanted = Wanted::of(&routes.borrow_and_update(), settled.is_elapsed());
            let error = if saved.as_ref() == Some(&wanted) { None } else { save(&maps, &wanted).await.err() };
            if let Some(error) = error.as_ref().filter(|_| !failed) {
                tracing::warn!(error, "the last good versions of routes are not saved: retrying");
            }
            failed = error.is_some();
            saved = error.is_none().then_some(wanted);
            let open = tokio::select! {
                changed = routes.changed() => changed.is_ok(),
                changed = leading.changed() => changed.is_ok(),
                () = &mut settled, if !settled.is_elapsed() => true,
                () = sleep(RETRY), if failed => true,
            };
            if !open {
                return;
            }
            sleep(COALESCE).await;
        }
    }
}

/// What is to be saved.
#[derive(Debug, Default, PartialEq)]
struct Wanted {
    /// The routes that are refused, by UID, with the versions that they fall back to. One without such a version may have one that
    /// another replica has saved.
    refused: HashMap<String, Option<Arc<str>>>,
    /// The kinds of which every other route is accepted or gone.
    known: BTreeSet<Kind>,
}

impl Wanted {
    /// `settled` is whether this replica has led for long enough to delete versions.
    fn of(routes: &RouteObjects, settled: bool) -> Self {
        let refused = routes.all.values().filter_map(|route| route.refused());
        let refused = refused.map(|(uid, last_good)| (uid.to_owned(), last_good.cloned())).collect();
        Self { refused, known: if settled { routes.listed.clone() } else { BTreeSet::new() } }
    }

    /// Returns true if a saved version is no longer needed.
    fn is_obsolete(&self, map: &ConfigMap) -> bool {
        decode(map).is_some_and(|(uid, object)| {
            !self.refused.contains_key(&uid) && self.known.iter().any(|kind| object["kind"] == kind.name())
        })
    }
}

/// Writes and deletes what differs. A version that the API server refuses, such as one that is too long, does not prevent the others: the
/// first error is returned when they are written.
async fn save(maps: &Api<ConfigMap>, wanted: &Wanted) -> Result<(), String> {
    let saved = within(maps.list(&ListParams::default().labels(LABEL))).await?.items;
    let mut result = Ok(());
    for map in saved.iter().filter(|map| wanted.is_obsolete(map)) {
        let name = map.metadata.name.as_deref().unwrap_or_default();
        // Another leader may have written it meanwhile.
        let version = map.metadata.resource_version.clone();
        let preconditions = Preconditions { resource_version: version, uid: None };
        let params = DeleteParams::default().preconditions(preconditions);
        let deleted = async { maps.delete(name, &params).await.map(drop).or_else(ignore_missing) };
        result = result.and(within(deleted).await);
    }
    for (uid, text) in wanted.refused.iter().filter_map(|(uid, text)| Some((uid, text.as_ref()?))) {
        let map = encode(uid, text);
        if !saved.iter().any(|old| old.metadata.name == map.metadata.name && old.data == map.data) {
            let name = map.metadata.name.clone().unwrap_or_default();
            let (params, patch) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(map));
            result = result.and(within(maps.patch(&name, &params, &patch)).await.map(drop));
        }
    }
    result
}

async fn within<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match timeout(TIMEOUT, request).await {
        Ok(answered) => answered.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no response within {TIMEOUT:?}")),
    }
}

fn ignore_missing(error: kube::Error) -> Result<(), kube::Error> {
    match error {
        kube::Error::Api(status) if status.code == 404 => Ok(()),
        error => Err(error),
    }
}

fn encode(uid: &str, text: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(format!("{PREFIX}{uid}")),
            labels: Some([(LABEL.into(), String::new())].into()),
            ..ObjectMeta::default()
        },
        data: Some([(KEY.into(), text.into())].into()),
        ..ConfigMap::default()
    }
}

/// Returns the UID and the object. Returns None for a ConfigMap that is not of this form.
fn decode(map: &ConfigMap) -> Option<(String, Value)> {
    let uid = map.metadata.name.as_deref()?.strip_prefix(PREFIX)?;
    let object: Value = serde_json::from_str(map.data.as_ref()?.get(KEY)?).ok()?;
    Some((uid.to_owned(), object))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_saved_is_read_again_and_what_is_not_ours_is_skipped() {
        let object = json!({"kind": "HTTPRoute", "spec": {}});
        let map = encode("u1", &object.to_string());
        assert_eq!(decode(&map), Some(("u1".into(), object)));
        for (name, data) in [("other", "{}"), ("outrigger-last-good-u2", "{")] {
            let mut map = encode("u", data);
            map.metadata.name = Some(name.into());
            assert_eq!(decode(&map), None, "{name}");
        }
    }

    #[test]
    fn a_version_is_obsolete_only_if_its_route_is_known_to_be_accepted_or_gone() {
        let map = |uid: &str| encode(uid, &json!({"kind": "HTTPRoute"}).to_string());
        let wanted = |uid: &str, known: &[Kind]| Wanted {
            refused: [(uid.to_owned(), None)].into(),
            known: known.iter().copied().collect(),
        };
        assert!(wanted("other", &[Kind::HttpRoute]).is_obsolete(&map("u")));
        assert!(!wanted("u", &[Kind::HttpRoute]).is_obsolete(&map("u")), "still refused");
        assert!(!wanted("other", &[Kind::GrpcRoute]).is_obsolete(&map("u")), "HTTPRoutes cannot be listed");
        let listed = RouteObjects { listed: [Kind::HttpRoute].into(), ..RouteObjects::default() };
        assert!(!Wanted::of(&listed, false).is_obsolete(&map("u")), "the leader is new");
        assert!(Wanted::of(&listed, true).is_obsolete(&map("u")));
    }
}
