//! Changes of pods, nodes, routes and the control plane under constant load: no request is lost.

use std::thread::sleep;
use std::time::Duration;

use crate::cluster::{eventually, kubectl};
use crate::creations::none_is_refused_during;
use crate::load::Load;
use crate::mesh;
use crate::namespace::{Namespace, deployment, server};

#[test]
fn no_request_is_lost_while_pods_nodes_and_the_control_plane_change() {
    let namespace = Namespace::meshed("changes", "strict");
    namespace.apply(&deployment("web", 2, &server("")));
    namespace.ready("deploy/web");
    let load = Load::start(&namespace, "http://web/", 50);

    load.during("rolling restart", || {
        namespace.kubectl(&["rollout", "restart", "deploy/web"]);
        namespace.ready("deploy/web");
        sleep(Duration::from_secs(2));
    });
    load.during("scale 2 -> 1 -> 5 -> 1", || {
        for replicas in ["1", "5", "1"] {
            namespace.kubectl(&["scale", "deploy/web", &format!("--replicas={replicas}")]);
            namespace.ready("deploy/web");
            eventually("the number of pods", 60, || match namespace.pods("app=web").len() {
                count if count.to_string() == replicas => Ok(()),
                count => Err(format!("{count} pods")),
            });
        }
        namespace.kubectl(&["scale", "deploy/web", "--replicas=2"]);
        namespace.ready("deploy/web");
    });
    load.during("control plane restarted", || {
        none_is_refused_during(&namespace, || {
            kubectl(&["-n", "outrigger-system", "rollout", "restart", "deploy/outrigger-control-plane"]);
            mesh::ready();
            // The last of the former replicas ends.
            sleep(Duration::from_secs(8));
        });
    });
    load.during("both replicas of the control plane down for a minute, pods restarted meanwhile", || {
        mesh::scale(0);
        kubectl(&["-n", "outrigger-system", "wait", "--for=delete", "pod", "--all", "--timeout=60s"]);
        namespace.kubectl(&["rollout", "restart", "deploy/web"]);
        sleep(Duration::from_secs(60));
        mesh::scale(2);
        mesh::ready();
        namespace.ready("deploy/web");
    });
    load.during("node 2 drained", || {
        kubectl(&["drain", "node2", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s"]);
        namespace.ready("deploy/web");
        kubectl(&["uncordon", "node2"]);
    });
}

#[test]
fn no_request_is_lost_while_a_canary_is_shifted() {
    let namespace = Namespace::meshed("canary", "strict");
    for version in ["v1", "v2"] {
        let version_of = format!(", env: [{{name: VERSION, value: {version}}}]");
        namespace.apply(&deployment(&format!("web-{version}"), 1, &server(&version_of)));
    }
    namespace.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web-v1}, ports: [{name: http, port: 80, targetPort: 8080}]}\n");
    route(&namespace, 100);
    namespace.ready("deploy/web-v1");
    namespace.ready("deploy/web-v2");
    let load = Load::start(&namespace, "http://web/", 50);
    load.during("canary shifted", || {
        for v1 in [90, 50, 0] {
            route(&namespace, v1);
            let before = load.counts();
            sleep(Duration::from_secs(4));
            let after = load.counts();
            let count = |counts: &crate::load::Counts, version: &str| {
                counts.versions.get(version).map_or(0, |answers| answers.count)
            };
            let share = |version| count(&after, version) - count(&before, version);
            println!("v1 {v1} %: {} answers of v1, {} of v2", share("v1"), share("v2"));
            assert!(share("v2") > 0, "no answer of v2 with {v1} % for v1: {after:?}");
        }
        let before = load.counts();
        sleep(Duration::from_secs(1));
        let after = load.counts();
        assert_eq!(
            before.versions["v1"].count, after.versions["v1"].count,
            "v1 answers though its weight is 0"
        );
    });
}

/// Gives `v1` percent of the requests to v1, the others to v2.
fn route(namespace: &Namespace, v1: u32) {
    namespace.apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: web, port: 80}}]
  rules:
    - backendRefs:
        - {{name: web-v1, port: 80, weight: {v1}}}
        - {{name: web-v2, port: 80, weight: {}}}
",
        100 - v1
    ));
}
