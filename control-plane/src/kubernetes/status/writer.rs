//! Writes the status of routes and policies to the API server, on the replica that holds the Lease.
//!
//! A status is written only if it differs from the one that the object has. The write names the version of the object that it was
//! computed from, so that it never overwrites what another controller wrote meanwhile: the object's next version is judged
//! again. While the API server does not accept writes, attempts are repeated, and nothing else waits for them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::reports::Rejected;
use super::route::RouteObject;
use super::{FIELD_MANAGER, StatusInputs};
use crate::kubernetes::discovery::{WatchedKind, discover};
use crate::model::resource::{Kind, ResourceId};
use crate::model::status::RouteStatus;

/// Changes within this time are written together.
const COALESCE: Duration = Duration::from_millis(200);
/// How often everything is looked at again, without a change.
const IDLE: Duration = Duration::from_secs(60);
/// The pause after a failed write.
pub(super) const RETRY: Duration = Duration::from_secs(5);
/// Maximum duration of a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of writes after which changes are read again.
const MAX_WRITES: usize = 200;
/// The pause after each write: at most 200 a second.
const PAUSE: Duration = Duration::from_millis(5);

/// The writer.
pub(super) struct RouteStatusWriter {
    client: Client,
    inputs: StatusInputs,
    rejected: watch::Receiver<Rejected>,
    /// True while this replica holds the Lease.
    leading: watch::Receiver<bool>,
    /// The kinds as the API server has them.
    kinds: HashMap<Kind, ApiResource>,
    /// When failed writes are repeated.
    retries: Retries,
}

/// What the status of a route was computed from.
struct Inputs {
    route: Arc<RouteObject>,
    model: Option<Arc<RouteStatus>>,
    rejected: Option<Arc<str>>,
}

impl Inputs {
    fn same(&self, other: &Self) -> bool {
        let same_model = match (&self.model, &other.model) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        same_model && Arc::ptr_eq(&self.route, &other.route) && self.rejected == other.rejected
    }
}

impl RouteStatusWriter {
    pub(super) fn new(
        client: Client,
        inputs: StatusInputs,
        rejected: watch::Receiver<Rejected>,
        leading: watch::Receiver<bool>,
    ) -> Self {
        Self { client, inputs, rejected, leading, kinds: HashMap::new(), retries: Retries::default() }
    }

    /// Runs until one of the channels is closed.
    pub(super) async fn run(mut self) {
        let mut judged = BTreeMap::new();
        while self.leading.wait_for(|leading| *leading).await.is_ok() {
            let pause = self.pass(&mut judged).await;
            let open = tokio::select! {
                changed = self.inputs.routes.changed() => changed.is_ok(),
                changed = self.inputs.view.changed() => changed.is_ok(),
                changed = self.rejected.changed() => changed.is_ok(),
                changed = self.leading.changed() => changed.is_ok(),
                () = sleep(pause) => true,
            };
            if !open {
                return;
            }
            sleep(COALESCE).await;
        }
    }

    /// Judges every route of which something changed, and writes the statuses that differ. Returns the time until the next pass.
    async fn pass(&mut self, judged: &mut BTreeMap<ResourceId, Inputs>) -> Duration {
        let routes = self.inputs.routes.borrow_and_update().all.clone();
        let view = self.inputs.view.borrow_and_update().clone();
        let rejected = self.rejected.borrow_and_update().clone();
        judged.retain(|id, _| routes.contains_key(id));
        self.retries.0.retain(|id, _| routes.contains_key(id));
        let (mut writes, mut pause) = (0, IDLE);
        for (id, route) in &routes {
            let inputs = Inputs {
                route: Arc::clone(route),
                model: view.statuses.get(id).cloned(),
                rejected: rejected.get(id).cloned(),
            };
            if judged.get(id).is_some_and(|old| old.same(&inputs)) {
                continue;
            }
            let next =
                route.next_parents(inputs.model.as_deref(), inputs.rejected.as_deref(), Timestamp::now());
            if let Some(parents) = next {
                if let Some(rest) = self.retries.rest(id, Instant::now()) {
                    pause = pause.min(rest);
                    continue;
                }
                if writes == MAX_WRITES || !*self.leading.borrow() {
                    return Duration::ZERO;
                }
                writes += 1;
                let written = self.write(id, route, parents).await;
                sleep(PAUSE).await;
                if let Err(error) = written {
                    // The other routes do not wait for this one.
                    if self.retries.failed(id, Instant::now()) {
                        tracing::warn!(resource = %id, error, "cannot write a status: retrying");
                    }
                    pause = pause.min(RETRY);
                    continue;
                }
            }
            self.retries.0.remove(id);
            judged.insert(id.clone(), inputs);
        }
        pause
    }

