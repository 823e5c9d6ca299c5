//! What is wrong with a cluster and the installation in it, before and after: versions, CRDs, the control plane, its webhook and
//! certificates, clocks, and pods without a sidecar or with an outdated one. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::state::ClusterState;
use crate::injection::decision::has_opted_in;
use crate::injection::layout::{ENABLED, INJECT_LABEL, MIRROR, PROXY_CONTAINER, STATUS_ANNOTATION};
use crate::kubernetes::cni::role::is_plugin;
use crate::kubernetes::pod_name::workload_name;
use crate::model::diagnostic::{Code, Problem};
use crate::source::check::Located;

/// The first minor version of Kubernetes with native sidecars (KEP-753).
const NATIVE_SIDECARS: u32 = 29;
/// The first release of Gateway API whose standard channel has HTTPRoute and GRPCRoute in v1.
const GATEWAY_API: (u32, u32) = (1, 1);
/// A clock that differs by more makes certificates appear invalid sooner or later: they are valid from 5 minutes before their issue.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(1);
/// A root that ends within this time needs a successor now.
const ROOT_NOTICE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Maximum number of names in a message.
const MAX_NAMES: usize = 5;

/// Returns the problems, of pods in one namespace only if `namespace` is given.
pub(super) fn problems(state: &ClusterState, namespace: Option<&str>) -> Vec<Located> {
    let mut problems = [version(state), crds(state), clocks(state)].concat();
    match &state.control_plane {
        None => problems.push(of(
            Code::NotInstalled,
            "Deployment outrigger-system/outrigger-control-plane",
            "there is no control plane in this cluster",
            Some("outrigger install | kubectl apply -f -"),
        )),
        Some(deployment) => {
            problems.extend(control_plane(deployment));
            problems.extend(webhook(state.webhook.as_ref(), state.now));
            problems.extend(roots(state));
            problems.extend(pods(state, deployment, namespace));
            problems.extend(cni_plugin(state, deployment));
        }
    }
    problems
}

fn version(state: &ClusterState) -> Vec<Located> {
    if state.minor >= NATIVE_SIDECARS {
        return Vec::new();
    }
    let message = format!(
        "Kubernetes 1.{} has no native sidecars: a Job does not end, and init containers cannot use the mesh",
        state.minor
    );
    vec![of(Code::OldCluster, "", message, Some("upgrade to 1.29 or newer"))]
}

fn crds(state: &ClusterState) -> Vec<Located> {
    let help = "install the standard channel of Gateway API, v1.1 or newer; outrigger does not change CRDs";
    let missing: Vec<_> = ["httproutes", "grpcroutes"]
        .into_iter()
        .filter(|kind| !state.crds.contains_key(&format!("{kind}.gateway.networking.k8s.io")))
        .collect();
    if !missing.is_empty() {
        let message = format!("Gateway API's CRDs are missing: there can be no {}", missing.join(" and no "));
        return vec![of(Code::MissingCrds, "", message, Some(help))];
    }
    let old = |(name, release): (&String, &Option<String>)| {
        let release = release.as_deref()?;
        (minor_release(release)? < GATEWAY_API).then(|| format!("{name} {release}"))
    };
    let old: Vec<_> = state.crds.iter().filter_map(old).collect();
    if old.is_empty() {
        return Vec::new();
    }
    vec![of(Code::OldCrds, "", format!("Gateway API's CRDs are older than v1.1: {}", some(&old)), Some(help))]
}

/// Parses the beginning of a release: `v1.6.3` is (1, 6).
fn minor_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.strip_prefix('v')?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn clocks(state: &ClusterState) -> Vec<Located> {
    let wrong = state.clocks.iter().filter(|(_, ahead)| ahead.abs() > MAX_SKEW);
    let problem = |(node, ahead): (&String, &SignedDuration)| {
        let (seconds, way) = (ahead.abs().as_secs(), if ahead.is_negative() { "behind" } else { "ahead of" });
        let message =
            format!("its clock is {seconds} s {way} the API server's: certificates may appear invalid");
        of(Code::ClockSkew, format!("Node {node}"), message, Some("synchronize it, as by NTP"))
    };
    wrong.map(problem).collect()
}

