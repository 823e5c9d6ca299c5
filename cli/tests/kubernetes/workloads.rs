//! Every kind of pod works with a sidecar: jobs finish, probes are answered, servers may speak first, kubectl reaches the application.

use crate::cluster::{eventually, on_the_node};
use crate::manifests::{HTTP, deployment, server, service, stateful_set};
use crate::namespace::{Namespace, has_sidecar};

#[test]
fn a_job_whose_init_container_calls_the_mesh_finishes_and_so_does_a_cron_job() {
    let namespace = Namespace::meshed("jobs", "strict");
    namespace.apply(&deployment("web", 1, &server("")));
    let pod = "{spec: {restartPolicy: Never, \
               initContainers: [{name: first, image: \"test/pod:1\", args: [call, \"http://web/\"]}], \
               containers: [{name: app, image: \"test/pod:1\", args: [call, \"http://web/\"]}]}}";
    namespace.apply(&format!(
        "apiVersion: batch/v1
kind: Job
metadata: {{name: once}}
spec: {{backoffLimit: 0, template: {pod}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {{name: often}}
spec: {{schedule: \"* * * * *\", jobTemplate: {{spec: {{backoffLimit: 0, template: {pod}}}}}}}
"
    ));
    namespace.kubectl(&["wait", "--for=condition=Complete", "job/once", "--timeout=90s"]);
    // The schedule has a resolution of one minute; a Job made from it now is the same.
    namespace.kubectl(&["create", "job", "--from=cronjob/often", "now"]);
    namespace.kubectl(&["wait", "--for=condition=Complete", "job/now", "--timeout=90s"]);
}

#[test]
fn pods_of_a_stateful_set_are_reached_by_their_names() {
    let namespace = Namespace::meshed("stateful", "strict");
    namespace.apply(&stateful_set("db", &server("")));
    namespace.ready("statefulset/db");
    for pod in ["db-0", "db-1"] {
        for caller in ["db-0", "db-1"] {
            let url = format!("http://{pod}.db:8080/");
            let answer = eventually("an answer", 20, || namespace.exec(caller, &["/pod", "call", &url]));
            assert!(answer.contains(&format!("\"pod\":\"{pod}\"")), "{url} from {caller}: {answer}");
        }
    }
}

#[test]
fn a_pod_of_the_host_network_is_left_alone() {
    let namespace = Namespace::meshed("host-network", "permissive");
    let spec = server("").replacen('{', "{hostNetwork: true, ", 1).replace("8080", "18080");
    namespace.apply(&deployment("web", 1, &spec));
    namespace.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    assert!(!has_sidecar(&namespace.pods("app=web")[0]));
}

#[test]
fn a_server_that_speaks_first_is_not_kept_waiting() {
    let namespace = Namespace::meshed("greeting", "strict");
    namespace.apply(&deployment("db", 1, &server(", env: [{name: GREETING_PORT, value: \"3306\"}]")));
    namespace.apply(&service("mysql", "db", "ports: [{name: mysql, port: 3306, appProtocol: tcp}]"));
    namespace.apply(&deployment("caller", 1, &server("")));
    namespace.ready("deploy/db");
    namespace.ready("deploy/caller");
    let answer =
        eventually("a greeting", 20, || namespace.exec("deploy/caller", &["/pod", "greet", "mysql:3306"]));
    assert!(answer.starts_with("hello from db-") && answer.contains("ping"), "{answer}");
}

#[test]
fn probes_of_every_kind_are_answered_under_strict_mtls() {
    let namespace = Namespace::meshed("probes", "strict");
    let probes = ", env: [{name: GRPC_PORT, value: \"9090\"}], \
         startupProbe: {httpGet: {port: http, path: /}, periodSeconds: 1}, livenessProbe: {grpc: {port: 9090}, periodSeconds: 1}, \
         lifecycle: {postStart: {exec: {command: [/pod, call, \"http://127.0.0.1:8080/\"]}}}";
    namespace.apply(&deployment("http-and-grpc", 1, &server(probes)));
    let spec = server("").replace("httpGet: {port: 8080}", "tcpSocket: {port: http}");
    namespace.apply(&deployment("tcp", 1, &spec));
    let spec = server("")
        .replace("httpGet: {port: 8080}", "exec: {command: [/pod, call, \"http://127.0.0.1:8080/\"]}");
    namespace.apply(&deployment("exec", 1, &spec));
    for name in ["http-and-grpc", "tcp", "exec"] {
        namespace.ready(&format!("deploy/{name}"));
    }
    // A probe of a port where nothing listens still fails.
    let spec = server("").replace("httpGet: {port: 8080}", "httpGet: {port: 8081}");
    namespace.apply(&deployment("failing", 1, &spec));
    std::thread::sleep(std::time::Duration::from_secs(15));
    for (app, ready) in [("http-and-grpc", true), ("tcp", true), ("exec", true), ("failing", false)] {
        for pod in namespace.pods(&format!("app={app}")) {
            let container = &pod["status"]["containerStatuses"][0];
            assert_eq!(container["ready"], ready, "{app}: {container}");
            assert_eq!(container["restartCount"], 0, "{app}: {container}");
        }
    }
}

#[test]
fn kubectl_exec_logs_and_port_forward_reach_the_application() {
    let namespace = Namespace::meshed("kubectl", "strict");
    namespace.apply(&deployment("web", 1, &server("")));
    namespace.ready("deploy/web");
    let answer = namespace.exec("deploy/web", &["/pod", "call", "http://127.0.0.1:8080/"]).unwrap();
    assert!(answer.contains("\"pod\":\"web-"), "{answer}");
    let log = namespace.kubectl(&["logs", "deploy/web", "-c", "outrigger-proxy"]);
    assert!(log.contains("certificate issued"), "{log}");
    // The forward runs in the network of node 1, as the call does.
    let forwarded = on_the_node(&[
        "bash",
        "-c",
        "kubectl -n kubectl port-forward deploy/web 18081:8080 >/dev/null & forward=$!; trap 'kill $forward' EXIT; \
         for _ in $(seq 50); do curl -fsS http://127.0.0.1:18081/ 2>/dev/null && exit; sleep 0.2; done; exit 1",
    ])
    .unwrap();
    assert!(forwarded.contains("\"pod\":\"web-"), "{forwarded}");
}

#[test]
fn all_of_twenty_ports_are_served_declared_or_not() {
    let namespace = Namespace::meshed("ports", "strict");
    let listening: Vec<_> = (8080..8100).map(|port| format!("\"{port}\"")).collect();
    // Of the last ten, the pod declares none.
    let declared: Vec<_> =
        (8080..8090).map(|port| format!("{{name: http-{port}, containerPort: {port}}}")).collect();
    let spec = server("")
        .replace("[serve, \"8080\"]", &format!("[serve, {}]", listening.join(", ")))
        .replace("{name: http, containerPort: 8080}", &declared.join(", "));
    namespace.apply(&deployment("many", 1, &spec));
    let ports: Vec<_> = (8080..8100).map(|port| format!("{{name: http-{port}, port: {port}}}")).collect();
    namespace.apply(&service("many-ports", "many", &format!("ports: [{}]", ports.join(", "))));
    namespace.apply(&deployment("caller", 1, &server("")));
    namespace.ready("deploy/many");
    namespace.ready("deploy/caller");
    for port in 8080..8100 {
        let url = format!("http://many-ports:{port}/");
        let answer = eventually("an answer", 20, || namespace.exec("deploy/caller", &["/pod", "call", &url]));
        assert!(answer.contains(&format!(":{port}\"")), "{answer}");
    }
}

#[test]
fn a_pod_with_its_own_net_admin_gets_a_sidecar_all_the_same() {
    let namespace = Namespace::meshed("net-admin", "strict");
    let more = ", securityContext: {capabilities: {add: [NET_ADMIN]}}";
    namespace.apply(&deployment("web", 2, &server(more)));
    namespace.ready("deploy/web");
    eventually("an answer", 20, || namespace.exec("deploy/web", &["/pod", "call", "http://web/"]));
}

#[test]
fn a_port_that_listens_on_loopback_alone_is_not_reachable_from_outside() {
    let namespace = Namespace::meshed("loopback", "permissive");
    let spec = server("").replace("[serve, \"8080\"]", "[serve, \"8080\", \"127.0.0.1:8081\"]");
    namespace.apply(&deployment("web", 1, &spec));
    namespace.ready("deploy/web");
    let address = namespace.address("app=web");
    let call = |port| on_the_node(&["curl", "-fsS", "-m", "5", &format!("http://{address}:{port}/")]);
    call(8080).unwrap();
    call(8081).unwrap_err();
}

#[test]
fn a_service_is_reached_over_ipv6() {
    let namespace = Namespace::meshed("ipv6", "strict");
    namespace.apply(&deployment("web", 1, &server("")));
    let fields = format!("{HTTP}, ipFamilies: [IPv6], ipFamilyPolicy: SingleStack");
    namespace.apply(&service("six", "web", &fields));
    namespace.apply(&deployment("caller", 1, &server("")));
    namespace.ready("deploy/web");
    namespace.ready("deploy/caller");
    let answer =
        eventually("an answer", 20, || namespace.exec("deploy/caller", &["/pod", "call", "http://six/"]));
    assert!(answer.contains("\"pod\":\"web-"), "{answer}");
}

#[test]
fn strict_refuses_plaintext_at_every_port_and_permissive_serves_it() {
    let pods = ["strict", "permissive"].map(|mode| {
        let namespace = Namespace::meshed(mode, mode);
        let spec = server("").replace("[serve, \"8080\"]", "[serve, \"8080\", \"8081\"]");
        namespace.apply(&deployment("web", 1, &spec));
        namespace.ready("deploy/web");
        let address = namespace.address("app=web");
        (namespace, address)
    });
    for ((_, address), served) in pods.iter().zip([false, true]) {
        // The pod declares 8080 and not 8081.
        for port in [8080, 8081] {
            let answer = on_the_node(&["curl", "-fsS", "-m", "5", &format!("http://{address}:{port}/")]);
            assert_eq!(answer.is_ok(), served, "port {port}: {answer:?}");
        }
    }
}
