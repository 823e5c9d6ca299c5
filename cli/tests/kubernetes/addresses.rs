//! What clients reach by each kind of name and address, where Gateway API has no rule (docs/kubernetes.md, "What is called").

use serde_json::Value;

use crate::cluster::{attempt, eventually, kubectl, on_the_node};
use crate::manifests::{deployment, http_route, labelling, on_node, pod, server, service, stateful_set};
use crate::namespace::Namespace;

/// Keeps a pod that is deleted from ending while the test looks at it.
const SLOW_END: &str = ", lifecycle: {preStop: {sleep: {seconds: 25}}}";
const PORTS: &str = "ports: [{name: http, port: 8080}]";

/// Calls a URL from a pod until it is answered with 200. Returns what the server says about the request.
fn call(namespace: &Namespace, from: &str, url: &str) -> Value {
    let answer = eventually(url, 20, || namespace.exec(from, &["/pod", "call", url]));
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{url}: {error}: {answer}"))
}

/// Returns the pods that answer twenty requests, each once, in order.
fn answering(namespace: &Namespace, from: &str, url: &str) -> Vec<String> {
    let urls = [url; 20];
    let answers = namespace.exec(from, &[&["/pod", "call"], &urls[..]].concat()).unwrap();
    let mut pods: Vec<_> = serde_json::Deserializer::from_str(&answers)
        .into_iter::<Value>()
        .map(|answer| answer.unwrap()["pod"].as_str().unwrap().to_owned())
        .collect();
    pods.sort();
    pods.dedup();
    pods
}

#[test]
fn pods_are_called_by_stable_names_and_addresses_with_the_routes_of_their_headless_service_and_mtls() {
    let namespace = Namespace::meshed("headless", "strict");
    let spec = server("").replace("[serve, \"8080\"]", "[serve, \"8080\", \"9090\"]");
    namespace.apply(&stateful_set("db", &spec));
    let slow = "{matches: [{path: {type: PathPrefix, value: /slow}}], timeouts: {request: 200ms}, backendRefs: [{name: db, port: 8080}]}";
    namespace.apply(&http_route("db", 8080, &[slow, &labelling("db", "db", 8080)].join(", ")));
    namespace.apply(&deployment("caller", 1, &server("")));
    namespace.ready("statefulset/db");
    namespace.ready("deploy/caller");
    let (caller, from) = (namespace.address("app=caller"), "deploy/caller");
    for pod in namespace.pods("app=db") {
        let (name, address) =
            (pod["metadata"]["name"].as_str().unwrap(), pod["status"]["podIP"].as_str().unwrap());
        for host in
            [format!("{name}.db"), format!("{name}.db.headless.svc.cluster.local"), address.to_owned()]
        {
            let answer = call(&namespace, from, &format!("http://{host}:8080/"));
            assert_eq!(answer["pod"], *name, "{host}");
            assert_eq!(answer["headers"]["X-Route"][0], "db", "{host}: {answer}");
            assert_eq!(answer["headers"]["X-Forwarded-For"], serde_json::json!([caller]), "the caller, once");
        }
        let slow = namespace.exec(from, &["/pod", "get", &format!("http://{name}.db:8080/slow")]).unwrap();
        assert!(slow.starts_with("504 "), "{slow}");
        // No Service has this port, and the pod refuses plaintext.
        let answer = call(&namespace, from, &format!("http://{address}:9090/"));
        assert_eq!((&answer["pod"], &answer["headers"]["X-Route"]), (&name.into(), &Value::Null));
        for port in [8080, 9090] {
            on_the_node(&["curl", "-fsS", "-m", "5", &format!("http://{address}:{port}/")]).unwrap_err();
        }
    }
}

/// The zones of the nodes, which are removed at the end of the test.
struct Zones;

impl Zones {
    fn set(one: &str, two: &str) -> Self {
        for (node, zone) in [("node1", one), ("node2", two)] {
            let label = format!("topology.kubernetes.io/zone={zone}");
            kubectl(&["label", "node", node, "--overwrite", &label]);
        }
        Self
    }
}

impl Drop for Zones {
    fn drop(&mut self) {
        let _ = attempt(&["label", "node", "node1", "node2", "topology.kubernetes.io/zone-"]);
    }
}

