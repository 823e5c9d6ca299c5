//! Policies as objects of a cluster: the API server refuses what the CRDs forbid, the status says what applies, and a refused policy
//! opens no door.

use crate::cluster::{eventually, on_the_node};
use crate::manifests::{deployment, server};
use crate::namespace::Namespace;

/// Returns a pod's spec: a server that runs as this service account.
fn as_account(account: &str) -> String {
    server("").replacen('{', &format!("{{serviceAccountName: {account}, "), 1)
}

fn account(name: &str) -> String {
    format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}}}\n---\n")
}

/// Returns a policy; `spec` is the rest of its spec beside its target, the Service of this name.
fn policy(kind: &str, name: &str, service: &str, spec: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\n\
         spec: {{targetRefs: [{{group: \"\", kind: Service, name: {service}}}], {spec}}}\n"
    )
}

#[test]
fn policies_hold_and_their_status_says_so() {
    let namespace = Namespace::meshed("policies", "strict");
    namespace.apply(&[account("cart"), deployment("cart", 1, &as_account("cart"))].concat());
    namespace.apply(&deployment("web", 1, &server("")));
    namespace.ready("deploy/cart");
    namespace.ready("deploy/web");
    for caller in ["deploy/cart", "deploy/web"] {
        namespace.exec(caller, &["/pod", "call", "http://web/"]).unwrap();
    }
    let gets = |caller: &str, path: &str, status: &str| {
        eventually(&format!("{status} for {caller}"), 30, || {
            let answer = namespace.exec(caller, &["/pod", "get", &format!("http://web/{path}")])?;
            if answer.starts_with(status) { Ok(()) } else { Err(answer) }
        });
    };

    // What the schema forbids never becomes an object, and the error names the field.
    for (kind, spec, field) in [
        ("AuthorizationPolicy", "action: Permit", "spec.action"),
        ("RateLimitPolicy", "local: [{requests: 0, per: Second}]", "spec.local[0].requests"),
        ("FaultInjectionPolicy", "delay: {percent: 101, duration: 1s}", "spec.delay.percent"),
    ] {
        let refused = namespace.attempt_apply(&policy(kind, "refused", "web", spec)).unwrap_err();
        assert!(refused.contains(field), "{refused}");
    }

    let allow = |rules: &str| {
        policy("AuthorizationPolicy", "callers", "web", &format!("action: Allow, rules: [{rules}]"))
    };
    let cart = "{from: [{serviceAccounts: [{name: cart}]}]}";
    namespace.apply(&allow(cart));
    namespace.has_conditions("authorizationpolicy", "callers", &["Accepted=True"]);
    gets("deploy/web", "", "403");
    gets("deploy/cart", "", "200");

    // The control plane refuses what the schema cannot express. The last good version stays.
    namespace.apply(&allow("{to: [{paths: [{type: RegularExpression, value: \"/(\"}]}]}"));
    namespace.has_conditions(
        "authorizationpolicy",
        "callers",
        &["PartiallyInvalid=True", "spec.rules[0].to[0].paths[0]"],
    );
    gets("deploy/web", "", "403");
    gets("deploy/cart", "", "200");
    // With none, its target denies, and says why.
    namespace.kubectl(&["delete", "authorizationpolicy", "callers"]);
    gets("deploy/web", "", "200");
    namespace.apply(&allow("{to: [{paths: [{type: RegularExpression, value: \"/(\"}]}]}"));
    namespace.has_conditions(
        "authorizationpolicy",
        "callers",
        &["Accepted=False", "spec.rules[0].to[0].paths[0]"],
    );
    gets("deploy/cart", "", "403");
    namespace.kubectl(&["delete", "authorizationpolicy", "callers"]);

    namespace.apply(&policy(
        "RateLimitPolicy",
        "limit",
        "web",
        "local: [{requests: 2, per: Hour, by: [{path: {value: /limited}}]}]",
    ));
    namespace.has_conditions("ratelimitpolicy", "limit", &["Accepted=True"]);
    gets("deploy/cart", "limited", "429");
    gets("deploy/cart", "other", "200");
    namespace.apply(&policy(
        "FaultInjectionPolicy",
        "faults",
        "web",
        "abort: {percent: 100, httpStatus: 418}",
    ));
    gets("deploy/cart", "", "418");
    namespace.kubectl(&["delete", "faultinjectionpolicy", "faults"]);
    gets("deploy/cart", "", "200");

    namespace.apply(&policy("RateLimitPolicy", "nothing", "gone", "local: [{requests: 2, per: Hour}]"));
    namespace.has_conditions("ratelimitpolicy", "nothing", &["Accepted=False", "gone"]);
    let explain = [env!("CARGO_BIN_EXE_outrigger"), "policy", "explain", "web.policies", "--kubernetes"];
    let explained = on_the_node(&explain).unwrap();
    assert!(explained.contains("policies/limit") && !explained.contains("policies/nothing"), "{explained}");
}
