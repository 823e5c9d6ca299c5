//! The status of all replicas in a cluster, for `outrigger status`. Each replica knows the proxies that are connected to it.
//!
//! The page is on loopback, because it shows configuration, so that it is read through the API server by a port-forward (the permission
//! `create` on `pods/portforward`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::NAMESPACE;
use super::client::{ClusterAccess, connect};
use crate::admin_client::exchange;
use crate::explain::{ServicePolicies, path};
use crate::status::Status;

/// The label of the replicas.
const REPLICAS: &str = "app.kubernetes.io/name=outrigger-control-plane";
/// The admin port of a replica, on loopback.
const ADMIN_PORT: u16 = 15011;

/// Returns the status of all replicas as one. A replica that cannot be read is a problem in it. Returns an error if none can be read.
pub async fn fetch(access: &ClusterAccess) -> Result<Status, String> {
    let client = connect(access).await.map_err(|error| error.to_string())?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let replicas = pods.list(&ListParams::default().labels(REPLICAS)).await;
    let replicas = replicas.map_err(|error| format!("the API server: {error}"))?.items;
    let (mut read, mut failed) = (Vec::new(), Vec::new());
    for pod in replicas.iter().filter(|pod| is_running(pod)) {
        match fetch_one(&client, &pod.name_any(), "/status").await {
            Ok(status) => read.push((pod.name_any(), status)),
            Err(error) => failed.push(format!("{}: its status cannot be read: {error}", pod.name_any())),
        }
    }
    match merged(read) {
        Some(mut status) => {
            status.problems.extend(failed);
            Ok(status)
        }
        None if failed.is_empty() => Err(format!(
            "no control plane runs in the namespace {NAMESPACE}: outrigger install | kubectl apply -f -"
        )),
        None => Err(failed.join("; ")),
    }
}

/// Returns the policies of a service from the first replica that answers. Every one reads the same configuration.
pub async fn policies(
    access: &ClusterAccess,
    namespace: &str,
    name: &str,
) -> Result<ServicePolicies, String> {
    let client = connect(access).await.map_err(|error| error.to_string())?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let replicas = pods.list(&ListParams::default().labels(REPLICAS)).await;
    let replicas = replicas.map_err(|error| format!("the API server: {error}"))?.items;
    let mut failed = format!("no control plane runs in the namespace {NAMESPACE}");
    for pod in replicas.iter().filter(|pod| is_running(pod)) {
        match fetch_one(&client, &pod.name_any(), &path(namespace, name)).await {
            Ok(found) => return Ok(found),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn fetch_one<T: DeserializeOwned>(client: &Client, pod: &str, page: &str) -> Result<T, String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let mut forwarded =
        pods.portforward(pod, &[ADMIN_PORT]).await.map_err(|error| format!("port-forward: {error}"))?;
    let stream = forwarded.take_stream(ADMIN_PORT).ok_or("port-forward: no stream")?;
    let (status, body) = exchange(stream, page, None).await.map_err(|error| error.to_string())?;
    if !status.is_success() {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body).trim()));
    }
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Merges the status of replicas: proxies are connected to one of them, and every one reads the same configuration and pods. Returns
/// None if there is none.
fn merged(replicas: Vec<(String, Status)>) -> Option<Status> {
    let versions: BTreeSet<_> = replicas.iter().map(|(_, status)| status.version.clone()).collect();
    let mut all: Option<Status> = None;
    for (pod, mut status) in replicas {
        status.problems = status.problems.into_iter().map(|problem| format!("{pod}: {problem}")).collect();
        let Some(all) = &mut all else {
            all = Some(status);
            continue;
        };
        all.certificates_issued += status.certificates_issued;
        all.proxies.extend(status.proxies);
        all.problems.extend(status.problems);
        add_new(&mut all.refusals, status.refusals);
        add_new(&mut all.ignored_fields, status.ignored_fields);
        add_new(&mut all.unmet_conditions, status.unmet_conditions);
        add_new(&mut all.registrations, status.registrations);
        add_new(&mut all.endpoints_not_ready, status.endpoints_not_ready);
        add_new(&mut all.pods_without_sidecar, status.pods_without_sidecar);
    }
    let mut all = all?;
    all.version = Vec::from_iter(versions).join(", ");
    all.proxies.sort_by(|a, b| (&a.namespace, &a.node).cmp(&(&b.namespace, &b.node)));
    Some(all)
}

/// Adds the items that are not there yet.
fn add_new<T: PartialEq>(all: &mut Vec<T>, items: Vec<T>) {
    for item in items {
        if !all.contains(&item) {
            all.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn replica(pod: &str, version: &str, proxies: &[&str], problems: &[&str]) -> (String, Status) {
        let proxies: Vec<_> = proxies
            .iter()
            .map(|node| {
                json!({
                    "node": node, "identity": "", "namespace": "shop", "software": "", "mode": "on-demand",
                    "since": "", "types": [],
                })
            })
            .collect();
        let status = json!({
            "version": version, "trust_domain": "cluster.local", "services": 3, "proxies": proxies,
            "refusals": ["HTTPRoute shop/cart: bad"], "registrations": [], "certificates_issued": 2,
            "problems": problems,
        });
        (pod.to_owned(), serde_json::from_value(status).unwrap())
    }

    #[test]
    fn proxies_of_all_replicas_are_listed_and_shared_facts_once() {
        let all = merged(vec![
            replica("a", "0.2.0", &["web", "cart"], &["no API server"]),
            replica("b", "0.1.0", &["stock"], &[]),
        ])
        .unwrap();
        let nodes: Vec<_> = all.proxies.iter().map(|proxy| proxy.node.as_str()).collect();
        assert_eq!(nodes, ["cart", "stock", "web"]);
        assert_eq!((all.version.as_str(), all.services, all.certificates_issued), ("0.1.0, 0.2.0", 3, 4));
        assert_eq!(all.refusals, ["HTTPRoute shop/cart: bad"]);
        assert_eq!(all.problems, ["a: no API server"]);
    }

    #[test]
    fn without_a_replica_there_is_no_status() {
        assert_eq!(merged(Vec::new()), None);
    }
}
