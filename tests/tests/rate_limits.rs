//! RateLimitPolicies, from a file to what callers see.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::token::{TokenSigner, key_set};
use outrigger_test_support::wait::eventually;
use outrigger_tests::load::Load;
use outrigger_tests::mesh::{Mesh, http_route, service};
use outrigger_tests::sidecar::Sidecar;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A policy of namespace `shop` for the Service `app`.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1alpha1\nkind: RateLimitPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

const OF_APP: &str = "targetRefs: [{group: '', kind: Service, name: app}]";

async fn status(sidecar: &Sidecar, host: &str, path: &str) -> u16 {
    let answer = sidecar.get(host, path).await;
    if answer.status == 429 {
        assert_eq!(answer.reason(), "rate_limited");
    }
    answer.status
}

/// Waits until a response of `app` says this limit (`x-ratelimit-limit`), or none.
async fn limited_to(sidecar: &Sidecar, limit: Option<&str>) {
    let what = format!("a limit of {limit:?}");
    eventually(&what, async || {
        (sidecar.get("app", "/").await.field("x-ratelimit-limit") == limit).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_example_of_the_page_holds() {
    let mesh = Mesh::start(&example(0)).await;
    let app = Application::echo("payments").await;
    let _served = mesh.sidecar("payments").serves("payments", app.address).start().await;
    let (cart, web) = (mesh.sidecar("cart").start().await, mesh.sidecar("web").start().await);
    for n in 0..5 {
        assert_eq!(status(&cart, "payments", &format!("/payments/{n}?n={n}")).await, 200, "{n}");
    }
    let refused = cart.get("payments", "/payments").await;
    assert_eq!((refused.status, refused.reason()), (429, "rate_limited"));
    assert_eq!(refused.field("x-ratelimit-limit"), Some("5"));
    let seconds: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=180).contains(&seconds), "20 per hour: {seconds}");
    let mut client = cart.client().await;
    let grpc = client.request("POST", "payments", "/payments", "Content-Type: application/grpc\r\n").await;
    assert!(grpc.head.contains("grpc-status: 8\r\n"), "RESOURCE_EXHAUSTED: {grpc:?}");
    // Another path, and another caller.
    assert_eq!(status(&cart, "payments", "/paymentsx").await, 200);
    assert_eq!(status(&web, "payments", "/payments").await, 200);
}

#[tokio::test]
async fn a_limit_holds_within_5_percent() {
    const PER_SECOND: f64 = 100.0;
    /// What is not taken for up to a second, on a busy machine, is taken later.
    const AT_ONCE: f64 = 100.0;
    let limit = policy("a", &format!("{OF_APP}, local: [{{requests: 100, per: Second}}]"));
    let mesh = Mesh::start(&[service("app", 80, "http"), limit].concat()).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let (admitted, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (to, admitted, refused) = (web.outbound(), Arc::clone(&admitted), Arc::clone(&refused));
        clients.spawn(async move {
            let mut client = Client::connect(to).await;
            while began.elapsed() < Duration::from_secs(3) {
                let count = if client.get("app", "/").await.status == 200 { &admitted } else { &refused };
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    clients.join_all().await;
    let allowed = AT_ONCE + PER_SECOND * began.elapsed().as_secs_f64();
    let (admitted, refused) = (admitted.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    assert!(
        refused > 0 && (0.95..=1.05).contains(&(admitted as f64 / allowed)),
        "{admitted} of {allowed}, {refused} refused"
    );
    assert_eq!(app.requests(), usize::try_from(admitted).unwrap());
}

#[tokio::test]
async fn a_limit_that_is_turned_on_and_off_under_load_loses_nothing() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let load = Load::start(web.outbound(), "app");
    for limit in [1_000_000, 2_000_000] {
        load.wait_for(100).await;
        mesh.write(
            "policy.yaml",
            &policy(
                "a",
                &format!("{OF_APP}, local: [{{requests: {limit}, per: Second, by: [{{caller: {{}}}}]}}]"),
            ),
        );
        limited_to(&web, Some(&limit.to_string())).await;
        load.wait_for(100).await;
        mesh.write("policy.yaml", "");
        limited_to(&web, None).await;
    }
    load.finish().await.assert_nothing_lost();
}

#[tokio::test]
async fn a_changed_policy_keeps_what_was_counted() {
    let limit = |more: &str| policy("a", &format!("{OF_APP}, local: [{{requests: 2, per: Day}}{more}]"));
    let mesh = Mesh::start(&[service("app", 80, "http"), limit("")].concat()).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let statuses = [status(&web, "app", "/").await, status(&web, "app", "/").await];
    assert_eq!((statuses, status(&web, "app", "/").await), ([200, 200], 429));
    let documents = [service("app", 80, "http"), limit(", {requests: 5, per: Second, by: [{caller: {}}]}")];
    mesh.write("mesh.yaml", &documents.concat());
    let read = async || {
        let explained = mesh.page("/policies?service=shop/app").await.replace(' ', "");
        explained.contains("\"rules\":2").then_some(())
    };
    eventually("the changed policy", read).await;
    for _ in 0..20 {
        assert_eq!(status(&web, "app", "/").await, 429, "no full bucket for a change");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_refused_policy_keeps_its_good_version_and_without_one_nothing_is_denied() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let bad = policy("a", &format!("{OF_APP}, local: [{{requests: 0, per: Day}}]"));
    mesh.write("policy.yaml", &bad);
    mesh.refusal("spec.local[0].requests").await;
    limited_to(&web, None).await;
    assert_eq!(status(&web, "app", "/").await, 200);
    mesh.write("policy.yaml", &policy("a", &format!("{OF_APP}, local: [{{requests: 1000, per: Day}}]")));
    limited_to(&web, Some("1000")).await;
    mesh.write("policy.yaml", &bad);
    mesh.refusal("spec.local[0].requests").await;
    limited_to(&web, Some("1000")).await;
}

#[tokio::test]
async fn a_policy_of_a_route_counts_the_requests_that_match_it_beside_that_of_the_service() {
    let rules = "    - {name: pay, matches: [{path: {value: /pay}}], backendRefs: [{name: app, port: 80}]}\n\
                 \x20   - {name: rest, backendRefs: [{name: app, port: 80}]}";
    let target = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: app, sectionName: pay}";
    let pay = policy("pay", &format!("targetRefs: [{target}], local: [{{requests: 2, per: Day}}]"));
    let all = policy("all", &format!("{OF_APP}, local: [{{requests: 4, per: Day}}]"));
    let route = http_route("shop", "app", "app", rules);
    let mesh = Mesh::start(&[service("app", 80, "http"), route, pay, all].concat()).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    for (path, expected) in
        [("/pay/1", 200), ("/", 200), ("/pay", 200), ("/other", 200), ("/other", 429), ("/pay", 429)]
    {
        assert_eq!(status(&web, "app", path).await, expected, "{path}");
    }
}

#[tokio::test]
async fn a_global_limit_whose_service_does_not_exist_is_reported_and_holds_nothing_up() {
    let (_, cart) = example_parts(2);
    let mesh = Mesh::start(&cart).await;
    let app = Application::echo("cart").await;
    let _served = mesh.sidecar("cart").serves("cart", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    assert_eq!(web.get("cart", "/").await.status, 200);
    let explained = mesh.page("/policies?service=shop/cart").await;
    assert!(explained.contains("RateLimitPolicy"), "{explained}");
}

#[tokio::test]
async fn the_users_of_a_caller_are_counted_by_a_claim_of_their_tokens() {
    let signer = TokenSigner::new("ES256", "k");
    let inline = format!("keys: {{inline: '{}'}}", key_set([&signer]));
    let mesh = Mesh::start(&example(1).replace("keys: {uri: https://idp.example/keys}", &inline)).await;
    let orders = Application::echo("orders").await;
    let _served = mesh.sidecar("orders").serves("orders", orders.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let expires =
        (SystemTime::now() + Duration::from_secs(600)).duration_since(UNIX_EPOCH).unwrap().as_secs();
    let token = |more: &str| {
        let claims = format!(r#"{{"iss":"https://idp.example","aud":"shop","exp":{expires}{more}}}"#);
        format!("Authorization: Bearer {}\r\n", signer.token(&claims))
    };
    let get = async |fields: &str| web.client().await.request("GET", "orders", "/", fields).await;
    for user in [token(r#","sub":"ann""#), token(r#","sub":"bob""#), String::new()] {
        let mut statuses = Vec::new();
        for _ in 0..4 {
            statuses.push(get(&user).await.status);
        }
        assert_eq!(statuses, [200, 200, 200, 429], "{user}");
    }
    // Those without the claim are counted together, whether they have a token or not.
    for user in [token(""), token(r#","sub":7"#), token(r#","sub":"ann""#)] {
        let refused = get(&user).await;
        assert_eq!((refused.status, refused.reason()), (429, "rate_limited"), "{user}");
    }
    assert_eq!(get(&token(r#","sub":"eve""#)).await.status, 200);
}

/// Returns an example of the page, by its index.
fn example(index: usize) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rate-limits.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut examples = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    examples.nth(index).unwrap().to_owned()
}

/// Returns the first document of an example, and the others.
fn example_parts(index: usize) -> (String, String) {
    let text = example(index);
    let (first, rest) = text.split_once("---\n").unwrap();
    (first.to_owned(), rest.to_owned())
}
