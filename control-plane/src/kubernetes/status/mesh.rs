//! The status of XMesh resources (experimental, GEP-3949): whether this controller accepts them, and which features of Gateway API
//! it supports.
//!
//! The kind is optional: without its CRD there is nothing to do.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::CONTROLLER_NAME;
use super::condition::{NewCondition, merge};
use super::writer::{RETRY, Written, patch_status};
use crate::kubernetes::discovery::{WatchedKind, discover};
use crate::kubernetes::reflector::status_code;

/// How often the kind is looked up while the API server does not have it.
const LOOK_UP: Duration = Duration::from_secs(30);
/// The time after which the API server ends a watch, which then continues.
const WATCH_SECONDS: u32 = 60;
const XMESH: WatchedKind = WatchedKind {
    name: "XMesh",
    group: "gateway.networking.x-k8s.io",
    versions: &["v1alpha1"],
    optional: true,
};

/// The features that the mesh supports, by the names of Gateway API 1.6, in order.
const SUPPORTED_FEATURES: [&str; 40] = [
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "ReferenceGrant",
    "TCPRoute",
];

/// Writes the status of every XMesh of this controller while `leading` is true. Runs until that channel is closed.
pub(super) async fn write_all(client: Client, mut leading: watch::Receiver<bool>) {
    while leading.wait_for(|leading| *leading).await.is_ok() {
        let end = leading.wait_for(|leading| !leading);
        tokio::select! {
            () = watch_all(&client) => {}
            _ = end => {}
        }
    }
}

async fn watch_all(client: &Client) {
    loop {
        if let Ok(Some(resource)) = discover(client, XMESH).await {
            watch_kind(client, &resource).await;
        }
        sleep(LOOK_UP).await;
    }
}

/// Writes the status of each object when it changes. Returns when the API server no longer has the kind.
async fn watch_kind(client: &Client, resource: &ApiResource) {
    let api = Api::<DynamicObject>::all_with(client.clone(), resource);
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let mut events = pin!(watcher(api.clone(), config).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitApply(object) | Event::Apply(object)) => write(&api, &object).await,
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) => {}
            Err(error) if status_code(&error) == Some(404) => return,
            Err(error) => tracing::debug!(%error, "cannot watch XMesh"),
        }
    }
}

async fn write(api: &Api<DynamicObject>, object: &DynamicObject) {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let Ok(value) = serde_json::to_value(object) else { return };
    let Some(status) = next_status(&value, Timestamp::now()) else { return };
    let patch = json!({"metadata": {"resourceVersion": object.metadata.resource_version}, "status": status});
    loop {
        match patch_status(api, name, patch.clone()).await {
            Ok(Written::Yes | Written::Outdated) => return,
            Ok(Written::Refused(reason)) => {
                return tracing::error!(mesh = name, reason, "the API server refuses a status");
            }
            Err(error) => tracing::warn!(mesh = name, error, "cannot write a status: retrying"),
        }
        sleep(RETRY).await;
    }
}

/// Returns the next status of an XMesh. Returns None if it is right already, or if the mesh is another controller's.
pub(super) fn next_status(object: &Value, now: Timestamp) -> Option<Value> {
    if object["spec"]["controllerName"] != CONTROLLER_NAME {
        return None;
    }
    let parameters = object["spec"].get("parametersRef").is_some();
    let accepted = NewCondition {
        kind: "Accepted",
        status: !parameters,
        reason: if parameters { "InvalidParameters" } else { "Accepted" },
        message: if parameters { "spec.parametersRef: not supported" } else { "" }.into(),
        observed_generation: object["metadata"]["generation"].as_i64().unwrap_or_default(),
    };
    // The CRD's default has a condition `Programmed` too, which the API does not define for meshes.
    let conditions = merge(object["status"]["conditions"].as_array(), &["Programmed"], &[accepted], now);
    let features: Vec<_> = SUPPORTED_FEATURES.iter().map(|name| json!({"name": name})).collect();
    let status = json!({"conditions": conditions, "supportedFeatures": features});
    (status != object["status"]).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(object: &Value) -> Option<Value> {
        next_status(object, "2026-11-28T12:00:00Z".parse().unwrap())
    }

    fn mesh(spec: Value) -> Value {
        let pending = |kind| {
            json!({"type": kind, "status": "Unknown", "reason": "Pending", "message": "Waiting for controller",
                   "lastTransitionTime": "1970-01-01T00:00:00Z"})
        };
        json!({"metadata": {"name": "m", "generation": 1}, "spec": spec,
               "status": {"conditions": [pending("Accepted"), pending("Programmed")]}})
    }

    #[test]
    fn the_features_are_sorted_as_the_api_demands() {
        assert!(SUPPORTED_FEATURES.is_sorted());
    }

    #[test]
    fn a_mesh_of_this_controller_is_accepted_with_its_features_and_then_written_no_more() {
        let mut object = mesh(json!({"controllerName": CONTROLLER_NAME}));
        let status = next(&object).unwrap();
        let [accepted] = &status["conditions"].as_array().unwrap()[..] else { panic!("{status}") };
        assert_eq!((&accepted["status"], &accepted["observedGeneration"]), (&json!("True"), &json!(1)));
        assert_eq!(accepted["lastTransitionTime"], "2026-11-28T12:00:00Z");
        assert_eq!(status["supportedFeatures"][0], json!({"name": "GRPCRoute"}));
        object["status"] = status;
        assert_eq!(next(&object), None);
    }

    #[test]
    fn meshes_of_other_controllers_are_left_alone_and_parameters_refused() {
        assert_eq!(next(&mesh(json!({"controllerName": "example.com/mesh"}))), None);
        let parameters = json!({"group": "", "kind": "ConfigMap", "name": "a"});
        let refused =
            next(&mesh(json!({"controllerName": CONTROLLER_NAME, "parametersRef": parameters}))).unwrap();
        assert_eq!(refused["conditions"][0]["reason"], "InvalidParameters");
        assert_eq!(refused["conditions"][0]["message"], "spec.parametersRef: not supported");
    }
}
