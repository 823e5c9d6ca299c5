//! A `preStop` sleep for application containers that declare no `preStop`.
//!
//! The kubelet sends SIGTERM at the same time as the endpoint is removed, and callers learn of the removal later. An application that
//! exits at once would lose the requests of that time. The grace period of the pod is raised by as much, so that the application
//! has as long for its shutdown as before.

use serde_json::{Value, json};

use super::pod::{Object, Pod};
use super::status::PrestopSleep;

/// How long the sleep is unless an annotation says so, in seconds.
pub(super) const DEFAULT_SECONDS: u64 = 5;

/// The grace period of a pod that declares none, in seconds.
const DEFAULT_GRACE_PERIOD: u64 = 30;

const GRACE_PERIOD: &str = "terminationGracePeriodSeconds";

/// Adds the sleep and raises the grace period. Returns what was added; None if every container has a `preStop`, or if the pod
/// has no grace period.
pub(super) fn add(pod: &mut Pod, seconds: u64) -> Option<PrestopSleep> {
    let grace = pod.spec.get(GRACE_PERIOD).map_or(Some(DEFAULT_GRACE_PERIOD), Value::as_u64)?;
    if seconds == 0 || grace == 0 {
        return None;
    }
    let mut containers = Vec::new();
    for container in &mut pod.containers {
        let lifecycle = container.fields.entry("lifecycle").or_insert_with(|| json!({}));
        if lifecycle.is_null() {
            *lifecycle = json!({});
        }
        if let Value::Object(lifecycle) = lifecycle
            && lifecycle.get("preStop").is_none_or(Value::is_null)
        {
            lifecycle.insert("preStop".to_owned(), sleep(seconds));
            containers.push(container.name.clone());
        }
    }
    if containers.is_empty() {
        return None;
    }
    pod.spec.insert(GRACE_PERIOD.to_owned(), json!(grace.saturating_add(seconds)));
    Some(PrestopSleep { seconds, containers })
}

/// Removes what an earlier injection added.
pub(super) fn remove(pod: &mut Pod, added: &PrestopSleep) {
    for container in pod.containers.iter_mut().filter(|container| added.containers.contains(&container.name))
    {
        if let Some(Value::Object(lifecycle)) = container.fields.get_mut("lifecycle")
            && lifecycle.get("preStop") == Some(&sleep(added.seconds))
        {
            lifecycle.remove("preStop");
            if lifecycle.is_empty() {
                container.fields.remove("lifecycle");
            }
        }
    }
    let raised = pod.spec.get(GRACE_PERIOD).and_then(Value::as_u64);
    if let Some(before) = raised.and_then(|raised| raised.checked_sub(added.seconds)) {
        pod.spec.insert(GRACE_PERIOD.to_owned(), json!(before));
    }
}

/// Returns the handler (KEP-3960).
fn sleep(seconds: u64) -> Value {
    json!({ "sleep": { "seconds": seconds } })
}

/// Returns the hooks of a container that the kubelet sends to the pod's address by HTTP, which strict mTLS refuses.
pub(super) fn http_hooks(lifecycle: Option<&Value>) -> impl Iterator<Item = &'static str> {
    let hooks = lifecycle.and_then(Value::as_object);
    let is_http = move |hook: &&str| {
        hooks
            .and_then(|hooks| hooks.get(*hook)?.as_object())
            .is_some_and(|hook: &Object| hook.contains_key("httpGet"))
    };
    ["postStart", "preStop"].into_iter().filter(is_http).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value) -> Pod {
        Pod::read(json!({ "spec": spec })).unwrap()
    }

    fn spec(pod: Pod) -> Value {
        pod.into_value()["spec"].take()
    }

    #[test]
    fn containers_without_a_prestop_sleep_and_the_grace_period_grows_by_as_much() {
        let mut pod = pod(json!({"containers": [
            {"name": "web"},
            {"name": "log", "lifecycle": {"preStop": {"exec": {"command": ["flush"]}}}},
            {"name": "job", "lifecycle": {"postStart": {"exec": {"command": ["x"]}}}},
        ]}));
        let before = pod.clone();
        let added = add(&mut pod, 5).unwrap();
        assert_eq!(added, PrestopSleep { seconds: 5, containers: vec!["web".into(), "job".into()] });
        let after = spec(pod.clone());
        assert_eq!(after["terminationGracePeriodSeconds"], 35);
        assert_eq!(after["containers"][0]["lifecycle"], json!({"preStop": {"sleep": {"seconds": 5}}}));
        assert_eq!(after["containers"][1]["lifecycle"], json!({"preStop": {"exec": {"command": ["flush"]}}}));
        assert_eq!(after["containers"][2]["lifecycle"]["preStop"], json!({"sleep": {"seconds": 5}}));
        remove(&mut pod, &added);
        let removed = spec(pod);
        assert_eq!(removed["containers"], spec(before)["containers"]);
        assert_eq!(removed["terminationGracePeriodSeconds"], 30);
    }

    #[test]
    fn nothing_is_added_without_a_grace_period_or_if_the_annotation_opts_out() {
        for (seconds, grace) in [(0, 30), (5, 0)] {
            let before = json!({"containers": [{"name": "web"}], "terminationGracePeriodSeconds": grace});
            let mut pod = pod(before.clone());
            assert_eq!(add(&mut pod, seconds), None);
            assert_eq!(spec(pod), before);
        }
    }

    #[test]
    fn hooks_by_http_are_found() {
        let lifecycle = json!({"preStop": {"httpGet": {"port": 80}}, "postStart": {"exec": {}}});
        assert_eq!(http_hooks(Some(&lifecycle)).collect::<Vec<_>>(), ["preStop"]);
        assert_eq!(http_hooks(None).count(), 0);
    }
}
