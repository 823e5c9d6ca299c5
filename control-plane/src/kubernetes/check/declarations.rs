//! What is declared wrongly in a cluster, for `outrigger check`: labels of namespaces, annotations of pods with sidecars, ports of Services.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Namespace, Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;

use super::installation::{is_running, of};
use super::state::ClusterState;
use crate::injection::check_annotations;
use crate::injection::layout::{DISABLED, ENABLED, INJECT_LABEL, STATUS_ANNOTATION};
use crate::kubernetes::pod_name::workload_name;
use crate::model::diagnostic::Code;
use crate::model::resource::known_mtls_mode;
use crate::model::service::AppProtocol;
use crate::source::check::Located;

const MTLS_LABEL: &str = "outrigger.dev/mtls";

/// Returns the problems, of one namespace only if `namespace` is given.
pub(super) fn problems(state: &ClusterState, namespace: Option<&str>) -> Vec<Located> {
    let shown = |of: Option<String>| namespace.is_none_or(|only| of.as_deref() == Some(only));
    let labels =
        state.namespaces.iter().filter(|one| shown(one.metadata.name.clone())).filter_map(unknown_mode);
    let running: Vec<_> = state.pods.iter().filter(|pod| is_running(pod)).collect();
    // Pods of one workload have the same annotations.
    let annotations =
        running.iter().filter(|pod| shown(pod.namespace())).filter_map(|pod| bad_annotation(pod));
    let services = state.services.iter().filter(|service| shown(service.namespace()));
    let ports = services.flat_map(|service| unknown_target_ports(service, &running));
    let opt_ins =
        state.namespaces.iter().filter(|one| shown(one.metadata.name.clone())).filter_map(unknown_opt_in);
    let protocols = running.iter().filter(|pod| shown(pod.namespace()));
    let protocols = protocols.flat_map(|pod| contradicting_protocols(pod, &state.services));
    let problems = labels.chain(opt_ins).chain(annotations).chain(ports).chain(protocols);
    let problems: BTreeSet<_> = problems.collect();
    problems.into_iter().collect()
}

fn unknown_mode(namespace: &Namespace) -> Option<Located> {
    let mode = namespace.labels().get(MTLS_LABEL).filter(|mode| known_mtls_mode(mode).is_none())?;
    let message = format!("metadata.labels.{MTLS_LABEL}: unknown mode {mode:?}: its pods are strict");
    let resource = format!("Namespace {}", namespace.name_any());
    Some(of(Code::InvalidValue, resource, message, Some("write permissive or strict")))
}

/// The webhook is called for `enabled` alone.
fn unknown_opt_in(namespace: &Namespace) -> Option<Located> {
    let value = namespace
        .labels()
        .get(INJECT_LABEL)
        .filter(|value| ![ENABLED, DISABLED].contains(&value.as_str()))?;
    let message =
        format!("metadata.labels.{INJECT_LABEL}: unknown value {value:?}: its pods get no sidecars");
    let resource = format!("Namespace {}", namespace.name_any());
    Some(of(Code::InvalidValue, resource, message, Some("write enabled or disabled")))
}

/// The webhook refuses such a pod; an annotation can be changed later.
fn bad_annotation(pod: &Pod) -> Option<Located> {
    pod.annotations().get(STATUS_ANNOTATION)?;
    let refusal = check_annotations(pod.annotations()).err()?;
    let workload = format!("Workload {}/{}", pod.namespace().unwrap_or_default(), workload_name(pod));
    let help = "correct it in the template of the pod: a new pod with it is refused";
    Some(of(Code::InvalidValue, workload, refusal.to_string(), Some(help)))
}

/// Returns a problem for each port whose name no container of the selected pods has: it has no endpoints. Without a pod, none is reported.
fn unknown_target_ports(service: &Service, pods: &[&Pod]) -> Vec<Located> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let selected: Vec<_> = pods.iter().filter(|pod| selects(service, pod)).collect();
    if selected.is_empty() {
        return Vec::new();
    }
    let named = selected.iter().flat_map(|pod| named_ports(pod));
    let declared: BTreeSet<_> = named.map(|(name, protocol, _)| (name, protocol)).collect();
    let unknown = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let Some(IntOrString::String(name)) = &port.target_port else { return None };
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if declared.contains(&(name.as_str(), protocol)) {
            return None;
        }
        let message =
            format!("port {} targets the port {name:?}, which no container of its pods declares", port.port);
        let names: Vec<_> =
            declared.iter().filter(|(_, of)| *of == protocol).map(|(name, _)| *name).collect();
        let help = match names.is_empty() {
            true => "name the port of the container, or write its number as targetPort".to_owned(),
            false => format!("they declare {}", names.join(", ")),
        };
        let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
        Some(of(Code::UnknownTargetPort, format!("Service {namespace}/{name}"), message, Some(&help)))
    };
    spec.ports.iter().flatten().filter_map(unknown).collect()
}

