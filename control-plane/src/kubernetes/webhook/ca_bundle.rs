//! Keeps the CA bundle in the MutatingWebhookConfiguration equal to the trust roots, so that the API server trusts the webhook.
//!
//! Every replica does it, because every replica serves the webhook, and all write the same. The configuration may be created, or
//! replaced without a bundle, at any time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::ca::authority::Authority;
use crate::ca::service::pem;

/// The name of the configuration.
const NAME: &str = "outrigger-injector";
/// Delay before a failed write is repeated.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);
/// The pause after a write. Each further write that follows a pause soon doubles it, up to the maximum: replicas whose roots differ
/// write over each other.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Maintains the bundle for as long as it is polled.
pub(super) async fn maintain(client: Client, authority: Arc<Authority>) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client);
    let mut replaced = authority.subscribe();
    let mut current: Option<MutatingWebhookConfiguration> = None;
    let config = watcher::Config::default().fields(&format!("metadata.name={NAME}")).timeout(60);
    let mut events = std::pin::pin!(watcher(api.clone(), config).default_backoff());
    let mut failed = false;
    let (mut pause, mut paused) = (Pause::default(), None);
    loop {
        let retry = if failed { RETRY_INTERVAL } else { paused.unwrap_or(Duration::MAX) };
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Apply(object) | Event::InitApply(object))) => current = Some(object),
                Some(Ok(Event::Delete(_))) => {
                    current = None;
                    tracing::warn!(name = NAME, "the MutatingWebhookConfiguration is deleted: no pod gets a sidecar");
                }
                Some(Ok(Event::Init | Event::InitDone)) => continue,
                Some(Err(error)) => {
                    tracing::warn!(%error, name = NAME, "the MutatingWebhookConfiguration cannot be read now");
                    continue;
                }
                None => return,
            },
            changed = replaced.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(retry) => {}
        }
        failed = false;
        paused = None;
        let bundle: String = authority.roots().values().flatten().map(pem).collect();
        if let Some(object) = &current
            && let Some(patch) = patch(object, bundle.as_bytes())
        {
            paused = pause.rest(Instant::now());
            if paused.is_some() {
                continue;
            }
            let patch = Patch::<()>::Json(patch);
            match api.patch(NAME, &PatchParams::default(), &patch).await {
                Ok(object) => {
                    tracing::info!(name = NAME, "the CA bundle of the webhook is written");
                    pause.begin(Instant::now());
                    current = Some(object);
                }
                // After a conflict, the event of the new version comes first.
                Err(error) => {
                    failed = true;
                    tracing::warn!(%error, name = NAME, "the CA bundle of the webhook cannot be written")
                }
            }
        }
    }
}

/// The pause between two writes.
#[derive(Default)]
struct Pause {
    length: Duration,
    until: Option<Instant>,
}

impl Pause {
    /// Returns how long the pause still lasts.
    fn rest(&self, now: Instant) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(now)).filter(|rest| !rest.is_zero())
    }

    /// Begins the pause after a write.
    fn begin(&mut self, now: Instant) {
        let soon = self.until.is_some_and(|until| now < until + MAX_PAUSE);
        self.length = if soon { (self.length * 2).min(MAX_PAUSE) } else { PAUSE };
        self.until = Some(now + self.length);
    }
}

/// Returns what writes the bundle into every webhook of the configuration. Returns None if all have it.
fn patch(configuration: &MutatingWebhookConfiguration, bundle: &[u8]) -> Option<json_patch::Patch> {
    let webhooks = configuration.webhooks.iter().flatten().enumerate();
    let different = |client: Option<&ByteString>| client.is_none_or(|known| known.0 != bundle);
    let outdated = webhooks.filter(|(_, webhook)| different(webhook.client_config.ca_bundle.as_ref()));
    let add = |index| {
        let value = serde_json::to_value(ByteString(bundle.to_vec())).unwrap_or_default();
        json!({ "op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": value })
    };
    let mut operations: Vec<Value> = outdated.map(|(index, _)| add(index)).collect();
    if operations.is_empty() || bundle.is_empty() {
        return None;
    }
    // The list has no other order or length than the one that was read.
    let version = configuration.resource_version();
    operations.insert(0, json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version }));
    serde_json::from_value(Value::Array(operations)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundles: [Option<&str>; 2]) -> Value {
        let webhook = |bundle: Option<&str>| {
            let value = bundle.map(|text| serde_json::to_value(ByteString(text.into())).unwrap());
            json!({
                "name": "x", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": value.map_or_else(|| json!({}), |value| json!({ "caBundle": value })),
            })
        };
        json!({"metadata": {"name": NAME, "resourceVersion": "7"}, "webhooks": bundles.map(webhook)})
    }

    #[test]
    fn every_webhook_without_the_bundle_gets_it_and_only_in_the_version_that_was_read() {
        let mut before = configuration([Some("old"), None]);
        let object: MutatingWebhookConfiguration = serde_json::from_value(before.clone()).unwrap();
        let operations = patch(&object, b"new").unwrap();
        json_patch::patch(&mut before, &operations).unwrap();
        assert_eq!(before, configuration([Some("new"), Some("new")]));
        let mut changed = configuration([None, None]);
        changed["metadata"]["resourceVersion"] = json!("8");
        assert!(json_patch::patch(&mut changed, &operations).is_err());
    }

    #[test]
    fn writes_that_follow_each_other_have_a_growing_pause() {
        let (mut pause, mut now) = (Pause::default(), Instant::now());
        assert_eq!(pause.rest(now), None);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            pause.begin(now);
            let length = Duration::from_secs(seconds);
            assert_eq!((pause.rest(now), pause.rest(now + length)), (Some(length), None));
            now += length;
        }
        pause.begin(now + MAX_PAUSE);
        assert_eq!(pause.rest(now + MAX_PAUSE), Some(PAUSE));
    }

    #[test]
    fn an_equal_bundle_and_an_empty_one_are_not_written() {
        let object = |bundles| serde_json::from_value(configuration(bundles)).unwrap();
        assert!(patch(&object([Some("same"), Some("same")]), b"same").is_none());
        assert!(patch(&object([Some("old"), None]), b"").is_none());
    }
}
