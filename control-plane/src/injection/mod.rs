//! Injection: adds the sidecar to a pod.
//!
//! [`inject`] is pure; the webhook and `outrigger inject` call it. An injected pod has, in this order: the container that redirects
//! its connections, the sidecar as a native sidecar, then the pod's own init containers, which can use the mesh. Injecting an
//! injected pod removes what was added and adds it again, so that nothing changes, and that containers which another webhook
//! has added meanwhile are treated like the others.

pub mod manifest;
pub(crate) mod decision;
mod conflicts;
mod sidecar;
mod resources;
mod volumes;
mod prestop;
mod probes;
mod annotations;
mod quantity;
mod status;
mod pod;
mod refusal;
mod settings;
pub mod layout;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::BTreeMap;

use serde_json::Value;

pub use self::refusal::Refusal;
pub use self::settings::{Capture, InjectionArgs, Settings};

use self::annotations::Annotations;
use self::layout::{CONTAINERS, PROXY_CONTAINER, VOLUMES};
use self::pod::{Container, Object, Pod};
use self::probes::AppProbes;
use self::status::InjectionStatus;

/// The outcome for a pod that is not refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Injection {
    /// The pod with its sidecar.
    Injected {
        /// The pod.
        pod: Value,
        /// What its author should know.
        warnings: Vec<String>,
    },
    /// The pod is left alone, for this reason.
    Skipped(&'static str),
}

/// Adds the sidecar to `pod`, a Pod or the template of one.
///
/// Returns an error that names the field or annotation if the pod must not run with a sidecar as it is.
pub fn inject(pod: Value, settings: &Settings) -> Result<Injection, Refusal> {
    let mut pod = Pod::read(pod)?;
    if let Some(reason) = decision::reason_to_skip(&pod)? {
        return Ok(Injection::Skipped(reason));
    }
    let annotations = Annotations::parse(&pod.annotations)?;
    let earlier = remove_injected(&mut pod);
    conflicts::check(&pod)?;
    let mut performed = AppProbes::new();
    let mut warnings = Vec::from_iter(dns_warning(&pod, settings));
    for container in pod.running_containers() {
        probes::rewrite(container, &earlier.probes, &mut performed)?;
        warnings.extend(prestop::http_hooks(container.fields.get("lifecycle")).map(|hook| {
            format!("{}.lifecycle.{hook}.httpGet: with mTLS mode strict the request of the kubelet is refused: use exec", container.path)
        }));
    }
    let seconds = annotations.prestop_sleep.unwrap_or(prestop::DEFAULT_SECONDS);
    let sleep = settings.has_sleep_hook().then(|| prestop::add(&mut pod, seconds)).flatten();
    let service = service_name(&pod);
    let resources = resources::resources(&annotations, &pod.spec, &earlier.containers);
    let capture = sidecar::capture(settings, &resources, &annotations);
    let proxy = sidecar::proxy(settings, &resources, &annotations, &performed, &service);
    let container = Container::added;
    if settings.has_native_sidecars() {
        pod.init_containers.splice(0..0, [capture, proxy].into_iter().filter_map(container));
    } else {
        pod.init_containers.splice(0..0, container(capture));
        pod.containers.splice(0..0, container(proxy));
    }
    pod.volumes.extend(volumes::volumes().into_iter().filter_map(|volume| volume.as_object().cloned()));
    InjectionStatus::new(sleep).write(&mut pod.annotations);
    Ok(Injection::Injected { pod: pod.into_value(), warnings })
}

/// Returns an error if an annotation of ours has a value that would refuse the pod.
pub(crate) fn check_annotations(annotations: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let annotations = annotations.iter().map(|(name, value)| (name.clone(), value.clone().into()));
    Annotations::parse(&annotations.collect()).map(drop)
}

/// What an earlier injection has added.
#[derive(Debug, Default)]
struct Earlier {
    /// The originals of the rewritten probes.
    probes: AppProbes,
    containers: Vec<Container>,
}

/// Removes and returns what an earlier injection has added, except rewritten probes. Without our status annotation nothing is
/// removed: a container of that name is not ours, and is refused.
fn remove_injected(pod: &mut Pod) -> Earlier {
    let Some(status) = InjectionStatus::read(&pod.annotations) else { return Earlier::default() };
    let Some(probes) =
        pod.all_containers().find(|container| container.name == PROXY_CONTAINER).map(sidecar::app_probes)
    else {
        return Earlier::default();
    };
    if let Some(sleep) = &status.prestop_sleep {
        prestop::remove(pod, sleep);
    }
    let is_own = |container: &mut Container| CONTAINERS.contains(&container.name.as_str());
    let containers =
        pod.init_containers.extract_if(.., is_own).chain(pod.containers.extract_if(.., is_own)).collect();
    let name = |volume: &Object| volume.get("name").and_then(Value::as_str).map(str::to_owned);
    pod.volumes.retain(|volume| !name(volume).is_some_and(|name| VOLUMES.contains(&name.as_str())));
    Earlier { probes, containers }
}

/// Returns a warning if the pod does not use the DNS of the cluster.
fn dns_warning(pod: &Pod, settings: &Settings) -> Option<String> {
    let policy = pod.spec.get("dnsPolicy")?.as_str().filter(|policy| ["Default", "None"].contains(policy))?;
    Some(format!(
        "spec.dnsPolicy: with {policy}, the pod starts only if its name servers or spec.hostAliases have the name of {}",
        settings.control_plane
    ))
}

/// Returns the name of the service for telemetry: the label that names the application, else the name of the workload that made the
/// pod, else that of the first container.
fn service_name(pod: &Pod) -> String {
    let label = |name: &str| pod.labels.get(name).and_then(Value::as_str).filter(|value| !value.is_empty());
    let named = label("app.kubernetes.io/name").or_else(|| label("app"));
    let name = named
        .or_else(|| pod.workload_name())
        .or_else(|| pod.containers.first().map(|first| first.name.as_str()));
    name.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
