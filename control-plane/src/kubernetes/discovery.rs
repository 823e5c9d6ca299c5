//! Finds out in which versions the API server has a kind.
//!
//! The CRDs of Gateway API may be missing, or be of an older or newer release. A kind is read in the first version that both sides
//! know.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::Client;
use kube::api::ApiResource;

use crate::model::resource::Kind;

/// A kind to watch.
#[derive(Debug, Clone, Copy)]
pub(super) struct WatchedKind {
    /// As in YAML: `HTTPRoute`.
    pub(super) name: &'static str,
    /// Its API group; empty for the core group.
    pub(super) group: &'static str,
    /// The versions that can be read, the preferred one first.
    pub(super) versions: &'static [&'static str],
    /// The mesh can be served without it.
    pub(super) optional: bool,
}

impl WatchedKind {
    /// Kubernetes' own kinds are required. Those of Gateway API, and our own, come with CRDs, which may be missing.
    pub(super) fn of(kind: Kind) -> Self {
        let (group, versions) = kind.api();
        let optional = !matches!(kind, Kind::Namespace | Kind::Service | Kind::EndpointSlice);
        Self { name: kind.name(), group, versions, optional }
    }

    /// Returns true if the mesh can be served while this account may not list the kind. Without the policies that exist, requests would be
    /// admitted that they deny.
    pub(super) fn may_be_forbidden(&self) -> bool {
        self.optional && self.group != "outrigger.dev"
    }
}

/// Returns the kind as the API server has it, or None if it has none of the known versions.
pub(super) async fn discover(client: &Client, kind: WatchedKind) -> Result<Option<ApiResource>, kube::Error> {
    for version in kind.versions {
        let Some(list) = resources(client, kind.group, version).await? else { continue };
        // Subresources have the kind too, and a slash in their name.
        let mut found = list.resources.into_iter();
        if let Some(resource) = found.find(|one| one.kind == kind.name && !one.name.contains('/')) {
            return Ok(Some(ApiResource {
                group: kind.group.into(),
                version: (*version).into(),
                api_version: api_version(kind.group, version),
                kind: kind.name.into(),
                plural: resource.name,
            }));
        }
    }
    Ok(None)
}

/// Returns every version in which the API server has the kind.
pub(super) async fn served_versions(client: &Client, kind: WatchedKind) -> Result<Vec<String>, kube::Error> {
    let groups = client.list_api_groups().await?.groups;
    let group = groups.into_iter().find(|group| group.name == kind.group);
    let mut served = Vec::new();
    for version in group.into_iter().flat_map(|group| group.versions) {
        let list = resources(client, kind.group, &version.version).await?;
        if list.is_some_and(|list| list.resources.iter().any(|one| one.kind == kind.name)) {
            served.push(version.version);
        }
    }
    Ok(served)
}

/// Returns the resources of a group version, or None if the API server does not have it.
async fn resources(
    client: &Client,
    group: &str,
    version: &str,
) -> Result<Option<APIResourceList>, kube::Error> {
    let list = match group {
        "" => client.list_core_api_resources(version).await,
        group => client.list_api_group_resources(&api_version(group, version)).await,
    };
    match list {
        Ok(list) => Ok(Some(list)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.into() } else { format!("{group}/{version}") }
}
