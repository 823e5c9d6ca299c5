//! The containers that injection adds: the sidecar, and the one that sets up or verifies the redirection.

use serde_json::{Value, json};

use super::annotations::Annotations;
use super::layout::{
    CAPTURE_CHECK_CONTAINER, CAPTURE_CHECK_UID, CAPTURE_CONTAINER, INBOUND_PORT, METRICS_PORT, OUTBOUND_PORT,
    PROXY_CONTAINER, PROXY_PROGRAM, PROXY_UID, ROOTS_DIRECTORY, ROOTS_VOLUME, STATE_DIRECTORY, STATE_VOLUME,
    TOKEN_DIRECTORY, TOKEN_VOLUME,
};
use super::pod::Container;
use super::probes::AppProbes;
use super::settings::{Capture, Settings};

/// The environment variable with the original probes, that of the flag `--app-probes`.
const APP_PROBES: &str = "OUTRIGGER_PROXY_APP_PROBES";

/// How often the startup probe may fail, once a second. A sidecar waits for its control plane; a restart would not help.
const STARTUP_FAILURES: u32 = 3600;

/// Returns the sidecar. `service` is the name under which it exports telemetry.
pub(super) fn proxy(
    settings: &Settings,
    resources: &Value,
    annotations: &Annotations,
    probes: &AppProbes,
    service: &str,
) -> Value {
    let mut args = vec![
        format!("--control-plane={}", settings.control_plane),
        format!("--control-plane-ca={ROOTS_DIRECTORY}/roots.pem"),
        format!("--token-file={TOKEN_DIRECTORY}/token"),
        format!("--state-dir={STATE_DIRECTORY}/proxy"),
        format!("--trust-domain={}", settings.trust_domain),
        format!("--cluster-domain={}", settings.cluster_domain),
        format!("--transparent-outbound=127.0.0.1:{OUTBOUND_PORT}"),
        format!("--transparent-outbound=[::1]:{OUTBOUND_PORT}"),
        format!("--transparent-inbound=[::]:{INBOUND_PORT}"),
        format!("--metrics-listen=[::]:{METRICS_PORT}"),
    ];
    if let Some(level) = annotations.log_level {
        args.push(format!("--log={level}"));
    }
    let mut container = json!({
        "name": PROXY_CONTAINER,
        "image": settings.proxy_image,
        "env": env(settings, probes, service),
        "ports": [{ "name": "outrigger-stats", "containerPort": METRICS_PORT, "protocol": "TCP" }],
        "resources": resources,
        "securityContext": security_context(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            { "name": TOKEN_VOLUME, "mountPath": TOKEN_DIRECTORY, "readOnly": true },
            { "name": ROOTS_VOLUME, "mountPath": ROOTS_DIRECTORY, "readOnly": true },
            { "name": STATE_VOLUME, "mountPath": STATE_DIRECTORY },
        ],
    });
    if settings.has_native_sidecars() {
        // The kubelet sends SIGTERM when the application's containers have ended: nothing needs the sidecar any more.
        args.extend(["--drain-minimum=0s".to_owned(), "--drain-quiet=0s".to_owned()]);
        container["restartPolicy"] = json!("Always");
        container["startupProbe"] = json!({
            "httpGet": { "path": "/ready", "port": METRICS_PORT, "scheme": "HTTP" },
            "periodSeconds": 1,
            "failureThreshold": STARTUP_FAILURES,
        });
        // Runs when the termination of the pod begins.
        container["lifecycle"] = json!({ "preStop": { "exec": { "command": [PROXY_PROGRAM, "drain"] } } });
    } else {
        // The kubelet starts the next container when this hook has ended.
        container["lifecycle"] = json!({ "postStart": { "exec": { "command": [PROXY_PROGRAM, "wait"] } } });
    }
    container["args"] = json!(args);
    container
}

/// Returns the original probes that a sidecar has.
pub(super) fn app_probes(proxy: &Container) -> AppProbes {
    let variable = proxy
        .objects("env")
        .find(|variable| variable.get("name").and_then(Value::as_str) == Some(APP_PROBES));
    let json = variable.and_then(|variable| variable.get("value")?.as_str()).unwrap_or("{}");
    serde_json::from_str(json).unwrap_or_default()
}

/// Returns the container that sets up the redirection, or with a CNI plugin the one that verifies it.
pub(super) fn capture(settings: &Settings, resources: &Value, annotations: &Annotations) -> Value {
    let inbound = annotations.exclude_inbound_ports.iter().copied().chain([METRICS_PORT]);
    let mut args = vec![
        "capture".to_owned(),
        format!("--inbound-port={INBOUND_PORT}"),
        format!("--outbound-port={OUTBOUND_PORT}"),
        format!("--proxy-uid={PROXY_UID}"),
        format!("--exclude-inbound-ports={}", joined(inbound)),
    ];
    let Annotations { exclude_outbound_ports, exclude_outbound_cidrs, .. } = annotations;
    if !exclude_outbound_ports.is_empty() {
        args.push(format!("--exclude-outbound-ports={}", joined(exclude_outbound_ports)));
    }
    if !exclude_outbound_cidrs.is_empty() {
        args.push(format!("--exclude-outbound-cidrs={}", joined(exclude_outbound_cidrs)));
    }
    let mut context = security_context();
    let name = match settings.capture {
        Capture::InitContainer => {
            context["runAsUser"] = json!(0);
            context["runAsGroup"] = json!(0);
            context["runAsNonRoot"] = json!(false);
            context["capabilities"]["add"] = json!(["NET_ADMIN"]);
            CAPTURE_CONTAINER
        }
        Capture::Cni => {
            args.push("--verify".to_owned());
            // The connections of the sidecar's user are not redirected.
            context["runAsUser"] = json!(CAPTURE_CHECK_UID);
            CAPTURE_CHECK_CONTAINER
        }
    };
    json!({
        "name": name,
        "image": settings.proxy_image,
        "args": args,
        "resources": resources,
        "securityContext": context,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

/// Returns what the Pod Security Standard `restricted` requires, and more.
fn security_context() -> Value {
    json!({
        "runAsUser": PROXY_UID,
        "runAsGroup": PROXY_UID,
        "runAsNonRoot": true,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// Facts of the pod come by the downward API. A variable may refer to those before it.
fn env(settings: &Settings, probes: &AppProbes, service: &str) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
    let value = |name: &str, value: &str| json!({ "name": name, "value": value });
    let attributes = "k8s.namespace.name=$(POD_NAMESPACE),k8s.pod.name=$(OUTRIGGER_PROXY_INSTANCE),k8s.pod.uid=$(POD_UID),k8s.node.name=$(NODE_NAME)";
    let mut env = vec![
        field("OUTRIGGER_PROXY_INSTANCE", "metadata.name"),
        field("OUTRIGGER_PROXY_POD_IP", "status.podIP"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_UID", "metadata.uid"),
        field("NODE_NAME", "spec.nodeName"),
        value("OTEL_SERVICE_NAME", service),
        value("OTEL_RESOURCE_ATTRIBUTES", attributes),
    ];
    env.extend(settings.proxy_env.iter().map(|(name, text)| value(name, text)));
    if !probes.is_empty() {
        // In JSON a `$` is only in strings. Escaped, it begins no reference to a variable.
        let json = Value::Object(probes.clone()).to_string().replace('$', "\\u0024");
        env.push(value(APP_PROBES, &json));
    }
    env
}

fn joined(items: impl IntoIterator<Item = impl ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}
