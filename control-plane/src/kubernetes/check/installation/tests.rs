//! Tests of what is wrong with a cluster.

use serde_json::{Value, json};

use super::*;

fn read<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

fn now() -> Timestamp {
    "2026-11-28T12:00:00Z".parse().unwrap()
}

/// Returns a certificate that ends after some days, as PEM.
fn certificate(days: i64) -> String {
    let mut params = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
    let end = now() + SignedDuration::from_hours(24 * days);
    params.not_before = std::time::SystemTime::UNIX_EPOCH.into();
    params.not_after = std::time::SystemTime::from(end).into();
    params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
}

fn webhook_with(bundle: &str) -> MutatingWebhookConfiguration {
    use base64::Engine as _;
    let bundle = base64::engine::general_purpose::STANDARD.encode(bundle);
    read(json!({ "webhooks": [{
        "name": "pod.inject.outrigger.dev", "clientConfig": { "caBundle": bundle },
        "admissionReviewVersions": ["v1"], "sideEffects": "None",
    }] }))
}

/// A cluster in which everything is as it should be.
fn healthy() -> ClusterState {
    let release = Some("v1.6.3".to_owned());
    let crds = ["httproutes", "grpcroutes"]
        .map(|kind| (format!("{kind}.gateway.networking.k8s.io"), release.clone()));
    ClusterState {
        minor: 34,
        now: now(),
        clocks: [("a".into(), SignedDuration::from_secs(-9))].into(),
        crds: crds.into(),
        namespaces: vec![read(
            json!({ "metadata": { "name": "shop", "labels": { "outrigger.dev/inject": "enabled" } } }),
        )],
        pods: vec![pod("web", json!({}), json!({}))],
        control_plane: Some(read(json!({
            "spec": { "selector": {}, "template": { "spec": { "containers": [
                { "name": "control-plane", "args": ["--kubernetes", "--proxy-image=outrigger/proxy:2"] },
            ] } } },
            "status": { "readyReplicas": 1 },
        }))),
        services: vec![],
        nodes: vec![node("a", json!({}), "True")],
        webhook: Some(webhook_with(&certificate(300))),
        roots: Some(certificate(31)),
    }
}

fn node(name: &str, spec: Value, ready: &str) -> Node {
    read(json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/os": "linux" } }, "spec": spec,
        "status": { "conditions": [{ "type": "Ready", "status": ready }] },
    }))
}

/// A pod of the CNI plugin.
fn plugin(node: &str, ready: &str) -> Pod {
    read(json!({
        "metadata": { "name": node, "namespace": "outrigger-cni", "labels": { "app.kubernetes.io/name": "outrigger-cni" } },
        "spec": { "nodeName": node, "hostNetwork": true, "containers": [] },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": ready }] },
    }))
}

/// A running pod of the Deployment `name`, whose sidecar is version 2. The fields of `metadata` and `spec` replace its own.
fn pod(name: &str, metadata: Value, spec: Value) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": format!("{name}-5d-x"), "namespace": "shop",
            "labels": { "pod-template-hash": "5d" },
            "annotations": { "outrigger.dev/status": "{}" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-5d"), "uid": "" }],
        },
        "spec": { "containers": [], "initContainers": [{ "name": "outrigger-proxy", "image": "outrigger/proxy:2" }] },
        "status": { "phase": "Running" },
    });
    for (part, fields) in [("metadata", metadata), ("spec", spec)] {
        for (field, value) in fields.as_object().unwrap() {
            pod[part][field] = value.clone();
        }
    }
    read(pod)
}

fn found(state: &ClusterState) -> Vec<(&'static str, String, String)> {
    let found = problems(state, None).into_iter();
    found
        .map(|one| (one.problem.code.name(), one.resource.unwrap_or_default(), one.problem.message))
        .collect()
}

/// Returns the only problem of a healthy cluster after a change.
fn only(change: impl FnOnce(&mut ClusterState)) -> (&'static str, String, String) {
    let mut state = healthy();
    change(&mut state);
    let [one] = &found(&state)[..] else { panic!("{:?}", found(&state)) };
    one.clone()
}

#[test]
fn a_healthy_cluster_has_no_problem() {
    assert_eq!(found(&healthy()), []);
}

#[test]
fn an_old_cluster_and_missing_or_old_crds_are_reported() {
    assert_eq!(only(|state| state.minor = 28).0, "old-cluster");
    let missing = only(|state| drop(state.crds.remove("grpcroutes.gateway.networking.k8s.io")));
    assert!(missing.0 == "missing-crds" && missing.2.ends_with("no grpcroutes"), "{missing:?}");
    let old = only(|state| state.crds.values_mut().for_each(|release| *release = Some("v1.0.0".into())));
    assert!(old.0 == "old-crds" && old.2.contains("httproutes.gateway.networking.k8s.io v1.0.0"), "{old:?}");
}

#[test]
fn a_clock_may_differ_by_a_minute() {
    for (seconds, message) in [(-61, "61 s behind"), (61, "61 s ahead of")] {
        let wrong = only(|state| {
            state.clocks.extend([
                ("b".to_owned(), SignedDuration::from_secs(seconds)),
                ("c".to_owned(), SignedDuration::from_mins(1)),
            ]);
        });
        assert!(wrong.0 == "clock-skew" && wrong.1 == "Node b" && wrong.2.contains(message), "{wrong:?}");
    }
}