    /// Writes `status.parents` or `status.ancestors`. Returns an error if the write must be repeated.
    async fn write(
        &mut self,
        id: &ResourceId,
        route: &RouteObject,
        parents: Vec<Value>,
    ) -> Result<(), String> {
        let patch = json!({
            "metadata": {"resourceVersion": route.resource_version},
            "status": {route.shape.list: parents},
        });
        let resource = match self.kinds.get(&id.kind) {
            Some(resource) => resource.clone(),
            None => {
                let found = discover(&self.client, WatchedKind::of(id.kind))
                    .await
                    .map_err(|error| error.to_string())?;
                let found = found.ok_or_else(|| format!("the API server does not have {}", id.kind))?;
                self.kinds.entry(id.kind).or_insert(found).clone()
            }
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &id.namespace, &resource);
        match patch_status(&api, &id.name, patch).await? {
            // Another version of the object exists, or it is gone: the reflector reports it.
            Written::Outdated => drop(self.kinds.remove(&id.kind)),
            Written::Yes => tracing::debug!(resource = %id, "status written"),
            Written::Refused(reason) => {
                tracing::error!(resource = %id, reason, "the API server refuses a status")
            }
        }
        Ok(())
    }
}

/// The routes of which the last write failed, with the time of the next attempt. They do not take the turns of others.
#[derive(Debug, Default)]
struct Retries(BTreeMap<ResourceId, Instant>);

impl Retries {
    /// Returns how long a route must wait, if it must.
    fn rest(&self, id: &ResourceId, now: Instant) -> Option<Duration> {
        let rest = self.0.get(id)?.saturating_duration_since(now);
        (!rest.is_zero()).then_some(rest)
    }

    /// Records a failure. Returns whether it is the first one since the last write that succeeded.
    fn failed(&mut self, id: &ResourceId, now: Instant) -> bool {
        self.0.insert(id.clone(), now + RETRY).is_none()
    }
}

/// The outcome of a write that is not repeated.
pub(super) enum Written {
    Yes,
    /// The object has another version, or is gone.
    Outdated,
    /// The API server does not accept this status.
    Refused(String),
}

/// Patches the status of an object. Returns an error if the write must be repeated.
pub(super) async fn patch_status(
    api: &Api<DynamicObject>,
    name: &str,
    patch: Value,
) -> Result<Written, String> {
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    match timeout(WRITE_TIMEOUT, api.patch_status(name, &params, &Patch::Merge(patch))).await {
        Ok(Ok(_)) => Ok(Written::Yes),
        Ok(Err(kube::Error::Api(status))) => match status.code {
            404 | 409 => Ok(Written::Outdated),
            400 | 422 => Ok(Written::Refused(status.message)),
            _ => Err(status.message),
        },
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no response within {WRITE_TIMEOUT:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_whose_write_failed_waits_and_is_logged_once() {
        let id = ResourceId { kind: Kind::HttpRoute, namespace: "shop".into(), name: "a".into() };
        let (mut retries, now) = (Retries::default(), Instant::now());
        assert_eq!(retries.rest(&id, now), None);
        assert!(retries.failed(&id, now));
        assert_eq!(retries.rest(&id, now), Some(RETRY));
        assert_eq!(retries.rest(&id, now + RETRY), None);
        assert!(!retries.failed(&id, now + RETRY));
        assert_eq!(retries.rest(&id, now + RETRY), Some(RETRY));
    }
}
