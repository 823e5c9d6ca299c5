//! Requests and limits of the containers that injection adds.
//!
//! Annotations come first. The capture container has the resources of the sidecar, because a ResourceQuota requires them of every
//! container.

use serde_json::{Value, json};

use super::annotations::{Annotations, Resources};
use super::pod::{Container, Object, nested};
use super::quantity::{Quantity, Resource};

const CPU_REQUEST: &str = "10m";
const MEMORY_REQUEST: &str = "32Mi";

/// Returns the field `resources` for the containers of a pod. `earlier` are the containers of an earlier injection.
///
/// The admission plugin LimitRanger sets the default limits of a namespace for the containers that the webhook has added, and then
/// the webhook is called again: limits that no annotation sets stay as they are.
///
/// A pod with resources of its own (`spec.resources`, KEP-2837) shares them with the sidecar: the sum of the requests of its
/// containers may not exceed them.
pub(super) fn resources(annotations: &Annotations, pod_spec: &Object, earlier: &[Container]) -> Value {
    let mut resources = json!({});
    for (name, kind, of, default) in [
        ("cpu", Resource::Cpu, &annotations.cpu, CPU_REQUEST),
        ("memory", Resource::Memory, &annotations.memory, MEMORY_REQUEST),
    ] {
        let Resources { request, limit } = of;
        let kept = earlier.iter().find_map(|container| limit_of(container, name));
        let default = (!is_set_for_pod(pod_spec, name)).then(|| match &kept {
            Some(limit) if is_greater(kind, default, limit) => limit.clone(),
            _ => default.to_owned(),
        });
        let limit = limit.as_ref().map(ToString::to_string);
        // A limit that an annotation sets is also the request, as in Kubernetes.
        if let Some(request) = request.as_ref().map(ToString::to_string).or_else(|| limit.clone()).or(default)
        {
            resources["requests"][name] = request.into();
        }
        if let Some(limit) = limit.or(kept) {
            resources["limits"][name] = limit.into();
        }
    }
    resources
}

fn is_greater(kind: Resource, one: &str, other: &str) -> bool {
    let [one, other] = [one, other].map(|text| Quantity::parse(kind, text).ok());
    one.zip(other).is_some_and(|(one, other)| one.is_greater(&other))
}

fn is_set_for_pod(spec: &Object, name: &str) -> bool {
    let of_pod = spec.get("resources").and_then(Value::as_object);
    of_pod.is_some_and(|of| ["requests", "limits"].iter().any(|list| nested(of, [list, name]).is_some()))
}

fn limit_of(container: &Container, name: &str) -> Option<String> {
    nested(container.fields.get("resources")?.as_object()?, ["limits", name])?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(values: Value) -> Annotations {
        Annotations::parse(values.as_object().unwrap()).unwrap()
    }

    fn spec(value: Value) -> Object {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn limits_that_an_admission_plugin_has_set_stay_and_annotations_come_first() {
        let earlier = Container::added(json!({
            "name": "outrigger-proxy",
            "resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": "200m", "memory": "128Mi"}},
        }));
        let annotations = annotations(json!({"outrigger.dev/proxy-cpu-limit": "50m"}));
        assert_eq!(
            resources(&annotations, &Object::new(), &[earlier.unwrap()]),
            json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "50m", "memory": "128Mi"}})
        );
    }

    #[test]
    fn a_request_is_at_most_the_limit_that_an_admission_plugin_has_set() {
        let earlier = Container::added(json!({
            "name": "outrigger-proxy", "resources": {"limits": {"cpu": "1", "memory": "20Mi"}},
        }));
        assert_eq!(
            resources(&annotations(json!({})), &Object::new(), &[earlier.unwrap()]),
            json!({"requests": {"cpu": "10m", "memory": "20Mi"}, "limits": {"cpu": "1", "memory": "20Mi"}})
        );
    }

    #[test]
    fn resources_of_the_pod_are_shared() {
        let none = annotations(json!({}));
        for (of_pod, expected) in [
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), json!({})),
            (json!({"requests": {"cpu": "1"}}), json!({"requests": {"memory": "32Mi"}})),
            (json!({}), json!({"requests": {"cpu": "10m", "memory": "32Mi"}})),
        ] {
            assert_eq!(resources(&none, &spec(json!({ "resources": of_pod })), &[]), expected);
        }
        let asked = annotations(json!({"outrigger.dev/proxy-cpu-request": "20m"}));
        let of_pod = spec(json!({"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}));
        assert_eq!(resources(&asked, &of_pod, &[]), json!({"requests": {"cpu": "20m"}}));
    }
}
