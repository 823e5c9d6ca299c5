//! Mistakes of users, which are reported where they look: pods that still run without a sidecar, labels and ports with a wrong name.

use serde_json::Value;

use crate::cluster::{eventually, kubectl, on_the_node};
use crate::manifests::{deployment, server, service};
use crate::namespace::Namespace;

fn outrigger(args: &[&str]) -> String {
    let command =
        [&["bash", "-c", "\"$@\" 2>&1 || true", "bash", env!("CARGO_BIN_EXE_outrigger")], args].concat();
    on_the_node(&command).unwrap()
}

fn eventually_says(what: &str, expected: &str, mut text: impl FnMut() -> String) {
    eventually(what, 20, || match text() {
        text if text.contains(expected) => Ok(()),
        text => Err(text),
    });
}

#[test]
fn pods_that_run_without_the_sidecar_that_they_are_to_have_are_reported_until_they_are_restarted() {
    let mut namespace = Namespace::plain("late");
    namespace.apply(&deployment("web", 1, &server("")));
    namespace.ready("deploy/web");
    let pod = namespace.pods("app=web").remove(0)["metadata"]["name"].as_str().unwrap().to_owned();
    namespace.join();

    eventually_says("status", &pod, || outrigger(&["status", "--kubernetes"]));
    let problem = "Workload late/web: it is to have a sidecar, and runs without one";
    eventually_says("check", problem, || outrigger(&["check", "-n", "late"]));
    let events = || {
        let text = namespace.kubectl(&["get", "events.v1.events.k8s.io", "-o", "json"]);
        let list: Value = serde_json::from_str(&text).unwrap();
        let of_pod =
            |event: &&Value| event["regarding"]["name"] == *pod && event["reason"] == "MissingSidecar";
        list["items"].as_array().unwrap().iter().filter(of_pod).count()
    };
    eventually("the Event", 20, || if events() == 1 { Ok(()) } else { Err(format!("{} Events", events())) });
    let metrics = "/api/v1/namespaces/outrigger-system/services/outrigger-control-plane:15020/proxy/metrics";
    let series = "outrigger_control_plane_pods_without_sidecar{namespace=\"late\"}";
    eventually_says("the metric", &format!("{series} 1"), || kubectl(&["get", "--raw", metrics]));

    namespace.kubectl(&["rollout", "restart", "deploy/web"]);
    namespace.ready("deploy/web");
    eventually("an end of the reports", 20, || match (outrigger(&["status", "--kubernetes"]), events()) {
        (status, 1) if !status.contains(&pod) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_misspelled_mode_is_strict_and_reported_and_so_is_a_target_port_that_does_not_exist() {
    let namespace = Namespace::meshed("misspelled", "permissive");
    namespace.apply(&deployment("web", 1, &server("")));
    namespace.apply(&service("wrong", "web", "ports: [{port: 80, targetPort: htp}]"));
    namespace.ready("deploy/web");
    let url = format!("http://{}:8080/", namespace.address("app=web"));
    let call = || on_the_node(&["curl", "-fsS", "-m", "5", &url]);
    call().unwrap();

    kubectl(&["label", "namespace", "misspelled", "outrigger.dev/mtls=strickt", "--overwrite"]);
    eventually("plaintext refused", 20, || call().map_or(Ok(()), Err));
    let mode = "metadata.labels.outrigger.dev/mtls: unknown mode \"strickt\": its pods are strict";
    eventually_says("status", mode, || outrigger(&["status", "--kubernetes"]));
    let check = outrigger(&["check", "-n", "misspelled"]);
    let port =
        "Service misspelled/wrong: port 80 targets the port \"htp\", which no container of its pods declares";
    assert!(check.contains(mode) && check.contains(port), "{check}");
}
