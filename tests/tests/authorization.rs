//! AuthorizationPolicies, from a file to what callers see.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::Response;
use outrigger_test_support::wait::{eventually, in_time};
use outrigger_tests::load::Load;
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

#[tokio::test]
async fn a_changed_policy_cuts_open_connections_and_applies_to_the_next_request_of_others() {
    let mesh = Mesh::start(&[service("stock-db", 5432, "tcp"), service("app", 80, "http")].concat()).await;
    let (db, app) = (Application::repeater().await, Application::echo("app").await);
    let served = mesh.sidecar("backends").serves("stock-db:5432", db.address).serves("app", app.address);
    let served = served.start().await;
    let stock = mesh.sidecar("stock").binds("stock-db:5432").start().await;
    let web = mesh.sidecar("web").binds("stock-db:5432").start().await;
    let [mut owner, mut stranger] =
        [TcpStream::connect(stock.bound()).await.unwrap(), TcpStream::connect(web.bound()).await.unwrap()];
    assert!(repeats(&mut owner).await && repeats(&mut stranger).await);
    let mut client = web.client().await;
    assert_eq!(client.get("app", "/").await.status, 200);
    let accepted = served.metric("outrigger_downstream_connections_accepted_total", "").await;

    mesh.write(
        "policy.yaml",
        &policy("owner", "action: Allow, rules: [{from: [{serviceAccounts: [{name: stock}]}]}]"),
    );
    let read = in_time("the end of the stranger's connection", stranger.read(&mut [0; 16])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    assert!(repeats(&mut owner).await, "the owner's connection goes on");
    // The client and the sidecar in front of the application have one connection each, which is still the same.
    let becomes =
        async |client: &mut Client, expected: u16| while client.get("app", "/").await.status != expected {};
    in_time("a refusal on the same connection", becomes(&mut client, 403)).await;
    mesh.write("policy.yaml", "");
    in_time("an answer on the same connection", becomes(&mut client, 200)).await;
    assert_eq!(served.metric("outrigger_downstream_connections_accepted_total", "").await, accepted);
    assert!(repeats(&mut owner).await);
}

#[tokio::test]
async fn a_policy_on_trial_refuses_nothing_and_reports_who_would_be_refused() {
    let audit = "action: Audit, rules: [{from: [{serviceAccounts: [{name: cart}]}]}]";
    let mesh = Mesh::start(&[service("app", 80, "http"), policy("trial", audit)].concat()).await;
    let app = Application::echo("app").await;
    let served = mesh.sidecar("app").serves("app", app.address).logged().start().await;
    let (cart, web) = (mesh.sidecar("cart").start().await, mesh.sidecar("web").start().await);
    for sidecar in [&cart, &web, &web] {
        assert_eq!(status(sidecar, "GET", "app", "/").await, 200);
    }
    let records = served.records("audit_denied_by\":\"none").await;
    assert!(records.iter().all(|line| line.contains("/sa/web")), "{records:?}");
    let counted = async |labels: &str| served.metric("outrigger_authorization_denials_total", labels).await;
    eventually("two counted requests", async || (counted("/sa/web\"").await >= 2.0).then_some(())).await;
    assert_eq!((counted("mode=\"audit\"").await, counted("mode=\"enforced\"").await), (2.0, 0.0));
    assert_eq!(counted("/sa/cart\"").await, 0.0);
}

#[tokio::test]
async fn a_policy_is_turned_on_and_off_under_load_and_nothing_is_lost() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let (cart, web) = (mesh.sidecar("cart").start().await, mesh.sidecar("web").start().await);
    let load = Load::start(cart.outbound(), "app");
    for _ in 0..3 {
        load.wait_for(50).await;
        let allow = "action: Allow, rules: [{from: [{serviceAccounts: [{name: cart}]}]}]";
        mesh.write("policy.yaml", &policy("p", allow));
        becomes(&web, "app", 403).await;
        load.wait_for(50).await;
        mesh.write("policy.yaml", "");
        becomes(&web, "app", 200).await;
    }
    load.finish().await.assert_nothing_lost();
}

#[tokio::test]
async fn the_status_names_policies_that_target_nothing_and_those_that_conflict() {
    let to = |name: &str| format!("targetRefs: [{{group: '', kind: Service, name: {name}}}]");
    let limits = |name: &str, more: &str| {
        policy(name, &format!("{}, {more}", to("app"))).replace("AuthorizationPolicy", "BackendTrafficPolicy")
    };
    let documents = [
        service("app", 80, "http"),
        policy("lost", &format!("{}, action: Allow", to("apq"))),
        limits("a", "limits: {maxRequests: 3}"),
        limits("b", "limits: {maxRequests: 9}"),
    ];
    let mesh = Mesh::start(&documents.concat()).await;
    assert_eq!(
        mesh.status().await.unmet_conditions,
        [
            "AuthorizationPolicy shop/lost, Service apq: Accepted=False (TargetNotFound): there is no Service shop/apq",
            "BackendTrafficPolicy shop/b, Service app: Accepted=False (Conflicted): BackendTrafficPolicy a is older and has the same target",
        ]
    );
    mesh.write(
        "mesh.yaml",
        &[service("app", 80, "http"), service("apq", 80, "http"), limits("b", "connectTimeout: 1s")].concat(),
    );
    eventually("a status without them", async || {
        mesh.status().await.unmet_conditions.is_empty().then_some(())
    })
    .await;
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
    repeats(&mut TcpStream::connect(sidecar.bound()).await.unwrap()).await
}

async fn repeats(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"ping").await.is_ok() && stream.read_exact(&mut answer).await.is_ok()
}
