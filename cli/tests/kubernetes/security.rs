//! What is refused, and that the refusal is logged: tokens of other pods, callers without mTLS where it is strict, annotations with more
//! than a value, privileges that a namespace does not allow.

use crate::cluster::{apply, attempt, eventually, in_the_network_of_the_node, kubectl};
use crate::manifests::{deployment, server};
use crate::namespace::Namespace;
use crate::outsider::{Outsider, token};

const SYSTEM: &[&str] = &["-n", "outrigger-system"];

fn system(args: &[&str]) -> Result<String, String> {
    attempt(&[SYSTEM, args].concat())
}

/// Returns what the replicas of the control plane have logged.
fn control_plane_log() -> String {
    system(&["logs", "-l", "app.kubernetes.io/name=outrigger-control-plane", "--tail=-1"]).unwrap()
}

#[test]
fn a_token_of_another_pod_or_audience_or_account_or_of_no_pod_gets_no_certificate() {
    let namespace = Namespace::plain("tokens");
    for node in ["1", "2"] {
        apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: on-node{node}, namespace: tokens}}\nspec: {{nodeName: node{node}, \
             containers: [{{name: app, image: \"test/pod:1\", args: [serve, \"8080\"]}}]}}\n"
        ));
    }
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/on-node1", "pod/on-node2", "--timeout=60s"]);
    let deleted = token(&namespace, "on-node2", "outrigger.dev");
    let refused = [
        (deleted.clone(), "foreign-address", "which is no address of that pod"),
        (token(&namespace, "on-node1", "other"), "token-audience", "is not for the audience outrigger.dev"),
        (token(&namespace, "", "outrigger.dev"), "unbound-token", "is not bound to a pod"),
    ];
    let own = token(&namespace, "on-node1", "outrigger.dev");
    let own_token = (own.clone(), "", "certificate issued");
    let tokens = refused.iter().chain([&own_token]).zip(1..);
    let mut logs = std::thread::scope(|scope| {
        let proxies: Vec<_> = tokens
            .map(|((token, _, text), number)| scope.spawn(move || Outsider::new(token).run(number, text)))
            .collect();
        proxies.into_iter().map(|proxy| proxy.join().unwrap()).collect::<Vec<_>>()
    });
    // From its own node it is accepted, from the address of the node as from that of its bridge. The identity is that of the token,
    // whatever the proxy calls itself.
    let log = logs.pop().unwrap();
    assert!(log.contains("identity=spiffe://cluster.local/ns/tokens/sa/default"), "{log}");
    for ((token, reason, text), log) in refused.iter().zip(logs) {
        assert!(!log.contains("certificate issued") && log.contains(text), "{log}");
        assert!(!log.contains(token), "the token is a secret");
        let log = control_plane_log();
        assert!(log.contains(&format!("certificate refused reason=\"{reason}\"")), "{log}");
    }

    let proxy = Outsider::new(&own);
    let refusal = in_the_network_of_the_node(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(proxy.refusal_of("spiffe://cluster.local/ns/tokens/sa/another"))
    });
    let sender = "another, and its sender is spiffe://cluster.local/ns/tokens/sa/default";
    assert!(refusal.ends_with(sender), "{refusal}");
    let log = control_plane_log();
    assert!(log.contains("certificate refused reason=\"foreign-name\""), "{log}");

    namespace.kubectl(&["delete", "pod", "on-node2", "--now"]);
    let log = Outsider::new(&deleted).run(1, "refused the service account token");
    assert!(
        !log.contains("certificate issued") && log.contains("refused the service account token"),
        "{log}"
    );
}

/// Asserts that a pod cannot call `url`, and returns the address of the pod.
fn assert_refused(namespace: &str, app: &str, url: &str) -> String {
    let pod = format!("deploy/{app}");
    attempt(&["-n", namespace, "exec", &pod, "-c", "app", "--", "/pod", "get", url]).unwrap_err();
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

#[test]
fn without_the_plugin_baseline_refuses_net_admin_of_the_capture_container_and_nothing_else() {
    let namespace = Namespace::meshed("baseline", "strict");
    kubectl(&["label", "namespace", "baseline", "pod-security.kubernetes.io/enforce=baseline"]);
    let refused = namespace.attempt(&["run", "web", "--image=test/pod:1"]).unwrap_err();
    let only = "violates PodSecurity \"baseline:latest\": non-default capabilities (container \"outrigger-capture\" must not include \
                \"NET_ADMIN\" in securityContext.capabilities.add)\n";
    assert!(refused.ends_with(only), "{refused}");
}
