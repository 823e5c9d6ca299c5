//! What is refused, and that the refusal is logged: tokens of other pods, callers without mTLS where it is strict, annotations with more
//! than a value. The trust roots of the cluster survive changes of their objects.

use std::time::Instant;

use crate::cluster::{apply, attempt, eventually, inside, kubectl, on_the_node};
use crate::namespace::{Namespace, deployment, server};

const SYSTEM: &[&str] = &["-n", "outrigger-system"];

fn system(args: &[&str]) -> Result<String, String> {
    attempt(&[SYSTEM, args].concat())
}

/// Returns what the replicas of the control plane have logged.
fn control_plane_log() -> String {
    system(&["logs", "-l", "app.kubernetes.io/name=outrigger-control-plane", "--tail=-1"]).unwrap()
}

/// Returns a token of the account `default`: for `audience`, bound to `pod` if it is not empty.
fn token(namespace: &Namespace, pod: &str, audience: &str) -> String {
    let (audience, name) = (format!("--audience={audience}"), format!("--bound-object-name={pod}"));
    let mut args = vec!["create", "token", "default", &audience];
    let uid;
    if !pod.is_empty() {
        uid = format!(
            "--bound-object-uid={}",
            namespace.kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"])
        );
        args.extend(["--bound-object-kind=Pod", &name, &uid]);
    }
    namespace.kubectl(&args)
}

/// Runs a proxy on node 1, outside of any pod, with a token, and returns its log.
fn proxy_with(token: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let roots = system(&["get", "configmap", "outrigger-trust-roots", "-o", "jsonpath={.data.roots\\.pem}"]);
    std::fs::write(path("roots.pem"), roots.unwrap()).unwrap();
    std::fs::write(path("token"), token).unwrap();
    let address = system(&["get", "service", "outrigger-control-plane", "-o", "jsonpath={.spec.clusterIP}"]);
    let (address, state) = (format!("{}:15010", address.unwrap()), path("state"));
    let (roots, token) = (path("roots.pem"), path("token"));
    let proxy = [
        &["timeout", "-s", "KILL", "12", env!("CARGO_BIN_EXE_outrigger"), "proxy"][..],
        &["--control-plane", &address, "--control-plane-ca", &roots, "--token-file", &token],
        &["--state-dir", &state, "--instance", "outsider", "--admin", "127.0.0.1:25000"],
    ];
    on_the_node(&proxy.concat()).unwrap_err()
}

