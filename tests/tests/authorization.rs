//! AuthorizationPolicies, from a file to what callers see.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use outrigger_test_support::application::Application;
use outrigger_test_support::http1::Response;
use outrigger_test_support::wait::eventually;
use outrigger_tests::mesh::{Mesh, http_route, service};
use outrigger_tests::sidecar::Sidecar;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A policy of namespace `shop`.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1alpha1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

async fn status(sidecar: &Sidecar, method: &str, host: &str, path: &str) -> u16 {
    let answer: Response = sidecar.client().await.request(method, host, path, "").await;
    if answer.status == 403 {
        assert_eq!(answer.reason(), "access_denied");
    }
    answer.status
}

/// Waits until a GET of `/` has this status.
async fn becomes(sidecar: &Sidecar, host: &str, expected: u16) {
    let what = format!("{expected} from {host}");
    eventually(&what, async || (status(sidecar, "GET", host, "/").await == expected).then_some(())).await;
}

#[tokio::test]
async fn the_example_of_the_page_holds() {
    let mesh = Mesh::start(&format!("{}{}", example(0), service("other", 80, "http"))).await;
    let (payments, other) = (Application::echo("payments").await, Application::echo("other").await);
    let served = mesh.sidecar("payments").serves("payments", payments.address);
    let _served = served.serves("other", other.address).start().await;
    let cart = mesh.sidecar("cart").start().await;
    let web = mesh.sidecar("web").start().await;
    let accounting = mesh.sidecar("cart").namespace("accounting").instance("accounting").start().await;
    for (who, method, path, expected) in [
        (&cart, "POST", "/payments/7", 200),
        (&cart, "POST", "/payments?all", 200),
        (&cart, "GET", "/payments/7", 403),
        (&cart, "POST", "/paymentsx", 403),
        (&cart, "POST", "/payments/admin/all", 403),
        (&cart, "POST", "/payments/x/../admin", 403),
        (&web, "POST", "/payments/7", 403),
        (&accounting, "GET", "/", 200),
        (&accounting, "POST", "/payments/7", 403),
        (&accounting, "GET", "/payments/admin", 403),
    ] {
        assert_eq!(status(who, method, "payments.shop", path).await, expected, "{method} {path}");
    }
    assert_eq!(status(&cart, "GET", "other.shop", "/").await, 403, "nothing is allowed without a policy");
    assert_eq!(other.requests(), 0);
}

#[tokio::test]
async fn a_policy_applies_as_soon_as_it_is_read_and_no_longer_than_it_exists() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    becomes(&web, "app", 200).await;
    mesh.write(
        "policy.yaml",
        &policy("p", "action: Deny, rules: [{from: [{serviceAccounts: [{name: web}]}]}]"),
    );
    becomes(&web, "app", 403).await;
    mesh.write(
        "policy.yaml",
        &policy("p", "action: Deny, rules: [{from: [{serviceAccounts: [{name: cart}]}]}]"),
    );
    becomes(&web, "app", 200).await;
    mesh.write("policy.yaml", &policy("p", "action: Allow"));
    becomes(&web, "app", 403).await;
    mesh.write("policy.yaml", "");
    becomes(&web, "app", 200).await;
}

#[tokio::test]
async fn a_refused_policy_keeps_its_good_version_and_without_one_its_target_denies() {
    let mesh = Mesh::start(&[service("a", 80, "http"), service("b", 80, "http")].concat()).await;
    let (a, b) = (Application::echo("a").await, Application::echo("b").await);
    let served = mesh.sidecar("backends").serves("a", a.address).serves("b", b.address);
    let _served = served.start().await;
    let web = mesh.sidecar("web").start().await;
    let of_a = "targetRefs: [{group: '', kind: Service, name: a}]";
    mesh.write("policy.yaml", &policy("p", &format!("{of_a}, action: Permit, rules: [{{}}]")));
    becomes(&web, "a", 403).await;
    assert_eq!(status(&web, "GET", "b", "/").await, 200);
    mesh.refusal("denies everything").await;
    mesh.write(
        "policy.yaml",
        &policy("p", &format!("{of_a}, action: Allow, rules: [{{to: [{{methods: [GET]}}]}}]")),
    );
    becomes(&web, "a", 200).await;
    mesh.write("policy.yaml", &policy("p", &format!("{of_a}, action: Permit, rules: [{{}}]")));
    mesh.refusal("unknown value").await;
    assert_eq!(status(&web, "GET", "a", "/").await, 200);
    assert_eq!(status(&web, "POST", "a", "/").await, 403);
}

#[tokio::test]
async fn a_policy_of_a_route_applies_to_the_requests_that_match_it() {
    let rules = "    - {name: pay, matches: [{path: {value: /pay}}], backendRefs: [{name: app, port: 80}]}\n\
                 \x20   - {name: rest, backendRefs: [{name: app, port: 80}]}";
    let target = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: app, sectionName: pay}";
    let allow = format!(
        "targetRefs: [{target}], action: Allow, rules: [{{from: [{{serviceAccounts: [{{name: cart}}]}}]}}]"
    );
    let deny = format!("targetRefs: [{target}], action: Deny, rules: [{{to: [{{methods: [DELETE]}}]}}]");
    let route = http_route("shop", "app", "app", rules);
    let documents = [service("app", 80, "http"), route, policy("allow", &allow), policy("deny", &deny)];
    let mesh = Mesh::start(&documents.concat()).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let (cart, web) = (mesh.sidecar("cart").start().await, mesh.sidecar("web").start().await);
    for (who, method, path, expected) in [
        (&cart, "GET", "/pay/1", 200),
        (&cart, "DELETE", "/pay/1", 403),
        (&web, "GET", "/pay", 403),
        (&web, "GET", "/", 200),
        (&web, "DELETE", "/other", 200),
    ] {
        assert_eq!(status(who, method, "app", path).await, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn only_the_owner_reaches_a_database_port() {
    let mesh = Mesh::start(&service("stock-db", 5432, "tcp")).await;
    let db = Application::repeater().await;
    let _served = mesh.sidecar("db").serves("stock-db:5432", db.address).start().await;
    let stock = mesh.sidecar("stock").binds("stock-db:5432").start().await;
    let web = mesh.sidecar("web").binds("stock-db:5432").start().await;
    assert!(answers(&stock).await && answers(&web).await);
    mesh.write("mesh.yaml", &example(1));
    eventually("a refused connection", async || (!answers(&web).await).then_some(())).await;
    assert!(answers(&stock).await);
}

/// Returns an example of the page, by its index.
fn example(index: usize) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/authorization.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut examples = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    examples.nth(index).unwrap().to_owned()
}

/// Returns true if an application that repeats what it is sent does so.
async fn answers(sidecar: &Sidecar) -> bool {
    let mut stream = TcpStream::connect(sidecar.bound()).await.unwrap();
    let mut answer = [0; 4];
    stream.write_all(b"ping").await.is_ok() && stream.read_exact(&mut answer).await.is_ok()
}