/// Returns a problem for each port of a pod with a sidecar for which Services declare protocols that contradict each other.
fn contradicting_protocols(pod: &Pod, services: &[Service]) -> Vec<Located> {
    if !pod.annotations().contains_key(STATUS_ANNOTATION) {
        return Vec::new();
    }
    let mut ports: BTreeMap<i32, BTreeSet<(AppProtocol, String)>> = BTreeMap::new();
    for service in services.iter().filter(|service| selects(service, pod)) {
        let declared = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        for port in declared.filter(|port| matches!(port.protocol.as_deref(), None | Some("TCP"))) {
            let number = match &port.target_port {
                None => Some(port.port),
                Some(IntOrString::Int(number)) => Some(*number),
                Some(IntOrString::String(target)) => named_ports(pod)
                    .find(|(name, protocol, _)| name == target && *protocol == "TCP")
                    .map(|(.., number)| number),
            };
            let name = port.name.as_deref().unwrap_or_default();
            let protocol = AppProtocol::declared(port.app_protocol.as_deref(), name);
            let Some(number) = number.filter(|_| protocol != AppProtocol::Detect) else { continue };
            let text = port.app_protocol.as_deref().unwrap_or(name);
            let declaration = format!("{text} by port {} of Service {}", port.port, service.name_any());
            ports.entry(number).or_default().insert((protocol, declaration));
        }
    }
    let contradicting = ports.into_iter().filter(|(_, declared)| {
        AppProtocol::common(declared.iter().map(|(protocol, _)| *protocol)).is_none()
    });
    let problem = |(number, declared): (i32, BTreeSet<(AppProtocol, String)>)| {
        let declared: Vec<_> = declared.into_iter().map(|(_, text)| text).collect();
        let message = format!(
            "the protocol of its port {number} is {}: it is detected, and requests from sidecars reach the application over HTTP/1.1, gRPC \
             over HTTP/2",
            declared.join(" and ")
        );
        let workload = format!("Workload {}/{}", pod.namespace().unwrap_or_default(), workload_name(pod));
        let help =
            "declare the same appProtocol, which is kubernetes.io/h2c if the application speaks HTTP/2";
        of(Code::ContradictingAppProtocols, workload, message, Some(help))
    };
    contradicting.map(problem).collect()
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    pod.namespace() == service.namespace()
        && selector.is_some_and(|selector| {
            !selector.is_empty() && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
        })
}

