//! The control plane restarts, is away or loses its leader, and a node is drained: no request is lost, and no pod is refused.

use std::thread::sleep;
use std::time::Duration;

use crate::cluster::kubectl;
use crate::creations::none_is_refused_during;
use crate::load::Load;
use crate::manifests::{deployment, on_node, pod, server};
use crate::mesh;
use crate::namespace::Namespace;

/// Lets the scheduler put a pod on a node.
const START: &str = r#"[{"op": "remove", "path": "/spec/schedulingGates"}]"#;

#[test]
fn no_request_is_lost_while_the_control_plane_is_away_or_a_node_is_drained() {
    let namespace = Namespace::meshed("control-plane", "strict");
    namespace.apply(&deployment("web", 2, &server("")));
    let load = Load::start(&namespace, "http://web/", 50);
    namespace.ready("deploy/web");

    load.during("control plane restarted", || {
        none_is_refused_during(&namespace, || {
            kubectl(&["-n", "outrigger-system", "rollout", "restart", "deploy/outrigger-control-plane"]);
            mesh::ready();
            // The last of the former replicas ends.
            sleep(Duration::from_secs(8));
        });
    });
    // A pod that has a sidecar, and that no node starts yet.
    let gated = server("").replacen('{', "{schedulingGates: [{name: outrigger.dev/test}], ", 1);
    namespace.apply(&pod("late", "late", &on_node("node1", &gated)));
    load.during("both replicas of the control plane down for a minute, pods started meanwhile", || {
        mesh::scale(0);
        kubectl(&["-n", "outrigger-system", "wait", "--for=delete", "pod", "--all", "--timeout=60s"]);
        namespace.kubectl(&["patch", "pod", "late", "--type=json", "-p", START]);
        sleep(Duration::from_secs(50));
        // No pod is created without the webhook, and its controller attempts it at growing intervals.
        namespace.kubectl(&["rollout", "restart", "deploy/web"]);
        sleep(Duration::from_secs(10));
        namespace.attempt(&["wait", "--for=condition=Ready", "pod/late", "--timeout=0"]).unwrap_err();
        mesh::scale(2);
        mesh::ready();
        namespace.kubectl(&["wait", "--for=condition=Ready", "pod/late", "--timeout=60s"]);
        namespace.ready("deploy/web");
    });
    load.during("node 2 drained", || {
        kubectl(&["drain", "node2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"]);
        namespace.ready("deploy/web");
        kubectl(&["uncordon", "node2"]);
    });
}
