//! The metrics of sidecars, which the API server's proxy to pods serves (`pods/proxy`): the caller needs nothing but a kubeconfig.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::client::{ClusterAccess, connect};
use super::pod_name::workload_name;
use crate::injection::layout::{METRICS_PORT, STATUS_ANNOTATION};

/// How many sidecars are read at once.
const AT_ONCE: usize = 16;
/// How many objects the API server returns at once.
const PAGE: u32 = 500;

/// What was read of the sidecar of a pod.
#[derive(Debug)]
pub struct Scrape {
    /// The namespace of the pod.
    pub namespace: String,
    /// The name of the pod.
    pub name: String,
    /// Its Deployment, StatefulSet or Job.
    pub workload: String,
    /// The page `/metrics` in Prometheus' text format, or why it cannot be read.
    pub page: Result<String, String>,
}

/// Reads the metrics of all sidecars of a cluster, or of those in one `namespace`.
///
/// Returns an error if the API server cannot be read.
pub async fn sidecars(access: &ClusterAccess, namespace: Option<&str>) -> Result<Vec<Scrape>, String> {
    let client = connect(access).await.map_err(|error| error.to_string())?;
    let pods: Vec<Pod> = list(&client).await.map_err(|error| format!("the API server: {error}"))?;
    Ok(of(&client, pods.iter().filter(|pod| has_sidecar(pod, namespace))).await)
}

/// Returns true if a pod has a sidecar and runs, in `namespace` if that is given.
pub(super) fn has_sidecar(pod: &Pod, namespace: Option<&str>) -> bool {
    pod.annotations().contains_key(STATUS_ANNOTATION)
        && is_running(pod)
        && namespace.is_none_or(|only| pod.namespace().as_deref() == Some(only))
}

pub(super) fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Reads the metrics of the sidecars of `pods`.
pub(super) async fn of(client: &Client, pods: impl Iterator<Item = &Pod>) -> Vec<Scrape> {
    let (mut reading, mut read) = (JoinSet::new(), Vec::new());
    for pod in pods {
        if reading.len() >= AT_ONCE {
            read.extend(reading.join_next().await.and_then(Result::ok));
        }
        let (client, name) = (client.clone(), pod.name_any());
        let (namespace, workload) = (pod.namespace().unwrap_or_default(), workload_name(pod));
        reading.spawn(async move {
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{METRICS_PORT}/proxy/metrics");
            let page = match http::Request::get(path).body(Vec::new()) {
                Ok(request) => client.request_text(request).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            Scrape { namespace, name, workload, page }
        });
    }
    read.extend(reading.join_all().await);
    read
}

/// Returns all objects of a kind.
pub(super) async fn list<K>(client: &Client) -> Result<Vec<K>, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let (mut all, mut params) = (Vec::new(), ListParams::default().limit(PAGE));
    loop {
        let page = api.list(&params).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(all),
        }
    }
}
