//! What is kept of a pod: who it is, where it is reached, and how its sidecar is configured. Pure.
//!
//! A cluster may have 10,000 pods, so only these few fields are decoded, and less is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::object::Object;
use outrigger_core::Name;
use serde::{Deserialize, Serialize};

use super::cni::role::{CniRole, Observed};
use crate::injection::layout::{CAPTURE_CHECK_CONTAINER, INJECT_LABEL, MIRROR};
use crate::model::registration::MtlsMode;

/// The annotation that the webhook writes: the pod has a sidecar.
const STATUS: &str = "outrigger.dev/status";
/// `8080=permissive,9090=strict`
const MTLS_PORTS: &str = "outrigger.dev/mtls-ports";
/// `3306,6379`: ports whose protocol is not detected.
const OPAQUE_PORTS: &str = "outrigger.dev/opaque-ports";
/// Ports that the sidecar does not capture.
const EXCLUDED_PORTS: &str = "outrigger.dev/exclude-inbound-ports";
/// The container of the sidecar, whose own ports are none of the application.
const SIDECAR: &str = "outrigger-proxy";

/// A pod of the API server, with the fields that are read.
pub(super) type ApiPod = Object<PodSpec, PodStatus>;

/// `PodSpec`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodSpec {
    service_account_name: Option<String>,
    host_network: bool,
    node_name: Option<String>,
    os: Option<Os>,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Os {
    name: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    name: String,
    ports: Vec<ContainerPort>,
    restart_policy: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerPort {
    name: Option<String>,
    container_port: i64,
    protocol: Option<String>,
}

/// `PodStatus`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
    start_time: Option<Time>,
    conditions: Vec<Condition>,
    init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    r#type: String,
    status: String,
    last_transition_time: Option<Time>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    ready: bool,
    restart_count: i64,
}

/// A pod that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    /// Its addresses, the primary one first; none before the network is set up.
    pub(super) ips: Vec<IpAddr>,
    /// Whether its addresses are those of its node.
    pub(super) host_network: bool,
    /// None if it has no sidecar: little else matters then.
    pub(super) sidecar: Option<Sidecar>,
    /// A pod that runs without a sidecar, and might have one.
    pub(super) without_sidecar: Option<WithoutSidecar>,
    /// What it is to the CNI plugin, if anything.
    pub(super) cni: Option<CniRole>,
}

/// A pod that runs without a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WithoutSidecar {
    pub(super) uid: Name,
    /// Its label `outrigger.dev/inject`.
    pub(super) inject: Option<Name>,
}

/// A pod with a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sidecar {
    pub(super) service_account: Name,
    pub(super) node: Option<Name>,
    pub(super) labels: BTreeMap<Name, Name>,
    /// The TCP ports that its containers declare, each with its name or an empty one.
    pub(super) ports: Vec<(Name, u16)>,
    pub(super) ready: bool,
    pub(super) terminating: bool,
    pub(super) mtls: BTreeMap<u16, MtlsMode>,
    pub(super) opaque: BTreeSet<u16>,
    pub(super) excluded: BTreeSet<u16>,
}

impl Pod {
    /// Reads a pod. Returns None if it has ended: its addresses may be another's by now.
    pub(super) fn read(pod: ApiPod) -> Option<Self> {
        let Object { types: _, metadata, spec, status } = pod;
        let PodStatus { phase, pod_ips, start_time, conditions, init_container_statuses } =
            status.unwrap_or_default();
        if matches!(phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let ready = conditions.iter().find(|one| one.r#type == "Ready" && one.status == "True");
        // After its first failure, the kubelet starts the container again.
        let failed = |one: &ContainerStatus| {
            one.name == CAPTURE_CHECK_CONTAINER && !one.ready && one.restart_count > 0
        };
        let cni = CniRole::of(&Observed {
            metadata: &metadata,
            node: spec.node_name.as_deref(),
            started: start_time.map(|time| time.0),
            ready_since: ready.and_then(|ready| ready.last_transition_time.as_ref()).map(|time| time.0),
            check_failed: init_container_statuses.iter().any(failed),
        });
        let ips = pod_ips.iter().filter_map(|one| one.ip.parse().ok()).collect();
        let annotations = metadata.annotations.unwrap_or_default();
        // A pod in the network of its node is left alone: the addresses are the node's.
        if spec.host_network || !annotations.contains_key(STATUS) {
            let runs = phase.as_deref() == Some("Running") && metadata.deletion_timestamp.is_none();
            // The webhook leaves these alone, too.
            let is_windows = spec.os.as_ref().is_some_and(|os| os.name == "windows");
            let skipped = spec.host_network || is_windows || annotations.contains_key(MIRROR);
            let without_sidecar = (runs && !skipped).then(|| WithoutSidecar {
                uid: metadata.uid.unwrap_or_default().into(),
                inject: metadata.labels.unwrap_or_default().remove(INJECT_LABEL).map(Name::from),
            });
            return Some(Self { ips, host_network: spec.host_network, sidecar: None, without_sidecar, cni });
        }
        let annotation = |name: &str| annotations.get(name).map_or("", String::as_str);
        let labels = metadata.labels.unwrap_or_default().into_iter();
        let sidecar = Sidecar {
            service_account: spec.service_account_name.as_deref().unwrap_or("default").into(),
            labels: labels.map(|(key, value)| (key.into(), value.into())).collect(),
            ports: declared_ports(&spec),
            node: spec.node_name.as_deref().map(Name::from),
            ready: ready.is_some(),
            terminating: metadata.deletion_timestamp.is_some(),
            mtls: items(annotation(MTLS_PORTS)).filter_map(port_mode).collect(),
            opaque: ports(annotation(OPAQUE_PORTS)),
            excluded: ports(annotation(EXCLUDED_PORTS)),
        };
        Some(Self { ips, host_network: false, sidecar: Some(sidecar), without_sidecar: None, cni })
    }
}

fn declared_ports(spec: &PodSpec) -> Vec<(Name, u16)> {
    let sidecars = spec.init_containers.iter().filter(|one| one.restart_policy.as_deref() == Some("Always"));
    let applications = spec.containers.iter().chain(sidecars).filter(|one| one.name != SIDECAR);
    let tcp = applications
        .flat_map(|container| &container.ports)
        .filter(|port| matches!(port.protocol.as_deref(), None | Some("TCP")));
    let mut all: Vec<(Name, u16)> = tcp
        .filter_map(|port| {
            let number = u16::try_from(port.container_port).ok().filter(|number| *number != 0)?;
            Some((port.name.as_deref().unwrap_or_default().into(), number))
        })
        .collect();
    all.sort_unstable_by_key(|(_, number)| *number);
    all.dedup();
    all
}

// The webhook refuses malformed annotations. Items that cannot be read were added later, and have no effect; `outrigger check` reports them.

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

fn ports(list: &str) -> BTreeSet<u16> {
    items(list).filter_map(|item| item.parse().ok()).collect()
}

fn port_mode(item: &str) -> Option<(u16, MtlsMode)> {
    let (port, mode) = item.split_once('=')?;
    // Any other mode is strict, as in the label of a namespace: a misspelled `strict` must not let clients without mTLS in.
    let mode = if mode == "permissive" { MtlsMode::Permissive } else { MtlsMode::Strict };
    Some((port.parse().ok()?, mode))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(pod: Value) -> Option<Pod> {
        Pod::read(serde_json::from_value(pod).unwrap())
    }

    fn running(metadata: Value, spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {
            "phase": "Running", "podIPs": [{"ip": "10.1.0.7"}, {"ip": "fd00::7"}], "qosClass": "Burstable",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-28T12:00:00Z"}],
        }})
    }

