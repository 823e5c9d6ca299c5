//! `outrigger install` and `outrigger uninstall`: the objects of the mesh in a Kubernetes cluster, for kubectl.
//!
//! They are the templates of the Helm chart (`deploy/chart`), which are part of this binary, so that both are the same. Nothing is
//! sent to a cluster.

mod template;
mod value;
#[cfg(test)]
mod tests;

use clap::Args;
use serde_json::{Value, json};

use crate::output::{print, yaml};
use template::render;

const IMAGES: &str = "Images";
const MESH: &str = "Mesh";
const CNI: &str = "CNI plugin";

/// The namespace, then the chart's templates, CRDs first, in the order in which objects are created. The webhook comes last, when there is
/// a control plane to call.
const TEMPLATES: [&str; 10] = [
    include_str!("../../../deploy/namespace.yaml"),
    include_str!("../../../deploy/chart/templates/crds.yaml"),
    include_str!("../../../deploy/chart/templates/cni.yaml"),
    include_str!("../../../deploy/chart/templates/service-account.yaml"),
    include_str!("../../../deploy/chart/templates/rbac.yaml"),
    include_str!("../../../deploy/chart/templates/service.yaml"),
    include_str!("../../../deploy/chart/templates/deployment.yaml"),
    include_str!("../../../deploy/chart/templates/pod-disruption-budget.yaml"),
    include_str!("../../../deploy/chart/templates/network-policy.yaml"),
    include_str!("../../../deploy/chart/templates/webhook.yaml"),
];

/// Prints the objects of the control plane and of injection, for `kubectl apply`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
CRDs of Gateway API are neither installed nor changed: without them, the mesh has no routes.
Those of outrigger.dev are installed.

Examples:
  # Install, or upgrade to the version of this program
  outrigger install | kubectl apply -f -

  # From a registry of your own, with traces to a Jaeger
  outrigger install --image-registry registry.example \\
      --otlp-endpoint http://jaeger.tracing:4317 | kubectl apply -f -

  # Where pods may not have NET_ADMIN
  outrigger install --cni-enabled | kubectl apply -f -")]
pub(crate) struct InstallArgs {
    /// Registry of the images outrigger/control-plane and outrigger/proxy.
    #[arg(long, value_name = "REGISTRY", default_value = "docker.io", value_parser = value::registry, help_heading = IMAGES)]
    image_registry: String,
    /// Tag of the images.
    #[arg(long, value_name = "TAG", default_value = env!("CARGO_PKG_VERSION"), value_parser = value::tag, help_heading = IMAGES)]
    image_tag: String,
    /// Number of control plane pods. Every one serves proxies.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..), help_heading = MESH)]
    replicas: u8,
    /// SPIFFE trust domain of all identities. Changing it later makes every certificate invalid.
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = value::trust_domain, help_heading = MESH)]
    trust_domain: String,
    /// DNS domain of the cluster's services.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", value_parser = value::dns_domain, help_heading = MESH)]
    cluster_domain: String,
    /// Where sidecars send traces and metrics by OTLP over gRPC, such as http://jaeger.tracing:4317.
    #[arg(long, value_name = "URL", value_parser = value::endpoint, help_heading = MESH)]
    otlp_endpoint: Option<String>,
    /// Let the control plane list and watch Secrets in all namespaces, for API keys of policies.
    #[arg(long, help_heading = MESH)]
    api_key_secrets_enabled: bool,
    /// Install the CNI plugin on every node: pods need no container with NET_ADMIN.
    #[arg(long, help_heading = CNI)]
    cni_enabled: bool,
    /// Directory of the CNI plugins on the nodes.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin", value_parser = value::directory, requires = "cni_enabled", help_heading = CNI)]
    cni_bin_dir: String,
    /// Directory of the CNI configuration on the nodes.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d", value_parser = value::directory, requires = "cni_enabled", help_heading = CNI)]
    cni_conf_dir: String,
}

impl InstallArgs {
    /// Returns the value of the chart that each flag is.
    fn values(&self) -> [(&'static str, String); 10] {
        let Self { image_registry, image_tag, replicas, trust_domain, cluster_domain, otlp_endpoint, .. } =
            self.clone();
        let Self { api_key_secrets_enabled, cni_enabled, cni_bin_dir, cni_conf_dir, .. } = self.clone();
        [
            ("imageRegistry", image_registry),
            ("imageTag", image_tag),
            ("replicas", replicas.to_string()),
            ("trustDomain", trust_domain),
            ("clusterDomain", cluster_domain),
            ("otlpEndpoint", otlp_endpoint.unwrap_or_default()),
            ("apiKeySecrets.enabled", api_key_secrets_enabled.to_string()),
            ("cni.enabled", cni_enabled.to_string()),
            ("cni.binDir", cni_bin_dir),
            ("cni.confDir", cni_conf_dir),
        ]
    }
}

/// Prints the objects as YAML.
pub(crate) fn install(args: InstallArgs) -> Result<(), String> {
    print(&manifest(&args)?)
}

/// Returns all objects, in one stream of YAML documents.
fn manifest(args: &InstallArgs) -> Result<String, String> {
    let values = args.values();
    let value_of =
        |name: &str| values.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
    let documents: Result<Vec<_>, _> = TEMPLATES.iter().map(|template| render(template, &value_of)).collect();
    let mut documents = documents?;
    documents.retain(|document| !document.is_empty());
    Ok(documents.join("---\n"))
}

/// Prints what `outrigger install` has created, for `kubectl delete`.
#[derive(Debug, Args)]
#[command(after_help = "\
The CA is deleted with the namespace, and all policies of outrigger.dev with their CRDs. Pods that
still have a sidecar lose the mesh when their certificates expire, and cannot be replaced while
their namespace has the label: remove it, restart the pods, and uninstall then.

Examples:
  # Remove the mesh, with its CA
  outrigger uninstall | kubectl delete --ignore-not-found -f -")]
pub(crate) struct UninstallArgs {}

/// Prints the objects by name, in the reverse order of their creation, so that the webhook is gone before what it calls.
pub(crate) fn uninstall(UninstallArgs {}: UninstallArgs) -> Result<(), String> {
    let mut documents = Vec::new();
    for template in TEMPLATES.iter().rev() {
        for object in template::objects(template)?.iter().rev() {
            documents.push(yaml(&name_of(object))?);
        }
    }
    print(&documents.join("---\n"))
}

/// Returns what identifies an object.
fn name_of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut name = json!({ "name": metadata["name"] });
    if let Some(namespace) = metadata.get("namespace") {
        name["namespace"] = namespace.clone();
    }
    json!({ "apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": name })
}
