//! `outrigger check` in a cluster.
//!
//! [`check_cluster`] reads the cluster and the sidecars' metrics ([`scrape`]). What was read is judged by [`installation`],
//! [`declarations`] and [`plaintext`], which are pure.

mod plaintext;
mod declarations;
mod installation;
mod state;

use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::ResourceExt;

use self::plaintext::{Addresses, Counts, SidecarPod};
use super::client::{ClusterAccess, connect};
use super::pod_name::workload_name;
use super::scrape::{self, Scrape, has_sidecar, is_running, list};
use crate::model::registration::MtlsMode;
use crate::model::resource::known_mtls_mode;
use crate::source::check::Report;

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
    let meshed = pods.iter().filter(|pod| has_sidecar(pod, namespace));
    let sidecars: Vec<_> = scrape::of(&client, meshed).await.into_iter().map(counted).collect();
    let accepted = sidecars.len();
    let state = state::read(&client, namespaces, pods, services, nodes).await.map_err(failed)?;
    let mut found = installation::problems(&state, namespace);
    found.extend(declarations::problems(&state, namespace));
    found.extend(plaintext::problems(&modes, &addresses, &sidecars));
    Ok(Report { problems: found, accepted, ..Report::default() })
}

fn mode(namespace: &Namespace) -> MtlsMode {
    let label = namespace.labels().get("outrigger.dev/mtls");
    label.map_or(MtlsMode::Permissive, |mode| known_mtls_mode(mode).unwrap_or(MtlsMode::Strict))
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

fn counted(Scrape { namespace, name, workload, page }: Scrape) -> SidecarPod {
    SidecarPod { namespace, name, workload, counted: page.map(|text| Counts::parse(&text)) }
}
