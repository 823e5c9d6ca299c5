//! Keeps the last good versions of routes whose current version is refused, so that a replica that restarts falls back to them too.
//!
//! Gateway API allows the fallback only to controllers that can restore such a version. The leader writes one ConfigMap for each
//! route that falls back, and deletes it when the route is accepted or gone. Each replica reads them once, before it reads
//! objects. If the API server does not accept a write, it is repeated; meanwhile the version is in memory alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{FIELD_MANAGER, RouteObjects};
use crate::kubernetes::NAMESPACE;

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
/// Maximum duration of a round.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Last good versions by the UIDs of their routes.
pub(crate) type LastGood = HashMap<String, Value>;

/// Reads the saved versions. Attempts are repeated until the API server answers; a refusal is logged, and there are none then.
pub(crate) async fn read(client: Client) -> LastGood {
    let maps = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    loop {
        match timeout(TIMEOUT, maps.list(&ListParams::default().labels(LABEL))).await {
            Ok(Ok(list)) => return list.items.iter().filter_map(decode).collect(),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => {
                tracing::warn!(reason = status.message, "the last good versions of routes are not known");
                return LastGood::new();
            }
            Ok(Err(_)) | Err(_) => sleep(RETRY).await,
        }
    }
}

/// Saves the versions while this replica leads. Runs until the senders are dropped.
pub(super) async fn maintain(
    client: Client,
    mut routes: watch::Receiver<RouteObjects>,
    mut leading: watch::Receiver<bool>,
) {
    let maps = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    let (mut saved, mut failed) = (None, false);
    loop {
        if leading.wait_for(|leading| *leading).await.is_err() {
            return;
        }
        let wanted = Wanted::of(&routes.borrow_and_update());
        let error = if saved.as_ref() == Some(&wanted) {
            None
        } else {
            match timeout(TIMEOUT, save(&maps, &wanted)).await {
                Ok(saved) => saved.err().map(|error| error.to_string()),
                Err(_) => Some(format!("no response within {TIMEOUT:?}")),
            }
        };
        if let Some(error) = error.as_ref().filter(|_| !failed) {
            tracing::warn!(error, "the last good versions of routes are not saved: trying again");
        }
        failed = error.is_some();
        saved = error.is_none().then_some(wanted);
        let open = tokio::select! {
            changed = routes.changed() => changed.is_ok(),
            changed = leading.changed() => {
                // Another replica may have written meanwhile.
                saved = None;
                changed.is_ok()
            }
            () = sleep(RETRY), if failed => true,
        };
        if !open {
            return;
        }
        sleep(COALESCE).await;
    }
}

/// The routes that are refused, by UID, with the versions that they fall back to. One without such a version may have one that
/// another replica has saved.
#[derive(Debug, Default, PartialEq)]
struct Wanted(HashMap<String, Option<Arc<str>>>);

impl Wanted {
    fn of(routes: &RouteObjects) -> Self {
        let refused = routes.values().filter_map(|route| route.refused());
        Self(refused.map(|(uid, last_good)| (uid.to_owned(), last_good.cloned())).collect())
    }
}

async fn save(maps: &Api<ConfigMap>, Wanted(wanted): &Wanted) -> Result<(), kube::Error> {
    let saved = maps.list(&ListParams::default().labels(LABEL)).await?.items;
    for map in &saved {
        let name = map.metadata.name.as_deref().unwrap_or_default();
        if name.strip_prefix(PREFIX).is_some_and(|uid| !wanted.contains_key(uid)) {
            maps.delete(name, &DeleteParams::default()).await.map(drop).or_else(ignore_missing)?;
        }
    }
    for (uid, text) in wanted.iter().filter_map(|(uid, text)| Some((uid, text.as_ref()?))) {
        let map = encode(uid, text);
        if !saved.iter().any(|old| old.metadata.name == map.metadata.name && old.data == map.data) {
            let name = map.metadata.name.clone().unwrap_or_default();
            maps.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(map)).await?;
        }
    }
    Ok(())
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
}
