//! `outrigger check` in a cluster.
//!
//! [`check_cluster`] reads the cluster and the sidecars' metrics, which the API server's proxy to pods serves (`pods/proxy`), so that the
//! caller needs nothing but a kubeconfig. What was read is judged by [`installation`], [`declarations`] and [`plaintext`], which are pure.

mod plaintext;
mod declarations;
mod installation;
mod state;

use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::api::{Api, ListParams};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use self::plaintext::{Addresses, Counts, SidecarPod};
use super::client::{ClusterAccess, connect};
use super::pod_name::workload_name;
use crate::injection::layout::{METRICS_PORT, STATUS_ANNOTATION};
use crate::model::registration::MtlsMode;
use crate::model::resource::known_mtls_mode;
use crate::source::check::Report;

/// How many sidecars are read at once.
const AT_ONCE: usize = 16;
/// How many objects the API server returns at once.
const PAGE: u32 = 500;

/// Returns what is wrong with a cluster and with the mesh in it, who calls the pods of the mesh without mTLS, and which namespaces may
/// become strict. `namespace` restricts what concerns pods to one. The cluster is that of `kubeconfig` and `context`, if they are given.
///
/// Returns an error if the API server cannot be read. A sidecar that cannot be read is a problem of the report.
pub async fn check_cluster(
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
    namespace: Option<&str>,
) -> Result<Report, String> {
    let client = connect(&ClusterAccess { kubeconfig, context }).await.map_err(|error| error.to_string())?;
    let failed = |error: kube::Error| format!("the API server: {error}");
    let namespaces: Vec<Namespace> = list(&client).await.map_err(failed)?;
    let pods: Vec<Pod> = list(&client).await.map_err(failed)?;
    let services: Vec<Service> = list(&client).await.map_err(failed)?;
    let nodes: Vec<Node> = list(&client).await.map_err(failed)?;
    let addresses = addresses(&pods, &nodes);
    let modes = namespaces.iter().map(|one| (one.name_any(), mode(one))).collect();
    let meshed = pods.iter().filter(|pod| {
        pod.annotations().contains_key(STATUS_ANNOTATION)
            && is_running(pod)
            && namespace.is_none_or(|only| pod.namespace().as_deref() == Some(only))
    });
    let sidecars = read_all(&client, meshed).await;
    let accepted = sidecars.len();
    let state = state::read(&client, namespaces, pods, services, nodes).await.map_err(failed)?;
    let mut found = installation::problems(&state, namespace);
    found.extend(declarations::problems(&state, namespace));
    found.extend(plaintext::problems(&modes, &addresses, &sidecars));
    Ok(Report { problems: found, accepted, ..Report::default() })
}

async fn list<K>(client: &Client) -> Result<Vec<K>, kube::Error>
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

fn mode(namespace: &Namespace) -> MtlsMode {
    let label = namespace.labels().get("outrigger.dev/mtls");
    label.map_or(MtlsMode::Permissive, |mode| known_mtls_mode(mode).unwrap_or(MtlsMode::Strict))
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Returns what has which address.
fn addresses(pods: &[Pod], nodes: &[Node]) -> Addresses {
    let mut all = Addresses::new();
    for node in nodes {
        let of_node = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        for ip in of_node.filter_map(|address| address.address.parse::<IpAddr>().ok()) {
            all.insert(ip, format!("node {}", node.name_any()));
        }
    }
    for pod in pods.iter().filter(|pod| is_running(pod)) {
        let in_host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let ips = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
        for ip in ips.filter(|_| !in_host_network).filter_map(|one| one.ip.parse::<IpAddr>().ok()) {
            all.insert(ip, format!("{}/{}", pod.namespace().unwrap_or_default(), workload_name(pod)));
        }
    }
    all
}

async fn read_all(client: &Client, pods: impl Iterator<Item = &Pod>) -> Vec<SidecarPod> {
    let (mut reading, mut read) = (JoinSet::new(), Vec::new());
    for pod in pods {
        if reading.len() >= AT_ONCE {
            read.extend(reading.join_next().await.and_then(Result::ok));
        }
        let (client, name) = (client.clone(), pod.name_any());
        let (namespace, workload) = (pod.namespace().unwrap_or_default(), workload_name(pod));
        reading.spawn(async move {
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{METRICS_PORT}/proxy/metrics");
            let counted = match http::Request::get(path).body(Vec::new()) {
                Ok(request) => client.request_text(request).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            SidecarPod { namespace, name, workload, counted: counted.map(|text| Counts::parse(&text)) }
        });
    }
    read.extend(reading.join_all().await);
    read
}
