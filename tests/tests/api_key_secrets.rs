//! API keys of Secrets, from a file to what callers see.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use outrigger_control_plane::explain;
use outrigger_test_support::application::Application;
use outrigger_test_support::http1::ok;
use outrigger_test_support::wait::eventually;
use outrigger_tests::load::Load;
use outrigger_tests::mesh::{Mesh, service};
use outrigger_tests::sidecar::Sidecar;

const FIRST: &str = "first-secret-key-of-acme";
const SECOND: &str = "second-secret-key-of-acme";

const POLICY: &str = "---
apiVersion: outrigger.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {name: p, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: app}]
  apiKeys: {secrets: [{name: keys}], from: [{header: X-Api-Key}], clientHeader: X-Client}
";

fn secret(entries: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: keys, namespace: shop, labels: {{outrigger.dev/api-keys: 'true'}}}}\n\
         stringData: {{{entries}}}\n"
    )
}

fn field(key: &str) -> String {
    format!("X-Api-Key: {key}\r\n")
}

async fn status(sidecar: &Sidecar, key: &str) -> u16 {
    sidecar.client().await.request("GET", "app", "/", &field(key)).await.status
}

/// Waits until a GET with this key has this status.
async fn becomes(sidecar: &Sidecar, key: &str, expected: u16) {
    let what = format!("{expected} with {key}");
    eventually(&what, async || (status(sidecar, key).await == expected).then_some(())).await;
}

/// Asserts that nothing of the keys has left the control plane: its state, its pages and what a sidecar has saved.
async fn assert_no_key(mesh: &Mesh) {
    let status = format!("{:?}", mesh.status().await);
    let policies = mesh.page("/policies?service=shop/app").await;
    for text in [status, policies] {
        assert!(!text.contains("secret-key"), "{text}");
    }
    let mut directories = vec![mesh.directory().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().unwrap() != "config" {
                directories.push(path);
            } else if path.is_file() {
                let bytes = std::fs::read(&path).unwrap();
                let found = bytes.windows(10).any(|window| window == b"secret-key");
                assert!(!found, "{} has a key", path.display());
            }
        }
    }
}

/// Returns the example of the page.
fn example() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/authentication.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut examples = page.split("```yaml\n").filter_map(|rest| rest.split("```").next());
    examples.find(|example| example.contains("kind: Secret")).unwrap().to_owned()
}