fn control_plane(deployment: &Deployment) -> Vec<Located> {
    let status = deployment.status.clone().unwrap_or_default();
    if status.ready_replicas.unwrap_or(0) > 0 {
        return Vec::new();
    }
    vec![of(
        Code::ControlPlaneNotReady,
        "Deployment outrigger-system/outrigger-control-plane",
        "no replica is ready: pods that are to get a sidecar cannot be created, and certificates are not renewed",
        Some(
            "kubectl -n outrigger-system get pods; kubectl -n outrigger-system logs deploy/outrigger-control-plane",
        ),
    )]
}

fn webhook(webhook: Option<&MutatingWebhookConfiguration>, now: Timestamp) -> Option<Located> {
    let resource = "MutatingWebhookConfiguration outrigger-injector";
    let Some(webhook) = webhook else {
        let message = "it does not exist: no pod gets a sidecar";
        return Some(of(
            Code::UnusableWebhook,
            resource,
            message,
            Some("outrigger install | kubectl apply -f -"),
        ));
    };
    let unusable = webhook.webhooks.iter().flatten().find_map(|entry| {
        let bundle =
            entry.client_config.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice()).unwrap_or_default();
        match ends(bundle).into_iter().max() {
            None => {
                Some(format!("{} has no certificate yet (caBundle): the control plane writes it", entry.name))
            }
            Some(end) if end < now => Some(format!("the certificate of {} ended at {end}", entry.name)),
            Some(_) => None,
        }
    })?;
    let help =
        "the control plane's log says why: kubectl -n outrigger-system logs deploy/outrigger-control-plane";
    Some(of(Code::UnusableWebhook, resource, unusable, Some(help)))
}

fn roots(state: &ClusterState) -> Option<Located> {
    let end = ends(state.roots.as_deref()?.as_bytes()).into_iter().max()?;
    if end > state.now + ROOT_NOTICE {
        return None;
    }
    let message = format!("the last trust root ends at {end}: no certificate is valid after that");
    let resource = "ConfigMap outrigger-system/outrigger-trust-roots";
    Some(of(Code::ExpiringRoots, resource, message, Some("rotate the CA: docs/identity.md")))
}

/// Returns when each certificate of a PEM file ends.
fn ends(pem: &[u8]) -> Vec<Timestamp> {
    let end = |certificate: CertificateDer<'_>| {
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
        Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
    };
    CertificateDer::pem_slice_iter(pem).filter_map(|certificate| end(certificate.ok()?)).collect()
}

/// Returns a problem for each workload whose pods have no sidecar although they should, or one of another image than new pods get.
fn pods(state: &ClusterState, deployment: &Deployment, namespace: Option<&str>) -> Vec<Located> {
    let opted_in: Vec<String> = state
        .namespaces
        .iter()
        .filter(|one| one.labels().get(INJECT_LABEL).is_some_and(|value| value == ENABLED))
        .map(|one| one.name_any())
        .collect();
    let image = injected_image(deployment);
    let mut workloads: BTreeMap<(Code, String, String), usize> = BTreeMap::new();
    let shown = |pod: &&Pod| namespace.is_none_or(|only| pod.namespace().as_deref() == Some(only));
    for pod in state.pods.iter().filter(shown).filter(|pod| is_running(pod)) {
        let problem = match (sidecar_image(pod), &image) {
            (Some(has), Some(gets)) if has != *gets => {
                (Code::OldSidecar, format!("its sidecar is {has}, and new pods get {gets}"))
            }
            (None, _) if is_to_be_injected(pod, &opted_in) => {
                (Code::MissingSidecar, "it is to have a sidecar, and runs without one".to_owned())
            }
            _ => continue,
        };
        let name = format!("Workload {}/{}", pod.namespace().unwrap_or_default(), workload_name(pod));
        *workloads.entry((problem.0, name, problem.1)).or_default() += 1;
    }
    let problem = |((code, name, message), count): ((Code, String, String), usize)| {
        let message = if count > 1 { format!("{message} ({count} pods)") } else { message };
        of(code, name, message, Some("restart it: kubectl rollout restart"))
    };
    workloads.into_iter().map(problem).collect()
}

