//! What a pod must not have: a name or port of the sidecar, or a container that would evade the redirection.

use serde_json::Value;

use super::layout::{CONTAINERS, PROXY_UID, RESERVED_PORTS, VOLUMES};
use super::pod::{Container, Object, Pod};
use super::refusal::Refusal;

/// Checks a pod from which the parts of an earlier injection have been removed.
pub(super) fn check(pod: &Pod) -> Result<(), Refusal> {
    let pod_user = run_as_user(&pod.spec);
    for container in pod.all_containers() {
        check_container(container, pod_user)?;
    }
    let name = |object: &Object| object.get("name").and_then(Value::as_str).map(str::to_owned);
    match pod.volumes.iter().enumerate().find(|(_, volume)| is_one_of(name(volume), &VOLUMES)) {
        Some((index, _)) => Err(reserved(format!("spec.volumes[{index}].name"))),
        None => Ok(()),
    }
}

fn check_container(container: &Container, pod_user: Option<u64>) -> Result<(), Refusal> {
    let Container { path, name, fields } = container;
    if CONTAINERS.contains(&name.as_str()) {
        return Err(reserved(format!("{path}.name")));
    }
    let own_user = run_as_user(fields);
    if own_user.or(pod_user) == Some(PROXY_UID) {
        let field = if own_user.is_some() { path } else { "spec" };
        let problem = format!(
            "{PROXY_UID} is the user of the sidecar, whose connections are not redirected: the container {name} would evade the mesh"
        );
        return Err(Refusal::new(format!("{field}.securityContext.runAsUser"), problem));
    }
    for (index, port) in container.objects("ports").enumerate() {
        let number =
            port.get("containerPort").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        let is_tcp = port.get("protocol").and_then(Value::as_str).is_none_or(|protocol| protocol == "TCP");
        if is_tcp && number.is_some_and(|port| RESERVED_PORTS.contains(&port)) {
            return Err(reserved(format!("{path}.ports[{index}].containerPort")));
        }
    }
    for (index, mount) in container.objects("volumeMounts").enumerate() {
        if is_one_of(mount.get("name").and_then(Value::as_str).map(str::to_owned), &VOLUMES) {
            return Err(reserved(format!("{path}.volumeMounts[{index}].name")));
        }
    }
    Ok(())
}

fn run_as_user(of: &Object) -> Option<u64> {
    of.get("securityContext")?.as_object()?.get("runAsUser")?.as_u64()
}

fn is_one_of(name: Option<String>, names: &[&str]) -> bool {
    name.is_some_and(|name| names.contains(&name.as_str()))
}

fn reserved(field: String) -> Refusal {
    Refusal::new(field, "the sidecar uses it: choose another one")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(spec: Value) -> Option<String> {
        check(&Pod::read(json!({ "spec": spec })).unwrap()).err().map(|refusal| refusal.field)
    }

    #[test]
    fn a_container_that_runs_as_the_sidecars_user_is_refused() {
        let user = json!({"runAsUser": 1500});
        let refused_field = |spec| refused(spec).unwrap();
        assert_eq!(
            refused_field(json!({"securityContext": user, "containers": [{"name": "web"}]})),
            "spec.securityContext.runAsUser"
        );
        assert_eq!(
            refused_field(json!({"containers": [{"name": "a"}, {"name": "b", "securityContext": user}]})),
            "spec.containers[1].securityContext.runAsUser"
        );
        assert_eq!(
            refused_field(
                json!({"initContainers": [{"name": "i", "securityContext": user}], "containers": [{"name": "a"}]})
            ),
            "spec.initContainers[0].securityContext.runAsUser"
        );
        let own = json!({"securityContext": user, "containers": [{"name": "a", "securityContext": {"runAsUser": 1}}]});
        assert_eq!(refused(own), None, "no container runs as that user");
    }

    #[test]
    fn names_and_ports_of_the_sidecar_are_refused() {
        for (container, field) in [
            (json!({"name": "outrigger-proxy"}), "name"),
            (
                json!({"name": "web", "ports": [{"containerPort": 80}, {"containerPort": 15006}]}),
                "ports[1].containerPort",
            ),
            (json!({"name": "web", "volumeMounts": [{"name": "outrigger-token"}]}), "volumeMounts[0].name"),
        ] {
            assert_eq!(
                refused(json!({"containers": [container]})).unwrap(),
                format!("spec.containers[0].{field}")
            );
        }
        let volume = json!({"containers": [{"name": "web"}], "volumes": [{"name": "outrigger-state"}]});
        assert_eq!(refused(volume).unwrap(), "spec.volumes[0].name");
        assert_eq!(
            refused(json!({"containers": [{"name": "web", "ports": [{"containerPort": 8080}]}]})),
            None
        );
        let udp = json!({"containerPort": 15020, "protocol": "UDP"});
        assert_eq!(refused(json!({"containers": [{"name": "web", "ports": [udp]}]})), None);
    }
}