/// Returns the named ports that a pod declares, with their protocols and numbers.
fn named_ports(pod: &Pod) -> impl Iterator<Item = (&str, &str, i32)> {
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let containers = pod.spec.iter().flat_map(move |spec| {
        spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(is_sidecar))
    });
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| {
        Some((port.name.as_deref()?, port.protocol.as_deref().unwrap_or("TCP"), port.container_port))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read<K: serde::de::DeserializeOwned>(object: Value) -> K {
        serde_json::from_value(object).unwrap()
    }

    fn pod(annotations: Value) -> Pod {
        read(json!({
            "metadata": { "name": "web", "namespace": "shop", "labels": { "app": "web" }, "annotations": annotations },
            "spec": {
                "containers": [{ "name": "app", "ports": [
                    { "containerPort": 8080, "name": "http" }, { "containerPort": 53, "name": "dns", "protocol": "UDP" },
                ] }],
                "initContainers": [{ "name": "cache", "restartPolicy": "Always", "ports": [{ "containerPort": 6379, "name": "redis" }] }],
            },
            "status": { "phase": "Running" },
        }))
    }

    fn service(selector: Value, target: Value) -> Service {
        read(json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "selector": selector, "ports": [{ "port": 80, "targetPort": target }] },
        }))
    }

    fn found(state: &ClusterState) -> Vec<(&'static str, String, String)> {
        problems(state, Some("shop"))
            .into_iter()
            .map(|found| (found.problem.code.name(), found.resource.unwrap(), found.problem.to_string()))
            .collect()
    }

    #[test]
    fn a_service_whose_named_target_port_no_container_declares_is_reported() {
        let of_web = || json!({ "app": "web" });
        for (selector, target, help) in [
            (of_web(), json!("htp"), Some("they declare http, redis")),
            (of_web(), json!("dns"), Some("they declare http, redis")),
            (of_web(), json!("http"), None),
            (of_web(), json!("redis"), None),
            (of_web(), json!(9999), None),
            (json!({ "app": "none" }), json!("htp"), None),
            (json!({}), json!("htp"), None),
        ] {
            let services = vec![service(selector, target.clone())];
            let state = ClusterState { services, pods: vec![pod(json!({}))], ..ClusterState::default() };
            let found = found(&state);
            assert_eq!(found.len(), usize::from(help.is_some()), "{target}: {found:?}");
            if let (Some((code, resource, text)), Some(help)) = (found.first(), help) {
                assert_eq!((*code, resource.as_str()), ("unknown-target-port", "Service shop/web"));
                assert!(
                    text.contains("which no container of its pods declares") && text.contains(help),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn an_unknown_value_of_the_injection_label_of_a_namespace_is_reported() {
        let of = |value: &str| ClusterState {
            namespaces: vec![read(
                json!({ "metadata": { "name": "shop", "labels": { INJECT_LABEL: value } } }),
            )],
            ..ClusterState::default()
        };
        let found_for_true = found(&of("true"));
        let [(code, resource, text)] = &found_for_true[..] else { panic!("{found_for_true:?}") };
        assert_eq!((*code, resource.as_str()), ("invalid-value", "Namespace shop"));
        assert!(
            text.contains("unknown value \"true\"") && text.contains("write enabled or disabled"),
            "{text}"
        );
        assert_eq!([found(&of("enabled")), found(&of("disabled"))], [[], []]);
    }

    #[test]
    fn services_that_declare_contradicting_protocols_for_one_port_are_reported_once_for_a_workload() {
        let declares = |name: &str, target: Value, protocol: &str| -> Service {
            read(json!({
                "metadata": { "name": name, "namespace": "shop" },
                "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": target, "appProtocol": protocol }] },
            }))
        };
        let meshed = || pod(json!({ STATUS_ANNOTATION: "{}" }));
        for (other, pod, reported) in [
            (declares("b", json!(8080), "kubernetes.io/h2c"), meshed(), true),
            (declares("b", json!(8080), "http"), meshed(), false),
            (declares("b", json!(8080), "example.com/own"), meshed(), false),
            (declares("b", json!(8081), "kubernetes.io/h2c"), meshed(), false),
            (declares("b", json!(8080), "kubernetes.io/h2c"), pod(json!({})), false),
        ] {
            let services = vec![declares("a", json!("http"), "http"), other];
            let state = ClusterState { services, pods: vec![pod.clone(), pod], ..ClusterState::default() };
            let found = found(&state);
            assert_eq!(found.len(), usize::from(reported), "{found:?}");
            for (code, resource, text) in found {
                assert_eq!((code, resource.as_str()), ("contradicting-app-protocols", "Workload shop/web"));
                let declared =
                    "port 8080 is http by port 80 of Service a and kubernetes.io/h2c by port 80 of Service b";
                assert!(text.contains(declared), "{text}");
            }
        }
    }

    #[test]
    fn an_unknown_mtls_mode_and_a_bad_annotation_are_reported() {
        let namespace = |name: &str, mode: &str| -> Namespace {
            read(json!({ "metadata": { "name": name, "labels": { MTLS_LABEL: mode } } }))
        };
        let bad = || json!({ STATUS_ANNOTATION: "{}", "outrigger.dev/mtls-ports": "8080=strickt" });
        let state = ClusterState {
            namespaces: vec![namespace("shop", "strickt"), namespace("other", "strickt")],
            pods: vec![pod(bad()), pod(bad()), pod(json!({ "outrigger.dev/mtls-ports": "x" }))],
            ..ClusterState::default()
        };
        let [label, annotation] = &found(&state)[..] else { panic!("{:?}", found(&state)) };
        assert!(label.0 == "invalid-value" && label.1 == "Namespace shop" && label.2.contains("\"strickt\""));
        assert!(annotation.1 == "Workload shop/web" && annotation.2.contains("outrigger.dev/mtls-ports"));
        let right = ClusterState {
            namespaces: vec![namespace("shop", "permissive")],
            pods: vec![pod(json!({ STATUS_ANNOTATION: "{}", "outrigger.dev/mtls-ports": "8080=strict" }))],
            ..ClusterState::default()
        };
        assert_eq!(found(&right), []);
    }
}
