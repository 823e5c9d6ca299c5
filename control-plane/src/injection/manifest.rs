//! Injection into manifests: any number of YAML documents or JSON, as kubectl reads and writes them.
//!
//! Documents without pods are passed through byte for byte.

use serde_json::Value;
use thiserror::Error;

use super::layout::SYSTEM_NAMESPACES;
use super::{Injection, Refusal, Settings, inject};
use crate::source::document::{parse, split};

/// What became of manifests.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifests {
    /// The documents, in their order.
    pub text: String,
    /// What their author should know: pods that are left alone, and warnings. Each begins with kind and name.
    pub notes: Vec<String>,
}

/// Why manifests cannot be injected.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// A document is not valid YAML.
    #[error("line {line}: {reason}")]
    Yaml {
        /// The line in the text, counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A pod is refused.
    #[error("{resource}: {refusal}")]
    Refused {
        /// Kind and name of the resource.
        resource: String,
        /// Why.
        refusal: Refusal,
    },
}

/// Injects every pod and every template of pods in `text`.
///
/// Returns an error, without a part of the output, if a document cannot be read or a pod is refused.
pub fn inject_manifests(text: &str, settings: &Settings) -> Result<Manifests, ManifestError> {
    let (mut output, mut notes, mut at) = (String::new(), Vec::new(), 0);
    for (_, line, document) in split(text) {
        let start = document.as_ptr().addr() - text.as_ptr().addr();
        let mut resource = parse(document)
            .map_err(|error| ManifestError::Yaml { line: line + error.line - 1, reason: error.reason })?;
        output.push_str(&text[at..start]);
        if inject_resource(&mut resource, settings, &mut notes)? {
            output.push_str(&written(document, &resource));
        } else {
            output.push_str(document);
        }
        at = start + document.len();
    }
    output.push_str(&text[at..]);
    Ok(Manifests { text: output, notes })
}

/// Injects the pods of a resource, and of the items of a list. Returns whether there was one.
fn inject_resource(
    resource: &mut Value,
    settings: &Settings,
    notes: &mut Vec<String>,
) -> Result<bool, ManifestError> {
    if let Some(Value::Array(items)) = resource.get_mut("items") {
        let mut injected = false;
        for item in items {
            injected |= inject_resource(item, settings, notes)?;
        }
        return Ok(injected);
    }
    let field = |name: &str| resource.get(name).and_then(Value::as_str).unwrap_or_default();
    let metadata = |name: &str| resource.pointer(&format!("/metadata/{name}")).and_then(Value::as_str);
    let Some(path) = template_path(field("apiVersion"), field("kind")) else { return Ok(false) };
    let name = metadata("name").or_else(|| metadata("generateName")).unwrap_or_default();
    let namespace = metadata("namespace").map_or_else(String::new, |namespace| format!("{namespace}/"));
    let title = format!("{} {namespace}{name}", field("kind"));
    if let Some(system) = metadata("namespace").filter(|namespace| SYSTEM_NAMESPACES.contains(namespace)) {
        notes.push(format!("{title}: not injected: pods of the namespace {system} never are"));
        return Ok(false);
    }
    let Some(pod) = resource.pointer_mut(path) else { return Ok(false) };
    match inject(pod.clone(), settings) {
        Ok(Injection::Injected { pod: injected, warnings }) => {
            *pod = injected;
            notes.extend(warnings.into_iter().map(|warning| format!("{title}: warning: {warning}")));
            Ok(true)
        }
        Ok(Injection::Skipped(reason)) => {
            notes.push(format!("{title}: not injected: {reason}"));
            Ok(false)
        }
        Err(refusal) => Err(ManifestError::Refused { resource: title, refusal }),
    }
}