#[test]
fn a_token_of_another_pod_or_audience_or_of_no_pod_gets_no_certificate() {
    let namespace = Namespace::plain("tokens");
    for node in ["1", "2"] {
        apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: on-node{node}, namespace: tokens}}\nspec: {{nodeName: node{node}, \
             containers: [{{name: app, image: \"test/pod:1\", args: [serve, \"8080\"]}}]}}\n"
        ));
    }
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/on-node1", "pod/on-node2", "--timeout=60s"]);
    let deleted = token(&namespace, "on-node2", "outrigger.dev");
    for (token, reason, text) in [
        (deleted.clone(), "foreign-address", "which is no address of that pod"),
        (token(&namespace, "on-node1", "other"), "token-audience", "is not for the audience outrigger.dev"),
        (token(&namespace, "", "outrigger.dev"), "unbound-token", "is not bound to a pod"),
    ] {
        let log = proxy_with(&token);
        assert!(!log.contains("certificate issued") && log.contains(text), "{log}");
        assert!(!log.contains(&token), "the token is a secret");
        let log = control_plane_log();
        assert!(log.contains(&format!("certificate refused reason=\"{reason}\"")), "{log}");
    }
    // From its own node it is accepted, from the address of the node as from that of its bridge. The identity is that of the token,
    // whatever the proxy calls itself.
    let log = proxy_with(&token(&namespace, "on-node1", "outrigger.dev"));
    assert!(log.contains("identity=spiffe://cluster.local/ns/tokens/sa/default"), "{log}");

    namespace.kubectl(&["delete", "pod", "on-node2", "--now"]);
    let log = proxy_with(&deleted);
    assert!(
        !log.contains("certificate issued") && log.contains("refused the service account token"),
        "{log}"
    );
}

/// Asserts that a pod cannot call `url`, and returns the address of the pod.
fn assert_refused(namespace: &str, app: &str, url: &str) -> String {
    let pod = format!("deploy/{app}");
    let call =
        ["timeout", "8", "kubectl", "-n", namespace, "exec", &pod, "-c", "app", "--", "/pod", "call", url];
    on_the_node(&call).unwrap_err();
    let selector = format!("app={app}");
    kubectl(&["-n", namespace, "get", "pods", "-l", &selector, "-o", "jsonpath={.items[0].status.podIP}"])
}

#[test]
fn a_strict_namespace_refuses_callers_without_a_sidecar_and_names_them() {
    let vault = Namespace::meshed("vault", "strict");
    vault.apply(&deployment("web", 1, &server("")));
    vault.apply(&deployment("member", 1, &server("")));
    vault.ready("deploy/web");
    vault.ready("deploy/member");
    eventually("a member's call", 30, || vault.exec("deploy/member", &["/pod", "call", "http://web/"]));
    let refused = |address: &str| {
        let log = vault.kubectl(&["logs", "deploy/web", "-c", "outrigger-proxy"]);
        let line = format!("a client without mTLS is refused: the port is strict client={address}");
        assert!(log.contains(&line), "no line {line:?}: {log}");
    };

    let outside = Namespace::plain("outsiders");
    outside.apply(&deployment("caller", 1, &server("")));
    outside.ready("deploy/caller");
    refused(&assert_refused("outsiders", "caller", "http://web.vault/"));

    // Without its label, the namespace gets pods without sidecars, and these are callers like any other.
    kubectl(&["label", "namespace", "vault", "outrigger.dev/inject-"]);
    vault.apply(&deployment("late", 1, &server("")));
    vault.kubectl(&["rollout", "status", "deploy/late", "--timeout=60s"]);
    refused(&assert_refused("vault", "late", "http://web/"));
    // Pods with sidecars still mount the roots.
    vault.kubectl(&["get", "configmap", "outrigger-trust-roots"]);
    vault.exec("deploy/member", &["/pod", "call", "http://web/"]).unwrap();
}

#[test]
fn annotations_with_more_than_they_may_have_and_pods_as_the_proxys_user_are_refused() {
    let namespace = Namespace::meshed("annotations", "strict");
    for (annotation, value) in [
        ("outrigger.dev/exclude-inbound-ports", "8080; flush ruleset"),
        ("outrigger.dev/exclude-outbound-ports", "80\n }\n chain x"),
        ("outrigger.dev/exclude-outbound-cidrs", "10.0.0.0/8, $(reboot)"),
        ("outrigger.dev/log-level", "info --admin 0.0.0.0:15000"),
    ] {
        let with = format!("--annotations={annotation}={value}");
        let refused = namespace.attempt(&["run", "evil", "--image=test/pod:1", &with]).unwrap_err();
        assert!(refused.contains(annotation), "{refused}");
    }
    let overrides =
        "--overrides={\"apiVersion\": \"v1\", \"spec\": {\"securityContext\": {\"runAsUser\": 1500}}}";
    let refused = namespace.attempt(&["run", "evil", "--image=test/pod:1", overrides]).unwrap_err();
    assert!(refused.contains("runAsUser"), "{refused}");
}

fn roots_in(namespace: &Namespace) -> Result<String, String> {
    let roots = namespace.attempt(&[
        "get",
        "configmap",
        "outrigger-trust-roots",
        "-o",
        "jsonpath={.data.roots\\.pem}",
    ])?;
    if roots.starts_with("-----BEGIN CERTIFICATE-----") { Ok(roots) } else { Err(roots) }
}

#[test]
fn trust_roots_are_repaired_by_whichever_replica_leads_and_removed_when_a_namespace_opts_out() {
    let namespace = Namespace::meshed("roots", "strict");
    let roots = eventually("the roots", 10, || roots_in(&namespace));
    let broken = "{\"data\": {\"roots.pem\": \"broken\"}}";
    namespace.kubectl(&["patch", "configmap", "outrigger-trust-roots", "--type=merge", "-p", broken]);
    assert_eq!(eventually("the repair", 30, || roots_in(&namespace)), roots);

    let leader = || system(&["get", "lease", "outrigger-leader", "-o", "jsonpath={.spec.holderIdentity}"]);
    let old = leader().unwrap();
    let pod = old.split_once('_').unwrap().0;
    let field = |path: &str| system(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")]).unwrap();
    let (node, container) = (field(".spec.nodeName"), field(".status.containerStatuses[0].containerID"));
    // Killed, it does not release the Lease, which must expire.
    let killed = Instant::now();
    let id = container.strip_prefix("containerd://").unwrap();
    inside(&node, &["ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", id]).unwrap();
    eventually("another leader", 30, || {
        let now = leader()?;
        if now.is_empty() || now == old { Err(format!("{old} leads")) } else { Ok(()) }
    });
    println!("another leader after {:?}", killed.elapsed());
    namespace.kubectl(&["delete", "configmap", "outrigger-trust-roots"]);
    assert_eq!(eventually("the repair by the new leader", 20, || roots_in(&namespace)), roots);

    kubectl(&["label", "namespace", "roots", "outrigger.dev/inject-"]);
    eventually("the removal", 20, || match roots_in(&namespace) {
        Err(error) if error.contains("NotFound") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    crate::mesh::ready();
}
