//! Rewrites the probes of application containers, so that they work where the kubelet, which has no certificate, is refused.
//!
//! The kubelet sends an HTTP, TCP or gRPC probe to the pod's address; with a sidecar it would meet the sidecar's inbound port. It is
//! pointed to the sidecar's metrics port instead, and the sidecar performs the original probe. Exec probes stay as they are.
//! Probes with a `host` of their own do not concern this pod and stay, too.

use serde_json::{Map, Value, json};

use super::layout::METRICS_PORT;
use super::pod::{Container, Object};
use super::refusal::Refusal;

/// The kinds of probes, and the last segment of their paths.
const KINDS: [(&str, &str); 3] =
    [("livenessProbe", "livez"), ("readinessProbe", "readyz"), ("startupProbe", "startupz")];

/// The handlers that are rewritten.
const HANDLERS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// The original probes by the path at the sidecar that performs them, in the form in which the sidecar receives them: the
/// handler with a numeric port, and `timeoutSeconds`.
pub(super) type AppProbes = Object;

/// Rewrites the probes of `container` and adds the original ones to `performed`. Probes that an earlier injection has rewritten
/// are looked up in `earlier`.
pub(super) fn rewrite(
    container: &mut Container,
    earlier: &AppProbes,
    performed: &mut AppProbes,
) -> Result<(), Refusal> {
    for (kind, segment) in KINDS {
        let path = format!("/app-health/{}/{segment}", container.name);
        let field = format!("{}.{kind}", container.path);
        let original = match container.fields.get(kind) {
            Some(Value::Object(probe)) if is_rewritten(probe, &path) => match earlier.get(&path) {
                Some(original) => original.clone(),
                None => {
                    return Err(Refusal::new(
                        field,
                        "an injection has rewritten it, but its original is not recorded in the sidecar",
                    ));
                }
            },
            Some(Value::Object(probe)) => match original(container, probe) {
                Some(original) => original,
                None => continue,
            },
            _ => continue,
        };
        if let Some(Value::Object(probe)) = container.fields.get_mut(kind) {
            HANDLERS.iter().for_each(|handler| drop(probe.remove(*handler)));
            probe.insert(
                "httpGet".to_owned(),
                json!({ "path": path, "port": METRICS_PORT, "scheme": "HTTP" }),
            );
        }
        performed.insert(path, original);
    }
    Ok(())
}

/// Returns whether the probe is the rewritten one of this path.
fn is_rewritten(probe: &Object, path: &str) -> bool {
    let Some(Value::Object(get)) = probe.get("httpGet") else { return false };
    get.get("path").and_then(Value::as_str) == Some(path) && get.get("port") == Some(&METRICS_PORT.into())
}

/// Returns the probe as the sidecar receives it. Returns None if it stays as it is.
fn original(container: &Container, probe: &Object) -> Option<Value> {
    let (handler, action) = HANDLERS.iter().find_map(|handler| match probe.get(*handler) {
        Some(Value::Object(action)) => Some((*handler, action)),
        _ => None,
    })?;
    if action.get("host").and_then(Value::as_str).is_some_and(|host| !host.is_empty()) {
        return None;
    }
    let mut performed = Map::from_iter([("port".to_owned(), json!(port(container, action.get("port")?)?))]);
    for field in ["path", "scheme", "httpHeaders", "service"] {
        performed.extend(action.get(field).map(|value| (field.to_owned(), value.clone())));
    }
    let timeout = probe.get("timeoutSeconds").cloned().unwrap_or_else(|| json!(1));
    Some(json!({ handler: performed, "timeoutSeconds": timeout }))
}

/// Returns the number of a port, which may be the name of one of the container's ports. Returns None for an unknown name: the
/// kubelet reports that.
fn port(container: &Container, port: &Value) -> Option<u16> {
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
    let Value::String(name) = port else { return number(port) };
    let named =
        container.objects("ports").find(|port| port.get("name").and_then(Value::as_str) == Some(name));
    match named {
        Some(port) => number(port.get("containerPort")?),
        None => name.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(fields: Value) -> Container {
        let Value::Object(fields) = fields else { panic!("not an object") };
        Container { path: "spec.containers[0]".into(), name: "web".into(), fields }
    }

    /// Returns the container's fields after the rewrite, and the probes that the sidecar performs.
    fn rewritten(fields: Value, earlier: &AppProbes) -> (Value, AppProbes) {
        let (mut container, mut performed) = (container(fields), AppProbes::new());
        rewrite(&mut container, earlier, &mut performed).unwrap();
        (container.fields.into(), performed)
    }

    #[test]
    fn http_tcp_and_grpc_probes_are_performed_by_the_sidecar_with_their_other_fields_kept() {
        let (fields, performed) = rewritten(
            json!({
                "ports": [{"name": "admin", "containerPort": 8081}],
                "livenessProbe": {
                    "httpGet": {"path": "/live", "port": "admin", "scheme": "HTTPS", "httpHeaders": [{"name": "A", "value": "b"}]},
                    "periodSeconds": 3, "timeoutSeconds": 4, "terminationGracePeriodSeconds": 7,
                },
                "readinessProbe": {"tcpSocket": {"port": 5432}, "failureThreshold": 9},
                "startupProbe": {"grpc": {"port": 9000, "service": "cart"}},
            }),
            &AppProbes::new(),
        );
        let at =
            |segment| json!({"path": format!("/app-health/web/{segment}"), "port": 15020, "scheme": "HTTP"});
        assert_eq!(
            fields["livenessProbe"],
            json!({"httpGet": at("livez"), "periodSeconds": 3, "timeoutSeconds": 4, "terminationGracePeriodSeconds": 7})
        );
        assert_eq!(fields["readinessProbe"], json!({"httpGet": at("readyz"), "failureThreshold": 9}));
        assert_eq!(fields["startupProbe"], json!({"httpGet": at("startupz")}));
        let expected = json!({
            "/app-health/web/livez": {
                "httpGet": {"path": "/live", "port": 8081, "scheme": "HTTPS", "httpHeaders": [{"name": "A", "value": "b"}]},
                "timeoutSeconds": 4,
            },
            "/app-health/web/readyz": {"tcpSocket": {"port": 5432}, "timeoutSeconds": 1},
            "/app-health/web/startupz": {"grpc": {"port": 9000, "service": "cart"}, "timeoutSeconds": 1},
        });
        assert_eq!(Value::from(performed), expected);
    }

    #[test]
    fn probes_that_do_not_go_to_the_pods_ports_stay() {
        for probe in [
            json!({"exec": {"command": ["true"]}}),
            json!({"httpGet": {"port": 80, "host": "example.com"}}),
            json!({"tcpSocket": {"port": "unknown"}}),
        ] {
            let before = json!({"livenessProbe": probe});
            let (after, performed) = rewritten(before.clone(), &AppProbes::new());
            assert_eq!(after, before);
            assert!(performed.is_empty(), "{performed:?}");
        }
    }

    #[test]
    fn a_rewritten_probe_keeps_its_original() {
        let probe = json!({"livenessProbe": {"httpGet": {"path": "/live", "port": 8080}}});
        let (once, performed) = rewritten(probe, &AppProbes::new());
        assert_eq!(rewritten(once.clone(), &performed), (once.clone(), performed));
        let refusal = rewrite(&mut container(once), &AppProbes::new(), &mut AppProbes::new()).unwrap_err();
        assert_eq!(refusal.field, "spec.containers[0].livenessProbe");
    }
}
