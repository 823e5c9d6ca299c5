//! API keys of Secrets, with the permissions that users give for them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::cluster::{attempt, eventually};
use crate::manifests::{deployment, server};
use crate::mesh::CONTROL_PLANE;
use crate::namespace::Namespace;

const POLICY: &str = "apiVersion: outrigger.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {name: partners}
spec:
  targetRefs: [{group: \"\", kind: Service, name: web}]
  apiKeys: {secrets: [{name: partner-keys}], from: [{query: key}]}
---
";

const PERMISSION: &str = "apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: outrigger-api-keys}
rules: [{apiGroups: [\"\"], resources: [secrets], resourceNames: [partner-keys], verbs: [list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: outrigger-api-keys}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: outrigger-api-keys}
subjects: [{kind: ServiceAccount, name: outrigger-control-plane, namespace: outrigger-system}]
---
";

fn secret(keys: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: partner-keys, labels: {{outrigger.dev/api-keys: \"true\"}}}}\n\
         stringData: {{acme: \"{keys}\"}}\n---\n"
    )
}

/// Waits until the condition `ResolvedRefs` of the policy has this reason, and returns its message.
fn resolved_refs(namespace: &Namespace, reason: &str) -> String {
    eventually(reason, 60, || {
        let policy = namespace.attempt(&["get", "authenticationpolicy", "partners", "-o", "json"])?;
        let policy: Value = serde_json::from_str(&policy).map_err(|error| error.to_string())?;
        let conditions = &policy["status"]["ancestors"][0]["conditions"];
        let all = conditions.as_array().ok_or("no status")?;
        let found = all.iter().find(|one| one["type"] == "ResolvedRefs" && one["reason"] == reason);
        found.map(|one| one["message"].to_string()).ok_or_else(|| conditions.to_string())
    })
}

#[test]
fn a_secret_is_read_once_a_role_permits_its_name_and_its_keys_are_rotated() {
    let namespace = Namespace::meshed("api-keys", "strict");
    namespace.apply(&deployment("web", 1, &server("")));
    namespace.apply(&deployment("client", 1, &server("")));
    namespace.ready("deploy/web");
    namespace.ready("deploy/client");
    let call = |key: &str| {
        let answer = namespace.exec("deploy/client", &["/pod", "get", &format!("http://web/?key={key}")])?;
        if answer.starts_with("200 ") { Ok(()) } else { Err(answer) }
    };
    let is_refused = |key: &str| match call(key) {
        Err(answer) if answer.starts_with("401 ") || answer.starts_with("403 ") => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually("a call without a policy", 30, || call("none"));

    namespace.apply(&secret("first-key-of-acme"));
    namespace.apply(POLICY);
    let message = resolved_refs(&namespace, "InvalidSecret");
    assert!(message.contains("cannot be read") && message.contains("cannot list resource"), "{message}");
    eventually("a refusal", 30, || is_refused("first-key-of-acme"));

    namespace.apply(PERMISSION);
    resolved_refs(&namespace, "ResolvedRefs");
    eventually("the first key", 30, || call("first-key-of-acme"));
    is_refused("second-key-of-acme").unwrap();

    namespace.apply(&secret("first-key-of-acme\\nsecond-key-of-acme"));
    eventually("the second key", 30, || call("second-key-of-acme"));
    call("first-key-of-acme").unwrap();
    namespace.apply(&secret("short"));
    let message = resolved_refs(&namespace, "InvalidSecret");
    assert!(
        message.contains("data.acme: is shorter than 16 characters; its last good version is used"),
        "{message}"
    );
    call("second-key-of-acme").unwrap();

    namespace.apply(&secret("second-key-of-acme"));
    eventually("the end of the first key", 30, || is_refused("first-key-of-acme"));
    call("second-key-of-acme").unwrap();
    namespace.kubectl(&["label", "secret", "partner-keys", "outrigger.dev/api-keys-"]);
    resolved_refs(&namespace, "SecretNotFound");
    eventually("the end of the second key", 30, || is_refused("second-key-of-acme"));

    let log = attempt(&["-n", "outrigger-system", "logs", "-l", CONTROL_PLANE, "--tail=-1"]).unwrap();
    for key in ["first-key-of-acme", "second-key-of-acme"] {
        // As in `data` of a Secret, whatever follows it there.
        let encoded = STANDARD.encode(&key[..15]);
        assert!(!log.contains(key) && !log.contains(&encoded), "{log}");
    }
}
