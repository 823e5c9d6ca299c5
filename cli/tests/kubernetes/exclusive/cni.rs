//! The CNI plugin, where pods may not have NET_ADMIN: pods run in a namespace that enforces Pod Security `restricted`, none runs without its
//! redirection, and the plugin leaves nothing behind.

use serde_json::Value;

use crate::cluster::{self, eventually, inside, kubectl};
use crate::manifests::{deployment, on_node, server};
use crate::mesh;
use crate::namespace::Namespace;

const PROGRAMS: &str = "/opt/cni/bin";
const CONFIGS: &str = "/etc/cni/net.d";
const CONFIG: &str = "/etc/cni/net.d/10-pods.conflist";

/// What `restricted` requires of the application itself.
const RESTRICTED: &str = ", securityContext: {runAsNonRoot: true, runAsUser: 1000, allowPrivilegeEscalation: false, \
     capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}";

/// The plugin, which is removed at the end of the test.
struct Plugin;

impl Plugin {
    fn install() -> Self {
        mesh::installed();
        mesh::install(&["--cni-enabled"]);
        let plugin = Self;
        daemon_set(&["rollout", "status", "daemonset/outrigger-cni", "--timeout=60s"]);
        plugin
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        cluster::apply(&mesh::manifest(&[]));
        daemon_set(&[
            "patch",
            "daemonset",
            "outrigger-cni",
            "--type=json",
            "-p",
            r#"[{"op": "replace", "path": "/spec/template/spec/containers/0/args/1", "value": "uninstall"},
                {"op": "remove", "path": "/spec/template/spec/containers/0/readinessProbe"}]"#,
        ]);
        daemon_set(&["rollout", "status", "daemonset/outrigger-cni", "--timeout=60s"]);
        kubectl(&["delete", "namespace", "outrigger-cni", "--wait=false"]);
        mesh::ready();
    }
}

fn daemon_set(args: &[&str]) -> String {
    kubectl(&[&["-n", "outrigger-cni"], args].concat())
}

/// Restricts the DaemonSet to some nodes.
fn run_on(selector: &str) {
    let patch = format!(
        "[{{\"op\": \"replace\", \"path\": \"/spec/template/spec/nodeSelector\", \"value\": {selector}}}]"
    );
    daemon_set(&["patch", "daemonset", "outrigger-cni", "--type=json", "-p", &patch]);
}

/// What the plugin may change on a node: the names of the files, and the configuration.
fn files(node: &str) -> (String, Value) {
    let read = |command: &[&str]| inside(node, command).unwrap();
    let names = read(&["ls", "-A", PROGRAMS, CONFIGS]);
    (names, serde_json::from_str(&read(&["cat", CONFIG])).unwrap())
}

#[test]
fn the_plugin_captures_pods_without_privileges_and_none_runs_uncaptured() {
    let before = ["node1", "node2"].map(files);
    let plugin = Plugin::install();
    let namespace = Namespace::meshed("cni", "strict");
    kubectl(&["label", "namespace", "cni", "pod-security.kubernetes.io/enforce=restricted"]);
    for (name, node) in [("web", "node2"), ("caller", "node1")] {
        namespace.apply(&deployment(name, 1, &on_node(node, &server(RESTRICTED))));
    }
    let reached = |path: &str| {
        namespace.ready("deploy/web");
        namespace.ready("deploy/caller");
        // Strict refuses what the caller's sidecar has not sent, and what the callee's has not received.
        let url = format!("http://web/{path}");
        eventually("an answer", 20, || namespace.exec("deploy/caller", &["/pod", "call", &url]));
        namespace.pods("app=web").remove(0)
    };
    let pod = reached("first");
    assert_eq!(pod["spec"]["initContainers"][0]["name"], "outrigger-capture-check");

    // Another program writes its configuration again.
    let rewrite = format!(
        "cp {CONFIG} {CONFIG}.new && python3 -c \"import json, sys; c = json.load(open('{CONFIG}')); c['plugins'].pop(); \
         json.dump(c, open('{CONFIG}.new', 'w'))\" && cat {CONFIG}.new && mv {CONFIG}.new {CONFIG}"
    );
    // The plugin may repair it before one can read it.
    let written = inside("node2", &["bash", "-c", &rewrite]).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), before[1].1);
    eventually("the repair", 10, || match files("node2").1 {
        config if config["plugins"].as_array().unwrap().last().unwrap()["type"] == "outrigger-cni" => Ok(()),
        config => Err(config.to_string()),
    });

    // The plugin stays when the pod of its DaemonSet ends, as it does when a node reboots.
    let with_plugin = files("node2");
    run_on("{\"kubernetes.io/hostname\": \"node1\"}");
    daemon_set(&[
        "wait",
        "pod",
        "--for=delete",
        "--field-selector=spec.nodeName=node2",
        "--timeout=60s",
        "--all",
    ]);
    assert_eq!(files("node2"), with_plugin);

    // A node without the plugin, where a pod starts.
    inside("node2", &["bash", "-c", &format!("{rewrite} && rm {PROGRAMS}/outrigger-cni")]).unwrap();
    assert_eq!(files("node2"), before[1]);
    let old = pod["metadata"]["name"].as_str().unwrap();
    namespace.kubectl(&["delete", "pod", old, "--now"]);
    let uncaptured = eventually("the failed verification", 60, || {
        let pods = namespace.pods("app=web");
        let pod = pods.into_iter().find(|pod| pod["metadata"]["name"] != old).ok_or("no pod")?;
        let status = &pod["status"]["initContainerStatuses"][0];
        if status["restartCount"].as_u64() >= Some(1) { Ok(pod) } else { Err(pod["status"].to_string()) }
    });
    let status = &uncaptured["status"];
    let failure = &status["initContainerStatuses"][0]["lastState"]["terminated"]["message"];
    assert!(failure.as_str().unwrap().contains("connections are not redirected"), "{failure}");
    for container in [&status["initContainerStatuses"][1], &status["containerStatuses"][0]] {
        assert_eq!(container["started"], false, "{container}");
        assert!(container["state"]["waiting"].is_object(), "{container}");
    }

    // It is replaced when the plugin is back.
    run_on("{\"kubernetes.io/os\": \"linux\"}");
    let name = &uncaptured["metadata"]["name"];
    eventually("the eviction", 60, || match namespace.pods("app=web") {
        pods if pods.iter().any(|pod| pod["metadata"]["name"] == *name) => {
            Err("it is still there".to_owned())
        }
        _ => Ok(()),
    });
    reached("second");

    drop(plugin);
    assert_eq!(["node1", "node2"].map(files), before);
}
