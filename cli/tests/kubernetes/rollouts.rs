//! Changes of pods and routes under constant load: no request is lost.

use std::thread::sleep;
use std::time::Duration;

use crate::cluster::eventually;
use crate::load::Load;
use crate::manifests::{HTTP, deployment, http_route, server, service};
use crate::namespace::Namespace;

#[test]
fn no_request_is_lost_while_pods_are_restarted_and_scaled() {
    let namespace = Namespace::meshed("rollouts", "strict");
    namespace.apply(&deployment("web", 2, &server("")));
    let load = Load::start(&namespace, "http://web/", 50);
    namespace.ready("deploy/web");

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
}

#[test]
fn no_request_is_lost_while_a_canary_is_shifted() {
    let namespace = Namespace::meshed("canary", "strict");
    for version in ["v1", "v2"] {
        let version_of = format!(", env: [{{name: VERSION, value: {version}}}]");
        namespace.apply(&deployment(&format!("web-{version}"), 1, &server(&version_of)));
    }
    namespace.apply(&service("web", "web-v1", HTTP));
    route(&namespace, 100);
    let load = Load::start(&namespace, "http://web/", 50);
    namespace.ready("deploy/web-v1");
    namespace.ready("deploy/web-v2");
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
    let backend = |name: &str, weight: u32| format!("{{name: {name}, port: 80, weight: {weight}}}");
    let backends = [backend("web-v1", v1), backend("web-v2", 100 - v1)].join(", ");
    namespace.apply(&http_route("web", 80, &format!("{{backendRefs: [{backends}]}}")));
}