#[test]
fn before_the_installation_only_its_absence_is_reported() {
    let absent = only(|state| {
        *state = ClusterState { control_plane: None, webhook: None, roots: None, ..healthy() };
    });
    assert_eq!(absent.0, "not-installed");
}

#[test]
fn a_control_plane_without_a_ready_replica_is_reported() {
    let down = only(|state| state.control_plane.as_mut().unwrap().status = None);
    assert_eq!(down.0, "control-plane-not-ready");
}

#[test]
fn a_webhook_that_cannot_be_called_is_reported() {
    for (webhook, message) in [
        (None, "does not exist"),
        (Some(webhook_with("")), "no certificate yet"),
        (Some(webhook_with(&certificate(-1))), "ended at 2026-11-27"),
    ] {
        let unusable = only(|state| state.webhook = webhook);
        assert!(unusable.0 == "unusable-webhook" && unusable.2.contains(message), "{unusable:?}");
    }
    let renewed = [certificate(-1), certificate(1)].concat();
    assert_eq!(found(&ClusterState { webhook: Some(webhook_with(&renewed)), ..healthy() }), []);
}

#[test]
fn a_root_that_ends_within_a_month_is_reported_unless_another_lasts_longer() {
    assert_eq!(only(|state| state.roots = Some(certificate(29))).0, "expiring-roots");
    let rotated = [certificate(29), certificate(300)].concat();
    assert_eq!(found(&ClusterState { roots: Some(rotated), ..healthy() }), []);
}

#[test]
fn workloads_with_outdated_sidecars_are_reported_once() {
    let old = || json!({ "initContainers": [{ "name": "outrigger-proxy", "image": "outrigger/proxy:1" }] });
    let outdated = only(|state| {
        state.pods.extend([pod("cart", json!({}), old()), pod("cart", json!({}), old())]);
    });
    assert_eq!(outdated.0, "old-sidecar");
    assert_eq!(outdated.1, "Workload shop/cart");
    assert!(outdated.2.contains("outrigger/proxy:1") && outdated.2.ends_with("(2 pods)"), "{outdated:?}");
}

#[test]
fn a_pod_without_its_sidecar_is_reported_unless_it_is_to_have_none() {
    let none = || json!({ "annotations": {} });
    assert_eq!(only(|state| state.pods.push(pod("cart", none(), json!({})))).0, "missing-sidecar");
    let elsewhere = json!({ "annotations": {}, "namespace": "default" });
    let opted_out = json!({ "annotations": {}, "labels": { "outrigger.dev/inject": "disabled" } });
    let leaving = json!({ "annotations": {}, "deletionTimestamp": "2026-11-28T12:00:00Z" });
    let pods = vec![
        pod("a", elsewhere.clone(), json!({})),
        pod("b", opted_out, json!({})),
        pod("c", none(), json!({ "hostNetwork": true })),
        pod("w", none(), json!({ "os": { "name": "windows" } })),
        pod("d", leaving, json!({})),
        pod("e", json!({ "annotations": { "kubernetes.io/config.mirror": "" } }), json!({})),
        pod(
            "f",
            json!({ "annotations": {}, "namespace": "kube-system", "labels": { "outrigger.dev/inject": "enabled" } }),
            json!({}),
        ),
    ];
    assert_eq!(found(&ClusterState { pods, ..healthy() }), []);
    let by_itself =
        json!({ "annotations": {}, "namespace": "default", "labels": { "outrigger.dev/inject": "enabled" } });
    assert_eq!(only(|state| state.pods.push(pod("e", by_itself, json!({})))).0, "missing-sidecar");
}

#[test]
fn a_node_without_a_ready_pod_of_the_cni_plugin_is_reported_if_pods_need_the_plugin() {
    let nodes = || {
        vec![
            node("a", json!({}), "True"),
            node("b", json!({}), "True"),
            node("cordoned", json!({ "unschedulable": true }), "True"),
            node("down", json!({}), "Unknown"),
        ]
    };
    let with_plugin = |state: &mut ClusterState, ready: &str| {
        let pod = &mut state.control_plane.as_mut().unwrap().spec.as_mut().unwrap().template.spec;
        pod.as_mut().unwrap().containers[0].args.as_mut().unwrap().push("--capture=cni".into());
        (state.nodes, state.pods) = (nodes(), vec![plugin("a", "True"), plugin("b", ready)]);
    };
    let missing = only(|state| with_plugin(state, "False"));
    assert_eq!((missing.0, missing.1.as_str()), ("cni-plugin-not-ready", "Node b"));
    let mut state = healthy();
    with_plugin(&mut state, "True");
    assert_eq!(found(&state), []);
    assert_eq!(found(&ClusterState { nodes: nodes(), ..healthy() }), [], "init containers redirect");
}

#[test]
fn only_pods_of_the_given_namespace_are_reported() {
    let mut state = healthy();
    state.pods.push(pod("cart", json!({ "annotations": {} }), json!({})));
    assert_eq!(problems(&state, Some("shop")).len(), 1);
    assert_eq!(problems(&state, Some("other")), []);
}
