//! AuthenticationPolicies, from a file to what callers see.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use outrigger_test_support::application::Application;
use outrigger_test_support::http1::{Response, ok};
use outrigger_test_support::tls_front::TlsFront;
use outrigger_test_support::token::{TokenSigner, key_set};
use outrigger_test_support::wait::eventually;
use outrigger_tests::load::Load;
use outrigger_tests::mesh::{Mesh, http_route, service};
use outrigger_tests::sidecar::Sidecar;

/// A policy of namespace `shop`.
fn policy(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1alpha1\nkind: {kind}\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

/// The tokens of `https://idp.example` for `shop`, signed by this key.
fn jwt(signer: &TokenSigner) -> String {
    let keys = key_set([signer]);
    format!(
        "jwt: {{issuers: [{{issuer: 'https://idp.example', audiences: [shop], keys: {{inline: '{keys}'}}}}]}}"
    )
}

/// Claims of a token that is valid for so many seconds more.
fn claims(audience: &str, seconds: i64, more: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let expires = now.checked_add_signed(seconds).unwrap();
    format!(r#"{{"iss":"https://idp.example","aud":"{audience}","sub":"ann","exp":{expires}{more}}}"#)
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

async fn ask(sidecar: &Sidecar, host: &str, path: &str, fields: &str) -> Response {
    sidecar.client().await.request("GET", host, path, fields).await
}

async fn status(sidecar: &Sidecar, host: &str, path: &str, fields: &str) -> u16 {
    ask(sidecar, host, path, fields).await.status
}

/// Waits until a GET of `/` has this status.
async fn becomes(sidecar: &Sidecar, host: &str, fields: &str, expected: u16) {
    let what = format!("{expected} from {host}");
    eventually(&what, async || (status(sidecar, host, "/", fields).await == expected).then_some(())).await;
}

/// Returns an example of the page, by its index.
fn example(index: usize) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/authentication.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut examples = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    examples.nth(index).unwrap().to_owned()
}

#[tokio::test]
async fn the_example_of_the_page_holds() {
    let signer = TokenSigner::new("EdDSA", "2026-11");
    let example = example(0);
    let (before, rest) = example.split_once("inline: >-\n").unwrap();
    let (_, after) = rest.split_once('\n').unwrap();
    let mesh = Mesh::start(&format!("{before}inline: '{}'\n{after}", key_set([&signer]))).await;
    let orders = Application::http(|request| ok(&request.head)).await;
    let _served = mesh.sidecar("orders").serves("orders", orders.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let token = |audience: &str, seconds, more: &str| bearer(&signer.token(&claims(audience, seconds, more)));
    let staff = r#","groups":["staff"]"#;
    for (path, fields, expected) in [
        ("/orders", String::new(), 401),
        ("/orders", token("shop", -120, ""), 401),
        ("/orders", token("office", 60, ""), 403),
        ("/orders", bearer(&TokenSigner::new("EdDSA", "2026-11").token(&claims("shop", 60, ""))), 401),
        ("/orders", token("shop", 60, ""), 200),
        ("/healthz", String::new(), 200),
        ("/orders/all", token("shop", 60, ""), 403),
        ("/orders/all", token("shop", 60, staff), 200),
        ("/orders/all", String::new(), 401),
        ("/partners/orders", String::new(), 401),
        ("/partners/orders", token("shop", 60, staff), 401),
        ("/partners/orders", "X-Api-Key: wrong\r\n".into(), 401),
        ("/partners/orders", "X-Api-Key: partner-key-of-acme\r\n".into(), 200),
    ] {
        let answer = ask(&web, "orders.shop", path, &fields).await;
        assert_eq!(answer.status, expected, "{path} {fields}: {answer:?}");
    }
    let answer = ask(&web, "orders.shop", "/orders", &(token("shop", 60, "") + "X-User: mallory\r\n")).await;
    let seen = answer.body.to_ascii_lowercase();
    assert!(seen.contains("x-user: ann\r\n") && !seen.contains("mallory"), "{seen}");
    assert!(!seen.contains("authorization:"), "the application does not get the token: {seen}");
    let key = "X-Api-Key: partner-key-of-acme\r\nX-Partner: mallory\r\n";
    let seen = ask(&web, "orders.shop", "/partners/orders", key).await.body.to_ascii_lowercase();
    assert!(seen.contains("x-partner: acme\r\n") && !seen.contains("partner-key"), "{seen}");
    let seen = ask(&web, "orders.shop", "/healthz", "X-Partner: mallory\r\nX-User: mallory\r\n").await.body;
    assert!(!seen.contains("mallory"), "nobody sets these fields where nothing is checked: {seen}");
}

#[tokio::test]
async fn a_policy_is_turned_on_and_off_under_load_and_nothing_is_lost() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let signer = TokenSigner::new("ES256", "k");
    let fields = bearer(&signer.token(&claims("shop", 600, "")));
    becomes(&web, "app", "", 200).await;
    let load = Load::with_fields(web.outbound(), "app", &fields);
    for _ in 0..3 {
        load.wait_for(50).await;
        mesh.write("policy.yaml", &policy("AuthenticationPolicy", "p", &jwt(&signer)));
        becomes(&web, "app", "", 401).await;
        load.wait_for(50).await;
        mesh.write("policy.yaml", "");
        becomes(&web, "app", "", 200).await;
    }
    load.finish().await.assert_nothing_lost();
}

#[tokio::test]
async fn a_refused_policy_keeps_its_good_version_and_without_one_its_target_denies() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let signer = TokenSigner::new("ES256", "k");
    let token = bearer(&signer.token(&claims("shop", 600, "")));
    let bad = "jwt: {issuers: [{issuer: i, keys: {inline: '<html></html>'}}]}";
    mesh.write("policy.yaml", &policy("AuthenticationPolicy", "p", bad));
    becomes(&web, "app", &token, 403).await;
    mesh.refusal("denies everything").await;
    mesh.write("policy.yaml", &policy("AuthenticationPolicy", "p", &jwt(&signer)));
    becomes(&web, "app", &token, 200).await;
    mesh.write("policy.yaml", &policy("AuthenticationPolicy", "p", bad));
    mesh.refusal("is not a JSON Web Key Set").await;
    assert_eq!(status(&web, "app", "/", &token).await, 200);
    assert_eq!(status(&web, "app", "/", "").await, 401);
}

#[tokio::test]
async fn keys_are_fetched_from_a_service_of_the_mesh() {
    let signer = TokenSigner::new("ES256", "k");
    let keys = key_set([&signer]);
    let issuer = "issuer: 'https://idp.example', keys: {service: {name: idp, port: 8080, path: /keys}}";
    let target = "targetRefs: [{group: '', kind: Service, name: app}]";
    let spec = format!("{target}, jwt: {{issuers: [{{{issuer}}}]}}");
    let documents = [
        service("app", 80, "http"),
        service("idp", 8080, "http"),
        policy("AuthenticationPolicy", "p", &spec),
    ];
    let mesh = Mesh::start(&documents.concat()).await;
    let app = Application::echo("app").await;
    let idp = Application::http(move |request| match request.path() {
        "/keys" => ok(&keys),
        other => panic!("{other}"),
    })
    .await;
    let _idp = mesh.sidecar("idp").serves("idp:8080", idp.address).start().await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let token = bearer(&signer.token(&claims("shop", 60, "")));
    becomes(&web, "app", &token, 200).await;
    assert_eq!(status(&web, "app", "/", "").await, 401);
    assert_eq!(idp.requests(), 1);
}

/// A policy whose keys are at a path of a host that this root certifies.
fn with_key_uri(front: &TlsFront, path: &str, root: &str) -> String {
    let uri = format!("https://localhost:{}{path}", front.address.port());
    let keys = format!("{{uri: '{uri}', caCertificates: {root:?}}}");
    policy(
        "AuthenticationPolicy",
        "p",
        &format!("jwt: {{issuers: [{{issuer: 'https://idp.example', keys: {keys}}}]}}"),
    )
}

#[tokio::test]
async fn keys_outside_the_mesh_are_fetched_over_verified_tls() {
    let signer = TokenSigner::new("ES256", "k");
    let keys = key_set([&signer]);
    let idp = Application::http(move |request| match request.path() {
        "/keys" => ok(&keys),
        "/html" => ok("<html></html>"),
        "/long" => ok(&format!("{{\"keys\": [], \"x\": \"{}\"}}", "x".repeat(5 << 20))),
        other => panic!("{other}"),
    })
    .await;
    let untouched = Application::http(|_| panic!("its certificate is not verified")).await;
    let front = TlsFront::start("localhost", idp.address).await;
    let html = TlsFront::start("localhost", idp.address).await;
    let long = TlsFront::start("localhost", idp.address).await;
    let unknown = TlsFront::start("localhost", untouched.address).await;
    let elsewhere = TlsFront::start("elsewhere.example", untouched.address).await;
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let token = bearer(&signer.token(&claims("shop", 600, "")));
    becomes(&web, "app", "", 200).await;
    // Without keys the port denies.
    for (front, path, root) in [
        (&html, "/html", &html.root),
        (&long, "/long", &long.root),
        (&unknown, "/keys", &front.root),
        (&elsewhere, "/keys", &elsewhere.root),
    ] {
        mesh.write("policy.yaml", &with_key_uri(front, path, root));
        eventually("a fetch", async || {
            let status = status(&web, "app", "/", &token).await;
            (front.connections() > 0 && status == 503).then_some(())
        })
        .await;
    }
    assert_eq!(untouched.requests(), 0);
    mesh.write("policy.yaml", &with_key_uri(&front, "/keys", &front.root));
    becomes(&web, "app", &token, 200).await;
    assert_eq!(status(&web, "app", "/", "").await, 401);
    let other = bearer(&TokenSigner::new("ES256", "k").token(&claims("shop", 600, "")));
    assert_eq!(status(&web, "app", "/", &other).await, 401);
}

#[tokio::test]
async fn a_valid_token_of_an_algorithm_that_is_not_allowed_is_refused() {
    let (edwards, elliptic) = (TokenSigner::new("EdDSA", "a"), TokenSigner::new("ES256", "b"));
    let keys = key_set([&edwards, &elliptic]);
    let issuer = |keys: &str, more: &str| {
        let issuer = format!("issuer: 'https://idp.example', keys: {{{keys}}}{more}");
        let target = "targetRefs: [{group: '', kind: Service, name: app}]";
        policy("AuthenticationPolicy", "p", &format!("{target}, jwt: {{issuers: [{{{issuer}}}]}}"))
    };
    let (inline, elsewhere) =
        (format!("inline: '{keys}'"), "service: {name: idp, port: 8080, path: /keys}".to_owned());
    let mesh = Mesh::start(&[service("app", 80, "http"), service("idp", 8080, "http")].concat()).await;
    let app = Application::echo("app").await;
    let idp = Application::http(move |_| ok(&keys)).await;
    let _idp = mesh.sidecar("idp").serves("idp:8080", idp.address).start().await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let [edwards, elliptic] =
        [&edwards, &elliptic].map(|signer| bearer(&signer.token(&claims("shop", 600, ""))));
    for (keys, refused) in [(inline, 401), (elsewhere, 403)] {
        mesh.write("policy.yaml", &issuer(&keys, ", algorithms: [EdDSA, RS256]"));
        becomes(&web, "app", &elliptic, refused).await;
        becomes(&web, "app", &edwards, 200).await;
        assert_eq!(status(&web, "app", "/", "").await, 401);
        mesh.write("policy.yaml", &issuer(&keys, ", algorithms: [ES256]"));
        becomes(&web, "app", &edwards, refused).await;
        becomes(&web, "app", &elliptic, 200).await;
        mesh.write("policy.yaml", &issuer(&keys, ""));
        becomes(&web, "app", &edwards, 200).await;
        assert_eq!(status(&web, "app", "/", &elliptic).await, 200);
    }
}

#[tokio::test]
async fn a_service_of_keys_that_does_not_exist_yet_denies_at_once() {
    let signer = TokenSigner::new("ES256", "k");
    let keys = key_set([&signer]);
    let issuer = "issuer: 'https://idp.example', keys: {service: {name: idp, port: 8080, path: /keys}}";
    let target = "targetRefs: [{group: '', kind: Service, name: app}]";
    let spec = format!("{target}, jwt: {{issuers: [{{{issuer}}}]}}");
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let token = bearer(&signer.token(&claims("shop", 600, "")));
    becomes(&web, "app", &token, 200).await;
    mesh.write("policy.yaml", &policy("AuthenticationPolicy", "p", &spec));
    becomes(&web, "app", &token, 503).await;
    assert_eq!(status(&web, "app", "/", "").await, 401);
    mesh.write("idp.yaml", &service("idp", 8080, "http"));
    web.get_until("idp:8080", "/", |answer| answer.reason() == "no_healthy_upstream").await;
    let idp = Application::http(move |_| ok(&keys)).await;
    let _idp = mesh.sidecar("idp").serves("idp:8080", idp.address).start().await;
    becomes(&web, "app", &token, 200).await;
}

#[tokio::test]
async fn a_claim_that_is_not_there_matches_no_rule() {
    let signer = TokenSigner::new("ES256", "k");
    let rules = "action: Allow, rules: [{from: [{claims: [{path: [realm, roles], values: [admin]}, {name: sub, values: [ann]}]}]}]";
    let tokens = format!("mode: Optional, {}", jwt(&signer));
    let documents = [
        service("app", 80, "http"),
        policy("AuthenticationPolicy", "p", &tokens),
        policy("AuthorizationPolicy", "p", rules),
        http_route("shop", "unused", "app", "    - {backendRefs: [{name: app, port: 80}]}"),
    ];
    let mesh = Mesh::start(&documents.concat()).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let token = |more: &str| bearer(&signer.token(&claims("shop", 60, more)));
    for (fields, expected) in [
        (String::new(), 403),
        (token(""), 403),
        (token(r#","realm":{"roles":["user"]}"#), 403),
        (token(r#","realm":{"roles":["user","admin"]}"#), 200),
        (token(r#","realm":{"roles":"admin"}"#), 200),
        (token(r#","roles":["admin"]"#), 403),
        (bearer("a.b.c"), 401),
    ] {
        assert_eq!(status(&web, "app", "/", &fields).await, expected, "{fields}");
    }
}