/// Returns where a kind has its pod or the template of its pods, as a JSON pointer. Returns None for a kind without pods.
fn template_path(api_version: &str, kind: &str) -> Option<&'static str> {
    match (api_version, kind) {
        ("v1", "Pod") => Some(""),
        ("v1", "ReplicationController")
        | ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch/v1", "Job") => Some("/spec/template"),
        ("batch/v1", "CronJob") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

/// Writes a changed document as it was: as JSON, or as YAML, with its `---` line.
fn written(document: &str, resource: &Value) -> String {
    if document.trim_start().starts_with('{') {
        return format!("{resource:#}\n");
    }
    let marker = if document.starts_with("---") { "---\n" } else { "" };
    format!("{marker}{}", serde_saphyr::to_string(resource).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::injection::testing::settings;

    fn injected(text: &str) -> Manifests {
        inject_manifests(text, &settings()).unwrap()
    }

    fn values(text: &str) -> Vec<Value> {
        split(text).into_iter().map(|(_, _, document)| parse(document).unwrap()).collect()
    }

    const SPEC: &str =
        "spec: {containers: [{name: web, image: w, args: [\"yes\", \"0x10\", \"1:30\", \"a: b\\n\"]}]}";

    #[test]
    fn documents_without_pods_are_passed_through_byte_for_byte() {
        let text = "# head\n---\nkind:   Service # c\napiVersion: v1\n---\n\n---\nkind: Job\napiVersion: batch.volcano.sh/v1alpha1\nspec: {}\n...\n";
        assert_eq!(injected(text), Manifests { text: text.into(), notes: vec![] });
        assert_eq!(injected("").text, "");
    }

    #[test]
    fn pods_of_every_kind_are_injected_and_nothing_else_changes() {
        let template = SPEC.replace("spec: ", "");
        for (version, kind, spec, path) in [
            ("v1", "Pod", template.clone(), "/spec"),
            (
                "v1",
                "ReplicationController",
                format!("{{template: {{spec: {template}}}}}"),
                "/spec/template/spec",
            ),
            (
                "apps/v1",
                "Deployment",
                format!("{{replicas: 2, template: {{spec: {template}}}}}"),
                "/spec/template/spec",
            ),
            ("apps/v1", "StatefulSet", format!("{{template: {{spec: {template}}}}}"), "/spec/template/spec"),
            ("apps/v1", "DaemonSet", format!("{{template: {{spec: {template}}}}}"), "/spec/template/spec"),
            ("apps/v1", "ReplicaSet", format!("{{template: {{spec: {template}}}}}"), "/spec/template/spec"),
            ("batch/v1", "Job", format!("{{template: {{spec: {template}}}}}"), "/spec/template/spec"),
            (
                "batch/v1",
                "CronJob",
                format!("{{jobTemplate: {{spec: {{template: {{spec: {template}}}}}}}}}"),
                "/spec/jobTemplate/spec/template/spec",
            ),
        ] {
            let text = format!(
                "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n---\nkind: Service\n"
            );
            let Manifests { text: output, notes } = injected(&text);
            assert!(output.starts_with("---\n") && output.ends_with("---\nkind: Service\n"), "{output}");
            let (before, after) = (values(&text), values(&output));
            assert_eq!(after.len(), 2, "{output}");
            let container = format!("{path}/containers/0/args");
            assert_eq!(after[0].pointer(&container), before[0].pointer(&container));
            let sidecar = after[0].pointer(&format!("{path}/initContainers/1/name"));
            assert_eq!(sidecar, Some(&Value::from("outrigger-proxy")), "{kind}");
            assert_eq!(after[0].pointer("/spec/replicas"), before[0].pointer("/spec/replicas"));
            assert_eq!(injected(&output), Manifests { text: output, notes }, "a second time changes nothing");
        }
    }

    #[test]
    fn a_list_and_json_as_kubectl_writes_them_are_injected() {
        let text = r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}},
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": [{"name": "web"}]}}
        ]}"#;
        let list: Value = serde_json::from_str(&injected(text).text).unwrap();
        assert_eq!(list["items"][0]["kind"], "Service");
        assert_eq!(list["items"][1]["spec"]["initContainers"][1]["name"], "outrigger-proxy");
    }

    #[test]
    fn what_is_left_alone_is_noted_with_its_reason() {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, namespace: kube-system}}\n{SPEC}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: b}}\nspec: {{hostNetwork: true, containers: [{{name: x}}]}}\n"
        );
        let Manifests { text: output, notes } = injected(&text);
        assert_eq!(output, text);
        assert_eq!(notes[0], "Pod kube-system/a: not injected: pods of the namespace kube-system never are");
        assert!(notes[1].starts_with("Pod b: not injected: it has spec.hostNetwork"), "{notes:?}");
    }

    #[test]
    fn a_refusal_names_the_resource_and_invalid_yaml_its_line() {
        let refused = |text: &str| inject_manifests(text, &settings()).unwrap_err().to_string();
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: a, annotations: {{outrigger.dev/log-level: loud}}}}\n{SPEC}\n"
        );
        let refusal = refused(&pod);
        assert!(
            refusal.starts_with("Pod a: metadata.annotations[outrigger.dev/log-level]: `loud`"),
            "{refusal}"
        );
        assert!(refused("a: 1\n---\nb: [\n").starts_with("line "));
    }
}