#[test]
fn requests_stay_on_the_node_or_in_the_zone_as_the_service_says() {
    let zones = Zones::set("one", "two");
    let namespace = Namespace::meshed("places", "strict");
    let on = |node: &str, name: &str, app: &str| pod(name, app, &on_node(node, &server("")));
    let with = |name: &str, app: &str, more: &str| service(name, app, &format!("{PORTS}{more}"));
    namespace.apply(
        &[
            on("node1", "near", "web"),
            on("node2", "far", "web"),
            on("node1", "caller", "caller"),
            pod("leaving", "leaving", &on_node("node2", &server(SLOW_END))),
            with("everywhere", "web", ""),
            with("same-node", "web", ", internalTrafficPolicy: Local"),
            with("same-zone", "web", ", trafficDistribution: PreferClose"),
            with("not-here", "leaving", ", internalTrafficPolicy: Local"),
            with("leaving", "leaving", ""),
        ]
        .concat(),
    );
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=90s"]);
    let reached = |service: &str, expected: &[&str]| {
        let url = format!("http://{service}:8080/");
        call(&namespace, "caller", &url);
        eventually(service, 15, || match answering(&namespace, "caller", &url) {
            pods if pods == expected => Ok(()),
            pods => Err(format!("{pods:?}")),
        });
    };
    reached("everywhere", &["far", "near"]);
    reached("same-node", &["near"]);
    reached("same-zone", &["near"]);
    let refused = namespace.exec("caller", &["/pod", "get", "http://not-here:8080/"]).unwrap();
    assert!(refused.starts_with("503 "), "{refused}");
    // The caller moves into the zone of the other pod, without another change of its own.
    Zones::set("two", "two");
    eventually("requests to the zone", 15, || {
        match answering(&namespace, "caller", "http://same-zone:8080/") {
            pods if pods.contains(&"far".to_owned()) => Ok(()),
            pods => Err(format!("{pods:?}")),
        }
    });
    drop(zones);
    // A pod that terminates still serves, and is called since no other one is ready.
    call(&namespace, "caller", "http://leaving:8080/");
    namespace.kubectl(&["delete", "pod", "leaving", "--wait=false"]);
    eventually("a terminating endpoint", 5, || {
        let slice = namespace.kubectl(&[
            "get",
            "endpointslices",
            "-l",
            "kubernetes.io/service-name=leaving",
            "-o",
            "json",
        ]);
        let terminating = slice.contains("\"terminating\": true");
        if terminating { Ok(()) } else { Err(slice) }
    });
    let answer = namespace.exec("caller", &["/pod", "get", "http://leaving:8080/"]).unwrap();
    assert!(answer.starts_with("200 "), "{answer}");
}

#[test]
fn external_names_declared_protocols_and_both_families_lead_where_the_service_says() {
    let namespace = Namespace::meshed("names", "strict");
    let spec = server("").replace("[serve, \"8080\"]", "[serve, \"8080\", \"8081\"]");
    namespace.apply(&deployment("web", 1, &spec));
    namespace.apply(&deployment("caller", 1, &server("")));
    let web = |name: &str, fields: &str| service(name, "web", fields);
    namespace.apply(
        &[
            web("http1", "ports: [{name: http, port: 8080, appProtocol: http}]"),
            web(
                "http2",
                "ports: [{name: http, port: 8080, targetPort: 8081, appProtocol: kubernetes.io/h2c}]",
            ),
            web("both", &format!("{PORTS}, ipFamilyPolicy: RequireDualStack")),
            web("both-headless", &format!("{PORTS}, ipFamilyPolicy: RequireDualStack, clusterIP: None")),
            "apiVersion: v1\nkind: Service\nmetadata: {name: alias}\nspec: {type: ExternalName, \
             externalName: http1.names.svc.cluster.local}\n"
                .to_owned(),
        ]
        .concat(),
    );
    namespace.ready("deploy/web");
    namespace.ready("deploy/caller");
    let caller = |url: &str| call(&namespace, "deploy/caller", url);
    assert_eq!(caller("http://http1:8080/")["proto"], "HTTP/1.1");
    assert_eq!(caller("http://http2:8080/")["proto"], "HTTP/2.0");
    assert_eq!(caller("http://alias:8080/")["host"], "alias:8080");
    let addresses = |args: &[&str]| -> Vec<String> {
        namespace.kubectl(args).split_whitespace().map(String::from).collect()
    };
    let cluster_ips = addresses(&["get", "service", "both", "-o", "jsonpath={.spec.clusterIPs[*]}"]);
    let pod_ips =
        addresses(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIPs[*].ip}"]);
    assert_eq!((cluster_ips.len(), pod_ips.len()), (2, 2));
    for ip in cluster_ips.iter().chain(&pod_ips) {
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
        assert!(caller(&format!("http://{host}:8080/"))["pod"].as_str().unwrap().starts_with("web-"));
        // The pod refuses plaintext in both families.
        if pod_ips.contains(ip) {
            on_the_node(&["curl", "-gfsS", "-m", "5", &format!("http://{host}:8080/")]).unwrap_err();
        }
    }
}
