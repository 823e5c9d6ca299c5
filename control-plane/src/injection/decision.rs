//! Whether a pod is injected at all.

use serde_json::Value;

use super::layout::{DISABLED, ENABLED, INJECT_LABEL, MIRROR, SYSTEM_NAMESPACES};
use super::pod::{Pod, nested};
use super::refusal::Refusal;

/// Returns true if a pod has opted in, as the selectors of the webhook say: by its own label, if it has one, else by that of its namespace.
pub(crate) fn has_opted_in(namespace: &str, namespace_injected: bool, label: Option<&str>) -> bool {
    !SYSTEM_NAMESPACES.contains(&namespace) && label.map_or(namespace_injected, |value| value != DISABLED)
}

/// Returns why the pod is left alone; None if it is injected. The caller has found that it is opted in: the API server by the
/// selectors of the webhook, or a person by `outrigger inject`.
pub(super) fn reason_to_skip(pod: &Pod) -> Result<Option<&'static str>, Refusal> {
    match pod.labels.get(INJECT_LABEL) {
        None => {}
        Some(Value::String(value)) if value == ENABLED => {}
        Some(Value::String(value)) if value == DISABLED => {
            return Ok(Some("its label outrigger.dev/inject is disabled"));
        }
        Some(_) => {
            let problem = format!("must be {ENABLED} or {DISABLED}");
            return Err(Refusal::new(format!("metadata.labels[{INJECT_LABEL}]"), problem));
        }
    }
    if pod.spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        return Ok(Some("it has spec.hostNetwork: a redirection would be that of the node"));
    }
    if nested(&pod.spec, ["os", "name"]).and_then(Value::as_str) == Some("windows") {
        return Ok(Some("it runs on Windows"));
    }
    if pod.annotations.contains_key(MIRROR) {
        return Ok(Some("it is the mirror of a static pod, which cannot be changed"));
    }
    Ok(None)
}
