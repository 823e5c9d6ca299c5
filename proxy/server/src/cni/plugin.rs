//! The protocol of a CNI plugin (CNI specification 1.1.0): a command in the environment, a configuration on stdin, an answer on
//! stdout.
//!
//! The plugin stands last in a list: the pod has its interfaces. Pods without a sidecar are left alone. An error fails the
//! start of the pod, and the kubelet attempts it again.

use std::fs::File;
use std::os::fd::AsFd as _;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::capture::{CaptureError, Redirection};

/// The annotation of pods that have a sidecar.
const STATUS_ANNOTATION: &str = "outrigger.dev/status";

/// The annotations that exclude connections, and the flags of `capture` that they are.
const EXCLUSIONS: [(&str, &str); 3] = [
    ("outrigger.dev/exclude-inbound-ports", "--exclude-inbound-ports"),
    ("outrigger.dev/exclude-outbound-ports", "--exclude-outbound-ports"),
    ("outrigger.dev/exclude-outbound-cidrs", "--exclude-outbound-cidrs"),
];

/// The capability by which containerd (1.5) and CRI-O pass a pod's annotations to plugins.
pub(super) const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// Versions of the specification whose results are passed on as they are.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// An error of the plugin, with the code of the specification or, from 100 on, our own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PluginError {
    code: u32,
    message: String,
}

impl PluginError {
    /// Returns the answer of a failed command.
    pub(super) fn answer(&self, config: &str) -> Value {
        let config: Value = serde_json::from_str(config).unwrap_or_default();
        let version = config["cniVersion"].as_str().unwrap_or("1.1.0");
        json!({ "cniVersion": version, "code": self.code, "msg": format!("outrigger: {}", self.message) })
    }
}

fn error(code: u32, message: impl Into<String>) -> PluginError {
    PluginError { code, message: message.into() }
}

/// Executes a command and returns what it prints.
pub(super) fn execute(
    command: Option<&str>,
    namespace: Option<&str>,
    config: &str,
) -> Result<Option<Value>, PluginError> {
    let command = command.ok_or_else(|| error(4, "CNI_COMMAND is not set"))?;
    if command == "VERSION" {
        return Ok(Some(json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS })));
    }
    // The redirection is deleted with the network namespace, and nothing else is kept. A pod that could not start ends in this way, too.
    if matches!(command, "DEL" | "GC" | "STATUS") {
        return Ok(None);
    }
    let config: Value = serde_json::from_str(config)
        .map_err(|reason| error(6, format!("the configuration is no JSON: {reason}")))?;
    let redirection = redirection(&config)?;
    match command {
        "ADD" => {
            let result = config.get("prevResult").cloned();
            let result = result
                .ok_or_else(|| error(7, "there is no prevResult: it is to be the last plugin of a list"))?;
            if let Some(redirection) = redirection {
                enter(namespace)?;
                redirection.set().map_err(not_captured)?;
            }
            Ok(Some(result))
        }
        "CHECK" => {
            if redirection.is_some() {
                enter(namespace)?;
                Redirection::check().map_err(not_captured)?;
            }
            Ok(None)
        }
        other => Err(error(4, format!("CNI_COMMAND {other} is unknown"))),
    }
}

fn not_captured(reason: CaptureError) -> PluginError {
    error(100, format!("connections of the pod are not redirected: {reason}"))
}

/// Moves this thread into the pod's network namespace.
fn enter(namespace: Option<&str>) -> Result<(), PluginError> {
    let path = namespace.ok_or_else(|| error(4, "CNI_NETNS is not set"))?;
    let failed = |reason: std::io::Error| error(101, format!("network namespace {path}: {reason}"));
    let namespace = File::open(path).map_err(failed)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|reason| failed(reason.into()))
}

/// Returns the redirection that the pod's annotations ask for. Returns None if the pod has no sidecar.
fn redirection(config: &Value) -> Result<Option<Redirection>, PluginError> {
    let annotations = &config["runtimeConfig"][POD_ANNOTATIONS];
    if annotations.get(STATUS_ANNOTATION).is_none() {
        return Ok(None);
    }
    let mut flags = Vec::new();
    for (annotation, flag) in EXCLUSIONS {
        let Some(value) = annotations.get(annotation).and_then(Value::as_str) else { continue };
        let items: Vec<_> = value.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
        if !items.is_empty() {
            flags.push(format!("{flag}={}", items.join(",")));
        }
    }
    let redirection = Redirection::parse(&flags);
    redirection
        .map(Some)
        .map_err(|reason| error(102, format!("an annotation of the pod is invalid: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(annotations: Value) -> String {
        json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "type": "outrigger-cni",
            "prevResult": { "ips": [{ "address": "10.1.0.5/24" }] },
            "runtimeConfig": { POD_ANNOTATIONS: annotations },
        })
        .to_string()
    }

    #[test]
    fn a_pod_without_a_sidecar_is_left_alone() {
        for annotations in [json!(null), json!({}), json!({ "other": "1" })] {
            // There is no network namespace that could be entered.
            let answer = execute(Some("ADD"), None, &config(annotations)).unwrap();
            assert_eq!(answer, Some(json!({ "ips": [{ "address": "10.1.0.5/24" }] })));
        }
    }

    #[test]
    fn a_pod_with_a_sidecar_does_not_start_without_its_redirection() {
        let sidecar = config(json!({ STATUS_ANNOTATION: "{}" }));
        for command in ["ADD", "CHECK"] {
            assert_eq!(execute(Some(command), None, &sidecar).unwrap_err().code, 4);
            assert_eq!(execute(Some(command), Some("/nowhere"), &sidecar).unwrap_err().code, 101);
        }
        // Whatever is left of the pod.
        let invalid =
            config(json!({ STATUS_ANNOTATION: "{}", "outrigger.dev/exclude-inbound-ports": "ssh" }));
        assert_eq!(execute(Some("ADD"), None, &invalid).unwrap_err().code, 102);
        for pod in [sidecar, invalid] {
            assert_eq!(execute(Some("DEL"), None, &pod), Ok(None));
        }
    }

    #[test]
    fn exclusions_are_read_strictly() {
        let pod = |value: &str| {
            let annotations =
                json!({ STATUS_ANNOTATION: "{}", "outrigger.dev/exclude-inbound-ports": value });
            redirection(&serde_json::from_str(&config(annotations)).unwrap())
        };
        assert_eq!(pod("22, 9090").unwrap().unwrap().exclude_inbound_ports, [22, 9090]);
        assert!(pod("").unwrap().unwrap().exclude_inbound_ports.is_empty());
        for bad in ["22 --proxy-uid=0", "0", "all", "22;23"] {
            let error = pod(bad).unwrap_err();
            assert!(error.code == 102 && error.message.contains("--exclude-inbound-ports"), "{error:?}");
        }
    }

    #[test]
    fn errors_and_versions_are_answers_of_the_protocol() {
        let answer = execute(Some("VERSION"), None, "").unwrap().unwrap();
        assert_eq!(answer["supportedVersions"].as_array().unwrap().len(), 5);
        for (command, config, code) in
            [(None, "{}", 4), (Some("PAINT"), "{}", 4), (Some("ADD"), "{", 6), (Some("ADD"), "{}", 7)]
        {
            let error = execute(command, None, config).unwrap_err();
            assert_eq!(error.answer(config)["code"], code);
        }
        let answer = error(7, "x").answer(r#"{"cniVersion":"0.4.0"}"#);
        assert_eq!(answer, json!({ "cniVersion": "0.4.0", "code": 7, "msg": "outrigger: x" }));
    }
}