/// Returns the image of the sidecars that the control plane adds now.
fn injected_image(deployment: &Deployment) -> Option<String> {
    args(deployment).find_map(|arg| arg.strip_prefix("--proxy-image=")).map(str::to_owned)
}

fn args(deployment: &Deployment) -> impl Iterator<Item = &String> {
    let pod = deployment.spec.iter().filter_map(|spec| spec.template.spec.as_ref());
    let containers = pod.flat_map(|pod| &pod.containers);
    containers.flat_map(|container| container.args.iter().flatten())
}

/// Returns a problem for each node on which pods may start while no pod of the CNI plugin is ready there, if pods need the plugin.
fn cni_plugin(state: &ClusterState, deployment: &Deployment) -> Vec<Located> {
    if !args(deployment).any(|arg| arg == "--capture=cni") {
        return Vec::new();
    }
    let is_ready = |pod: &&Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        is_plugin(&pod.metadata)
            && is_running(pod)
            && conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
    };
    let ready = state.pods.iter().filter(is_ready);
    let ready: BTreeSet<_> = ready.filter_map(|pod| pod.spec.as_ref()?.node_name.as_deref()).collect();
    let starts_pods = |node: &&Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let is_cordoned = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
        let is_windows = node.labels().get("kubernetes.io/os").is_some_and(|os| os == "windows");
        !is_cordoned
            && !is_windows
            && conditions.into_iter().any(|one| one.type_ == "Ready" && one.status == "True")
    };
    let problem = |name: String| {
        let message = "no pod of the CNI plugin is ready there: a pod with a sidecar that starts there may fail in outrigger-capture-check";
        let help = "kubectl -n outrigger-cni get pods -o wide; kubectl -n outrigger-cni logs daemonset/outrigger-cni";
        of(Code::CniPluginNotReady, format!("Node {name}"), message, Some(help))
    };
    let names = state.nodes.iter().filter(starts_pods).map(|node| node.name_any());
    names.filter(|name| !ready.contains(name.as_str())).map(problem).collect()
}

/// Returns the image of a pod's sidecar. Returns None if it has none.
fn sidecar_image(pod: &Pod) -> Option<&str> {
    pod.annotations().get(STATUS_ANNOTATION)?;
    let spec = pod.spec.as_ref()?;
    let mut containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.find(|container| container.name == PROXY_CONTAINER)?.image.as_deref()
}

fn is_to_be_injected(pod: &Pod, opted_in: &[String]) -> bool {
    let in_host_network = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let os = pod.spec.as_ref().and_then(|spec| spec.os.as_ref());
    let namespace = pod.namespace().unwrap_or_default();
    let label = pod.labels().get(INJECT_LABEL).map(String::as_str);
    !in_host_network
        && os.is_none_or(|os| os.name != "windows")
        && !pod.annotations().contains_key(MIRROR)
        && has_opted_in(&namespace, opted_in.contains(&namespace), label)
}

pub(super) fn is_running(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

fn some(names: &[String]) -> String {
    match names.len().checked_sub(MAX_NAMES) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..MAX_NAMES].join(", ")),
    }
}

pub(super) fn of(
    code: Code,
    resource: impl Into<String>,
    message: impl Into<String>,
    help: Option<&str>,
) -> Located {
    let problem = Problem::of(code, "", message);
    let problem = match help {
        Some(help) => problem.help(help),
        None => problem,
    };
    let resource = Some(resource.into()).filter(|resource| !resource.is_empty());
    Located { file: None, position: None, document: 0, resource, problem }
}

#[cfg(test)]
mod tests;