    #[test]
    fn a_pod_with_a_sidecar_is_read_with_its_ports_and_annotations() {
        let pod = running(
            json!({"name": "cart-1", "namespace": "shop", "labels": {"app": "cart"}, "annotations": {
                "outrigger.dev/status": "{}", "outrigger.dev/mtls-ports": "8080=permissive, 9090=strict, 9091=strickt, x",
                "outrigger.dev/opaque-ports": "3306", "outrigger.dev/exclude-inbound-ports": "9102, ,z"}}),
            json!({"serviceAccountName": "cart", "nodeName": "a", "containers": [
                {"name": "app", "image": "x", "ports": [{"containerPort": 8080, "name": "http"}, {"containerPort": 53, "protocol": "UDP"}]},
                {"name": "other", "ports": [{"containerPort": 70_000}]}],
                "initContainers": [
                    {"name": "outrigger-proxy", "restartPolicy": "Always", "ports": [{"containerPort": 15020}]},
                    {"name": "cache", "restartPolicy": "Always", "ports": [{"containerPort": 6379}]},
                    {"name": "first", "ports": [{"containerPort": 1}]}]}),
        );
        let Pod { ips, host_network: _, sidecar, without_sidecar, cni: _ } = read(pod).unwrap();
        assert_eq!(without_sidecar, None);
        assert_eq!(ips, ["10.1.0.7", "fd00::7"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        let expected = Sidecar {
            service_account: "cart".into(),
            node: Some("a".into()),
            labels: BTreeMap::from([("app".into(), "cart".into())]),
            ports: vec![("".into(), 6379), ("http".into(), 8080)],
            ready: true,
            terminating: false,
            mtls: BTreeMap::from([
                (8080, MtlsMode::Permissive),
                (9090, MtlsMode::Strict),
                (9091, MtlsMode::Strict),
            ]),
            opaque: BTreeSet::from([3306]),
            excluded: BTreeSet::from([9102]),
        };
        assert_eq!(sidecar, Some(expected));
    }

    #[test]
    fn pods_without_a_sidecar_or_in_their_nodes_network_have_addresses_alone() {
        let injected = json!({"name": "a", "annotations": {"outrigger.dev/status": "{}"}});
        let plain = read(running(json!({"name": "a"}), json!({}))).unwrap();
        let host = read(running(injected, json!({"hostNetwork": true}))).unwrap();
        let windows = read(running(json!({"name": "a"}), json!({"os": {"name": "windows"}}))).unwrap();
        for pod in [&plain, &host, &windows] {
            assert!(pod.sidecar.is_none() && pod.ips.len() == 2);
        }
        assert!(windows.without_sidecar.is_none(), "the webhook leaves it alone");
        assert!(plain.without_sidecar.is_some() && host.without_sidecar.is_none());
    }

    #[test]
    fn a_pod_that_has_ended_has_no_address_and_one_that_is_deleted_is_terminating() {
        for phase in ["Succeeded", "Failed"] {
            let mut ended = running(json!({"name": "a"}), json!({}));
            ended["status"]["phase"] = json!(phase);
            assert_eq!(read(ended), None);
        }
        let deleted = json!({"name": "a", "deletionTimestamp": "2026-11-28T12:00:00Z",
            "annotations": {"outrigger.dev/status": "{}"}});
        assert!(read(running(deleted, json!({}))).unwrap().sidecar.unwrap().terminating);
        let pending = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {}});
        let nothing =
            Pod { ips: Vec::new(), host_network: false, sidecar: None, without_sidecar: None, cni: None };
        assert_eq!(read(pending), Some(nothing));
    }
}
