//! What the API server does to a control plane: it goes away (the last test: Kubernetes' own controllers pause after that), it refuses a kind, kinds go and come, objects are newer than known.
//! Nothing that was read is lost, no replica restarts, and a condition or a line names what is wrong.

use serde_json::Value;

use crate::cluster::{attempt, eventually, inside, install_crds, kubectl, on_the_node};
use crate::load::Load;
use crate::manifests::{deployment, http_route, labelling, server, service};
use crate::mesh::{self, CONTROL_PLANE};
use crate::namespace::Namespace;

const SYSTEM: &[&str] = &["-n", "outrigger-system"];
const GRPC_ROUTES: &str = "grpcroutes.gateway.networking.k8s.io";

/// Ends the API server, and starts it again after ten seconds.
const RESTART_OF_THE_API_SERVER: &str = "
    pid=$(pgrep -xo kube-apiserver)
    cd /proc/$pid/cwd
    mapfile -d '' -t command </proc/$pid/cmdline
    kill -KILL $pid
    sleep 10
    setsid \"${command[@]}\" >>apiserver-1.log 2>&1 </dev/null &
";

/// Returns the problems in `outrigger status`.
fn problems() -> Result<String, String> {
    on_the_node(&[env!("CARGO_BIN_EXE_outrigger"), "status", "--kubernetes"])
}

fn has_problem(text: &str, seconds: u64) {
    eventually(text, seconds, || {
        problems().and_then(|all| if all.contains(text) { Ok(()) } else { Err(all) })
    });
}

fn has_no_problem(text: &str, seconds: u64) {
    eventually(text, seconds, || {
        problems().and_then(|all| if all.contains(text) { Err(all) } else { Ok(()) })
    });
}

/// Sets the header `x-route` of requests for `web`.
fn route(namespace: &Namespace, value: &str) {
    namespace.apply(&http_route("web", 80, &labelling(value, "web", 80)));
}

/// Returns a GRPCRoute and its Service; `rule` are fields of its rule.
fn grpc_route(name: &str, rule: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: {name}}}
spec: {{parentRefs: [{{group: \"\", kind: Service, name: {name}, port: 80}}], rules: [{{{rule}backendRefs: [{{name: {name}, port: 80}}]}}]}}
---
{}",
        service(name, "web", "ports: [{name: grpc, port: 80, targetPort: 8080}]")
    )
}

#[test]
fn proxies_serve_while_the_api_server_is_away_and_the_control_plane_catches_up() {
    let namespace = Namespace::meshed("away", "strict");
    namespace.apply(&deployment("web", 2, &server("")));
    route(&namespace, "before");
    let load = Load::start(&namespace, "http://web/", 50);
    namespace.ready("deploy/web");
    load.is_routed("before", 20);
    let before = mesh::restarts();
    load.during("API server away", || {
        inside("node1", &["bash", "-ec", RESTART_OF_THE_API_SERVER]).unwrap();
        eventually("the API server", 60, || attempt(&["get", "--raw", "/readyz"]));
        eventually("exec", 20, || namespace.exec("load", &["/pod", "get", "http://web/"]));
    });
    route(&namespace, "after");
    load.is_routed("after", 40);
    namespace.has_conditions("httproute", "web", &["Accepted=True"]);
    has_no_problem("cannot be read now", 40);
    assert_eq!(mesh::restarts(), before);
}

#[test]
fn a_kind_that_is_newer_forbidden_or_missing_is_named_and_the_others_are_served() {
    let namespace = Namespace::meshed("kinds", "strict");
    namespace.apply(&deployment("web", 1, &server("")));
    route(&namespace, "served");
    let load = Load::start(&namespace, "http://web/", 10);
    let installed = Installed::read();

    // A CRD of a later release: another field, another type of filter.
    let schema = "[{\"op\": \"replace\", \"path\": \"/spec/versions/0/schema/openAPIV3Schema\", \
                  \"value\": {\"type\": \"object\", \"x-kubernetes-preserve-unknown-fields\": true}}]";
    kubectl(&["patch", "crd", GRPC_ROUTES, "--type", "json", "-p", schema]);
    let mut attempts = 0;
    eventually("the newer CRD", 40, || {
        attempts += 1;
        namespace.attempt_apply(&grpc_route("field", "hedging: {requests: 2}, "))?;
        namespace
            .attempt_apply(&grpc_route("filter", "filters: [{type: Teleport, teleport: {to: mars}}], "))?;
        // The API server prunes the field until it serves the new schema, and then still for watches that began before.
        namespace.attempt(&["label", "grpcroute", "field", &format!("attempt={attempts}"), "--overwrite"])?;
        let all = namespace.conditions("grpcroute", "field")?;
        if all.contains("Accepted=True") && all.contains("hedging") { Ok(()) } else { Err(all) }
    });
    namespace.has_conditions("grpcroute", "filter", &["Accepted=False", "Teleport"]);

    kubectl(&["delete", "crd", GRPC_ROUTES]);
    let mut role = installed.role.clone();
    for rule in role["rules"].as_array_mut().unwrap() {
        rule["resources"].as_array_mut().unwrap().retain(|resource| resource != "referencegrants");
    }
    apply_forced(&role.to_string()).unwrap();
    // A replica that starts now may not list the kind; the other one may no longer watch it.
    let replica = "jsonpath={.items[0].metadata.name}";
    let replica = kubectl(&[SYSTEM, &["get", "pods", "-l", CONTROL_PLANE, "-o", replica]].concat());
    kubectl(&[SYSTEM, &["delete", "pod", &replica, "--wait=false"]].concat());
    has_problem("the API server does not have GRPCRoute", 40);
    has_problem("cannot list resource \"referencegrants\"", 40);
    mesh::ready();
    route(&namespace, "still-served");
    load.is_routed("still-served", 20);

    drop(installed);
    has_no_problem("cannot be read now", 60);
    eventually("the kind", 20, || namespace.attempt_apply(&grpc_route("late", "")));
    namespace.has_conditions("grpcroute", "late", &["Accepted=True"]);
}

/// What a test changes in the cluster. Dropping it restores it.
struct Installed {
    /// The ClusterRole of the control plane.
    role: Value,
}

impl Installed {
    fn read() -> Self {
        let role = kubectl(&["get", "clusterrole", "outrigger-control-plane", "-o", "json"]);
        let mut role: Value = serde_json::from_str(&role).unwrap();
        let metadata = &mut role["metadata"];
        *metadata = serde_json::json!({"name": metadata["name"], "labels": metadata["labels"]});
        Self { role }
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let restored = apply_forced(&self.role.to_string());
        let deleted = attempt(&["delete", "crd", GRPC_ROUTES, "--ignore-not-found"]);
        install_crds();
        assert_eq!((restored.err(), deleted.err()), (None, None));
    }
}

/// Applies a manifest though another manager owns its fields.
fn apply_forced(json: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("object.json");
    std::fs::write(&path, json).map_err(|error| error.to_string())?;
    attempt(&["apply", "--server-side", "--force-conflicts", "-f", path.to_str().unwrap_or_default()])
}
