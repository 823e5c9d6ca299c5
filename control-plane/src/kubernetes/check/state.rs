//! What `outrigger check` reads from a cluster.

use std::collections::BTreeMap;

use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use crate::kubernetes::NAMESPACE;
use crate::kubernetes::authority::root_record::ROOTS_KEY;
use crate::kubernetes::authority::trust_roots::CONFIG_MAP;
use crate::kubernetes::client::minor_version;

/// Where each kubelet renews a Lease, by its own clock.
const NODE_LEASES: &str = "kube-node-lease";
/// The annotation of Gateway API's CRDs that has their release.
const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";
const GATEWAY_API: &str = ".gateway.networking.k8s.io";

/// What was read.
#[derive(Debug, Default)]
pub(super) struct ClusterState {
    /// Kubernetes' minor version, as in 34 for 1.34.
    pub(super) minor: u32,
    /// The API server's clock.
    pub(super) now: Timestamp,
    /// The clock of each node that is ready: how far it is ahead of the API server's.
    pub(super) clocks: BTreeMap<String, SignedDuration>,
    /// The CRDs of Gateway API, by name, with their releases, such as `v1.6.3`.
    pub(super) crds: BTreeMap<String, Option<String>>,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) pods: Vec<Pod>,
    pub(super) services: Vec<Service>,
    pub(super) nodes: Vec<Node>,
    pub(super) control_plane: Option<Deployment>,
    pub(super) webhook: Option<MutatingWebhookConfiguration>,
    /// The trust roots in the namespace of the mesh, as PEM.
    pub(super) roots: Option<String>,
}

/// Reads the cluster, except the given lists.
pub(super) async fn read(
    client: &Client,
    namespaces: Vec<Namespace>,
    pods: Vec<Pod>,
    services: Vec<Service>,
    nodes: Vec<Node>,
) -> Result<ClusterState, kube::Error> {
    let crds = Api::<CustomResourceDefinition>::all(client.clone());
    let crds = crds.list_metadata(&ListParams::default()).await?.items;
    let of_gateway_api = crds.into_iter().filter(|crd| crd.name_any().ends_with(GATEWAY_API));
    let crds = of_gateway_api.map(|crd| (crd.name_any(), crd.annotations().get(BUNDLE_VERSION).cloned()));
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let roots = maps.get_opt(CONFIG_MAP).await?.and_then(|map| map.data?.remove(ROOTS_KEY));
    let leases: Api<Lease> = Api::namespaced(client.clone(), NODE_LEASES);
    let leases = leases.list(&ListParams::default()).await?.items;
    let (minor, now) = version_and_time(client).await?;
    Ok(ClusterState {
        minor,
        now,
        clocks: clocks(&leases, &nodes, now),
        crds: crds.collect(),
        namespaces,
        pods,
        services,
        nodes,
        control_plane: deployments.get_opt("outrigger-control-plane").await?,
        webhook: webhooks.get_opt("outrigger-injector").await?,
        roots,
    })
}

/// Returns the minor version of Kubernetes, and the API server's clock.
async fn version_and_time(client: &Client) -> Result<(u32, Timestamp), kube::Error> {
    let request = http::Request::get("/version").body(kube::client::Body::empty());
    let response = client.send(request.map_err(kube::Error::HttpError)?).await?;
    let date = response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok());
    let now =
        date.and_then(|date| rfc2822::parse(date).ok()).map_or_else(Timestamp::now, |date| date.timestamp());
    let minor = client.apiserver_version().await?.minor;
    Ok((minor_version(&minor).unwrap_or_default(), now))
}

/// Returns how far the clock of each node that is ready is ahead. Others do not renew their Leases.
fn clocks(leases: &[Lease], nodes: &[Node], now: Timestamp) -> BTreeMap<String, SignedDuration> {
    let is_ready = |name: &str| {
        let node = nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name));
        let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
        conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
    };
    let clock = |lease: &Lease| {
        let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
        Some((lease.name_any(), renewed.duration_since(now)))
    };
    leases.iter().filter(|lease| is_ready(&lease.name_any())).filter_map(clock).collect()
}
