//! Ten thousand routes: all are accepted, and nothing is lost or restarted meanwhile. `tests/heavier kubernetes` runs it.

use std::fmt::Write as _;
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::cluster::{eventually, on_the_node};
use crate::load::Load;
use crate::manifests::{HTTP, deployment, http_route, labelling, server, service};
use crate::mesh;
use crate::namespace::Namespace;

/// Sends the requests of a file for curl to the API server, ten at a time, and prints the number of responses with each status.
const SCRIPT: &str = "
    kubectl proxy --port=25902 >/dev/null 2>&1 & proxy=$!
    trap 'kill $proxy' EXIT
    until curl -fso /dev/null http://127.0.0.1:25902/readyz; do sleep 0.1; done
    curl -sS -Z --parallel-max 10 -K \"$1\" | sort | uniq -c
";

#[test]
fn ten_thousand_routes_are_accepted_while_no_request_is_lost_and_no_replica_restarts() {
    let namespace = Namespace::meshed("many", "strict");
    namespace.apply(&deployment("web", 1, &server("")));
    let services: String = (0..100).map(|number| service(&format!("web-{number}"), "web", HTTP)).collect();
    namespace.apply(&services);
    let load = Load::start(&namespace, "http://web/", 50);
    let restarts = mesh::restarts();
    load.during("10,000 routes created and accepted", || {
        create(&namespace);
        eventually("the conditions", 600, || {
            let accepted =
                "jsonpath={.items[*].status.parents[0].conditions[?(@.type==\"Accepted\")].status}";
            let accepted = namespace.attempt(&["get", "httproutes", "-o", accepted])?;
            match accepted.split_whitespace().filter(|status| *status == "True").count() {
                10_000 => Ok(()),
                count => {
                    sleep(Duration::from_secs(10));
                    Err(format!("{count} are accepted"))
                }
            }
        });
        namespace.apply(&http_route("web", 80, &labelling("one-more", "web", 80)));
        load.is_routed("one-more", 20);
    });
    assert_eq!(mesh::restarts(), restarts);
}

/// Creates a hundred routes for each of a hundred Services.
fn create(namespace: &Namespace) {
    let path = format!("/apis/gateway.networking.k8s.io/v1/namespaces/{}/httproutes", namespace.name());
    let mut requests = String::new();
    for number in 0..10_000 {
        let service = format!("web-{}", number % 100);
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": format!("route-{number}")},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": service, "port": 80}],
                "rules": [{
                    "matches": [{"path": {"type": "PathPrefix", "value": format!("/{number}")}}],
                    "backendRefs": [{"name": service, "port": 80}],
                }],
            },
        });
        let route = route.to_string().replace('"', "\\\"");
        if number > 0 {
            requests.push_str("next\n");
        }
        writeln!(requests, "url = http://127.0.0.1:25902{path}\nheader = \"content-type: application/json\"")
            .unwrap();
        writeln!(requests, "data = \"{route}\"\noutput = /dev/null\nwrite-out = \"%{{http_code}}\\n\"")
            .unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("requests");
    std::fs::write(&file, requests).unwrap();
    let counts = on_the_node(&["bash", "-c", SCRIPT, "create", file.to_str().unwrap()]).unwrap();
    assert_eq!(counts.split_whitespace().collect::<Vec<_>>(), ["10000", "201"]);
}
