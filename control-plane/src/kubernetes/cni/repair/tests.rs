use kube::runtime::watcher::Event;
use outrigger_core::identity::TrustDomain;
use serde_json::{Value, json};

use super::*;
use crate::kubernetes::workloads::Workloads;

/// Changes fields of an object, by JSON pointer.
fn changed(mut object: Value, changes: Value) -> Value {
    for (pointer, value) in changes.as_object().unwrap() {
        *object.pointer_mut(pointer).unwrap() = value.clone();
    }
    object
}

fn time(second: u32) -> String {
    format!("2026-11-28T12:00:{second:02}Z")
}

/// A pod that was started in a second of a minute, and whose verification has failed.
fn uncaptured(namespace: &str, name: &str, node: &str, second: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": namespace, "name": name, "uid": format!("{namespace}/{name}"),
            "annotations": { "outrigger.dev/status": "{}" }, "deletionTimestamp": null,
            "ownerReferences": [
                { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "w", "uid": namespace, "controller": true },
            ],
        },
        "spec": { "nodeName": node },
        "status": {
            "phase": "Pending", "startTime": time(second),
            "initContainerStatuses": [{ "name": "outrigger-capture-check", "ready": false, "restartCount": 1 }],
        },
    })
}

/// A pod of the plugin that became ready in a second of a minute.
fn plugin(node: &str, second: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": "outrigger-cni", "name": node, "labels": { "app.kubernetes.io/name": "outrigger-cni" },
        },
        "spec": { "nodeName": node, "hostNetwork": true },
        "status": {
            "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": time(second) }],
        },
    })
}

/// What the watch makes of pods.
fn state(pods: impl IntoIterator<Item = Value>) -> CniState {
    let mut workloads = Workloads::new(TrustDomain::parse("cluster.local").unwrap());
    pods.into_iter().for_each(|pod| workloads.apply(Event::Apply(serde_json::from_value(pod).unwrap())));
    workloads.take_cni().unwrap_or_default()
}

fn names(evicted: Vec<(PodKey, Name)>) -> Vec<String> {
    evicted.into_iter().map(|(key, _)| format!("{}/{}", key.namespace, key.name)).collect()
}

#[test]
fn a_pod_without_redirection_is_evicted_once_its_node_has_the_plugin() {
    let check = "/status/initContainerStatuses/0";
    let not_ready = json!({ "/status/conditions/0/status": "False" });
    let pods = [
        plugin("a", 30),
        changed(plugin("b", 30), not_ready),
        changed(plugin("c", 30), json!({ "/metadata/namespace": "shop" })),
        uncaptured("shop", "web", "a", 29),
        uncaptured("shop", "on-a-node-whose-plugin-is-not-ready", "b", 29),
        uncaptured("shop", "on-a-node-without-the-plugin", "c", 29),
        changed(uncaptured("shop", "1", "a", 29), json!({ "/metadata/ownerReferences": [] })),
        changed(uncaptured("shop", "2", "a", 29), json!({ "/metadata/annotations": {} })),
        changed(uncaptured("shop", "3", "a", 29), json!({ "/metadata/deletionTimestamp": time(40) })),
        changed(uncaptured("shop", "4", "a", 29), json!({ "/status/phase": "Failed" })),
        changed(uncaptured("shop", "5", "a", 29), json!({ format!("{check}/restartCount"): 0 })),
        changed(uncaptured("shop", "6", "a", 29), json!({ format!("{check}/ready"): true })),
        changed(uncaptured("shop", "7", "a", 29), json!({ format!("{check}/name"): "other" })),
    ];
    assert_eq!(names(Plan::default().next(&state(pods), Instant::now())), ["shop/web"]);
}

#[test]
fn a_pod_that_the_plugin_has_missed_is_reported_and_not_evicted() {
    let state = state([plugin("a", 30), uncaptured("shop", "web", "a", 30)]);
    assert!(Plan::default().next(&state, Instant::now()).is_empty());
    assert_eq!(missed_again(&state).len(), 1);
}

#[test]
fn a_namespace_with_many_pods_does_not_keep_others_waiting() {
    let many = (0..30).map(|n| uncaptured("aaa", &format!("{n:02}"), "a", 0));
    let few = (0..15).map(|n| uncaptured(&format!("n{n:02}"), "web", "a", 0));
    let state = state([plugin("a", 30)].into_iter().chain(many).chain(few));
    let (mut plan, now) = (Plan::default(), Instant::now());
    let first = names(plan.next(&state, now));
    assert_eq!(first.len(), AT_ONCE);
    assert_eq!((first[0].as_str(), first[9].as_str()), ("aaa/00", "n08/web"));
    let second = names(plan.next(&state, now));
    assert_eq!((second[0].as_str(), second[5].as_str()), ("n09/web", "n14/web"));
    assert!(second[6..].iter().all(|name| name.starts_with("aaa/")), "{second:?}");
}

#[test]
fn a_pod_that_stays_is_evicted_after_growing_pauses() {
    let state = state([plugin("a", 30), uncaptured("shop", "web", "a", 0)]);
    let (mut plan, start) = (Plan::default(), Instant::now());
    let evicted =
        (0..200).filter(|second| !plan.next(&state, start + Duration::from_secs(*second)).is_empty());
    assert_eq!(evicted.collect::<Vec<_>>(), [0, 10, 30, 70, 150]);
}

#[test]
fn a_plugin_that_becomes_ready_again_and_again_evicts_pods_of_an_owner_after_growing_pauses() {
    let (mut plan, start) = (Plan::default(), Instant::now());
    let mut evicted = Vec::new();
    for second in (0..55).step_by(5) {
        let pods = ["1", "2"].map(|name| uncaptured("shop", &format!("{second}-{name}"), "a", second));
        let state = state([plugin("a", second + 1)].into_iter().chain(pods));
        match plan.next(&state, start + Duration::from_secs(second.into())).len() {
            0 => {}
            count => evicted.push((second, count)),
        }
    }
    assert_eq!(evicted, [(0, 2), (10, 2), (30, 2)]);
}

#[test]
fn what_is_remembered_is_bounded() {
    let (mut plan, now) = (Plan::default(), Instant::now());
    let ready = Timestamp::UNIX_EPOCH;
    for n in 0..2 * REMEMBERED {
        let name: Name = n.to_string().as_str().into();
        let pod = MissedPod { uid: name.clone(), owner: name, node: "a".into(), started: ready };
        plan.remember(&pod, ready, now);
    }
    assert!(plan.pods.len() <= REMEMBERED && plan.owners.len() <= REMEMBERED);
}