#[tokio::test]
async fn the_example_of_the_page_holds() {
    let mesh = Mesh::start(&example()).await;
    let app = Application::http(|request| ok(&request.head)).await;
    let _served = mesh.sidecar("feed").serves("feed", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    for (key, client) in [
        ("partner-key-of-acme", "acme"),
        ("partner-key-of-brand-2026", "brand"),
        ("partner-key-of-brand-2027", "brand"),
        ("partner-key-of-corp", "corp"),
    ] {
        let answer = web.client().await.request("GET", "feed", "/", &field(key)).await;
        let seen = answer.body.to_ascii_lowercase();
        assert!(
            answer.status == 200 && seen.contains(&format!("x-partner: {client}\r\n")),
            "{key}: {answer:?}"
        );
        assert!(!seen.contains("partner-key"), "{seen}");
    }
    let hash = example().split_once("corp: sha256:").unwrap().1[..64].to_owned();
    for key in ["partner-key-of-brand", &hash, &format!("sha256:{hash}")] {
        let answer = web.client().await.request("GET", "feed", "/", &field(key)).await;
        assert_eq!(answer.status, 401, "{key}: {answer:?}");
    }
}

#[tokio::test]
async fn keys_are_rotated_under_load_and_nothing_is_lost() {
    let mesh = Mesh::start(&(service("app", 80, "http") + POLICY)).await;
    mesh.write("keys.yaml", &secret(&format!("acme: {FIRST}")));
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    becomes(&web, FIRST, 200).await;
    assert_eq!(status(&web, SECOND).await, 401);
    for (old, new) in [(FIRST, SECOND), (SECOND, FIRST)] {
        let load = Load::with_fields(web.outbound(), "app", &field(old));
        load.wait_for(50).await;
        mesh.write("keys.yaml", &secret(&format!("acme: \"{old}\\n{new}\\n\"")));
        becomes(&web, new, 200).await;
        load.wait_for(50).await;
        load.finish().await.assert_nothing_lost();
        let load = Load::with_fields(web.outbound(), "app", &field(new));
        mesh.write("keys.yaml", &secret(&format!("acme: {new}")));
        becomes(&web, old, 401).await;
        load.wait_for(50).await;
        load.finish().await.assert_nothing_lost();
    }
    assert_no_key(&mesh).await;
}

#[tokio::test]
async fn without_a_key_the_target_denies_and_says_why() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    becomes(&web, FIRST, 200).await;
    mesh.write("policy.yaml", POLICY);
    becomes(&web, FIRST, 403).await;
    // Neither a Secret without the label nor one that is refused opens it.
    mesh.write("keys.yaml", &secret(&format!("acme: {FIRST}")).replace("'true'", "'yes'"));
    mesh.write("other.yaml", &service("other", 80, "http"));
    web.get_until("other", "/", |answer| answer.reason() == "no_healthy_upstream").await;
    assert_eq!(status(&web, FIRST).await, 403);
    mesh.write("keys.yaml", &secret(&format!("acme: {FIRST}, beta: secret-key")));
    mesh.refusal("stringData.beta: is shorter than 16 characters").await;
    assert_eq!(status(&web, FIRST).await, 403);
    let policies: explain::ServicePolicies =
        serde_json::from_str(&mesh.page("/policies?service=shop/app").await).unwrap();
    assert_eq!(policies.policies[0].denies.as_deref(), Some("no API key"));
    assert_no_key(&mesh).await;
    mesh.write("keys.yaml", &secret(&format!("acme: {FIRST}")));
    becomes(&web, FIRST, 200).await;
    assert_eq!(status(&web, SECOND).await, 401);
    // Revoked by an edit. A version that is refused gives no key back.
    mesh.write("keys.yaml", &secret("acme: ''"));
    becomes(&web, FIRST, 403).await;
    mesh.write("keys.yaml", &secret("acme: short"));
    mesh.refusal("stringData.acme: is shorter than 16 characters").await;
    assert_eq!(status(&web, FIRST).await, 403);
    mesh.write("keys.yaml", &secret(&format!("acme: {FIRST}")));
    becomes(&web, FIRST, 200).await;
    mesh.write("keys.yaml", &secret(""));
    becomes(&web, FIRST, 403).await;
    mesh.write("keys.yaml", &secret(&format!("acme: {FIRST}")));
    becomes(&web, FIRST, 200).await;
    // Deleted with its keys.
    mesh.write("keys.yaml", "");
    becomes(&web, FIRST, 403).await;
}

#[tokio::test]
async fn a_refused_secret_keeps_its_good_keys_also_after_a_restart() {
    let mut mesh = Mesh::start(&(service("app", 80, "http") + POLICY)).await;
    mesh.write("keys.yaml", &secret(&format!("acme: {FIRST}")));
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    becomes(&web, FIRST, 200).await;
    mesh.write("keys.yaml", &secret(&format!("acme: {SECOND}, beta: {SECOND}")));
    mesh.refusal("stringData.beta: has a key of client acme again").await;
    assert_eq!(status(&web, FIRST).await, 200);
    assert_eq!(status(&web, SECOND).await, 401);
    assert_no_key(&mesh).await;
    mesh.stop_control_plane().await;
    mesh.start_control_plane().await;
    mesh.refusal("has a key of client acme again").await;
    let late = mesh.sidecar("late").start().await;
    becomes(&late, FIRST, 200).await;
    assert_eq!(status(&late, SECOND).await, 401);
    assert_no_key(&mesh).await;
    mesh.write("keys.yaml", &secret(&format!("acme: {SECOND}")));
    becomes(&web, SECOND, 200).await;
    becomes(&web, FIRST, 401).await;
}
