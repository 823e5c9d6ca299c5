//! Active health checks between sidecars, from a file to what callers see.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::{ok, status};
use outrigger_test_support::wait::eventually;
use outrigger_tests::mesh::{Mesh, service};
use outrigger_tests::sidecar::Sidecar;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A policy of the Service `app` with this check, which is quick.
fn policy(check: &str) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {{name: app, namespace: shop}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: app}}], \
                 loadBalancer: {{type: RoundRobin}}, healthCheck: {{{check}, interval: 100ms, timeout: 3s, healthyThreshold: 1, unhealthyThreshold: 1}}}}\n"
    )
}

fn other(kind: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: app, namespace: shop}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: app}}], {spec}}}\n"
    )
}

const HTTP: &str = "type: HTTP, http: {path: /healthz}";

/// An application that answers checks with a status that can be changed, and requests, which it counts, with its name.
struct App {
    application: Application,
    health: Arc<AtomicU16>,
    served: Arc<AtomicUsize>,
}

impl App {
    async fn new(name: &'static str) -> Self {
        let (health, served) = (Arc::new(AtomicU16::new(200)), Arc::<AtomicUsize>::default());
        let (of_checks, counted) = (Arc::clone(&health), Arc::clone(&served));
        let application = Application::http(move |request| {
            if request.path() == "/healthz" {
                return status(of_checks.load(Ordering::SeqCst));
            }
            counted.fetch_add(1, Ordering::SeqCst);
            ok(name)
        });
        Self { application: application.await, health, served }
    }

    fn answers_checks_with(&self, status: u16) {
        self.health.store(status, Ordering::SeqCst);
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

/// Starts the sidecars of two applications that serve `app`.
async fn pair(mesh: &Mesh, one: &Application, two: &Application) -> [Sidecar; 2] {
    let serve = async |name: &str, app: &Application| {
        mesh.sidecar("app").instance(name).serves("app", app.address).start().await
    };
    [serve("one", one).await, serve("two", two).await]
}

/// The bodies of thirty responses.
async fn answering(web: &Sidecar) -> BTreeSet<String> {
    let (mut client, mut names) = (web.client().await, BTreeSet::new());
    for _ in 0..30 {
        let response = client.get("app", "/").await;
        assert_eq!(response.status, 200, "{response:?}");
        names.insert(response.body);
    }
    names
}

/// Waits until thirty requests are answered by these.
async fn becomes<const N: usize>(web: &Sidecar, expected: [&str; N]) {
    let expected = expected.map(str::to_owned).into();
    eventually(&format!("{expected:?}"), async || (answering(web).await == expected).then_some(())).await;
}

async fn failing(web: &Sidecar) -> f64 {
    web.metric("outrigger_upstream_endpoints_failing_checks", "app").await
}

async fn failed(web: &Sidecar) -> f64 {
    web.metric("outrigger_upstream_health_checks_total", "failed").await
}

async fn passed(web: &Sidecar) -> f64 {
    web.metric("outrigger_upstream_health_checks_total", "passed").await
}

#[tokio::test]
async fn an_endpoint_whose_application_fails_its_check_gets_no_requests_until_it_passes_again() {
    let never = policy(&format!("{HTTP}, panicThreshold: 0"));
    let mesh = Mesh::start(&[service("app", 80, "http"), never].concat()).await;
    let (one, two) = (App::new("one").await, App::new("two").await);
    let _served = pair(&mesh, &one.application, &two.application).await;
    let web = mesh.sidecar("web").start().await;
    becomes(&web, ["one", "two"]).await;
    two.answers_checks_with(500);
    eventually("one that fails", async || (failing(&web).await == 1.0).then_some(())).await;
    becomes(&web, ["one"]).await;
    let before = two.served();
    answering(&web).await;
    assert_eq!(two.served(), before);
    two.answers_checks_with(200);
    becomes(&web, ["one", "two"]).await;
    for app in [&one, &two] {
        app.answers_checks_with(503);
    }
    let refused = web.get_until("app", "/", |response| response.status == 503).await;
    assert_eq!(refused.reason(), "no_healthy_upstream");
    one.answers_checks_with(200);
    web.get_until("app", "/", |response| response.body == "one").await;
}

#[tokio::test]
async fn if_all_fail_all_are_used() {
    let mesh = Mesh::start(&[service("app", 80, "http"), policy(HTTP)].concat()).await;
    let (one, two) = (App::new("one").await, App::new("two").await);
    let _served = pair(&mesh, &one.application, &two.application).await;
    let web = mesh.sidecar("web").start().await;
    becomes(&web, ["one", "two"]).await;
    for app in [&one, &two] {
        app.answers_checks_with(500);
    }
    eventually("two that fail", async || (failing(&web).await == 2.0).then_some(())).await;
    becomes(&web, ["one", "two"]).await;
    assert!(web.metric("outrigger_upstream_panics_total", "app").await >= 30.0);
}

#[tokio::test]
async fn what_fails_its_first_check_never_gets_a_request() {
    let mesh = Mesh::start(&[service("app", 80, "http"), policy(HTTP)].concat()).await;
    let (one, two) = (App::new("one").await, App::new("two").await);
    two.answers_checks_with(500);
    let _served = pair(&mesh, &one.application, &two.application).await;
    for caller in ["web", "other"] {
        let caller = mesh.sidecar(caller).start().await;
        // The first request requests the cluster, and waits for its first checks.
        assert_eq!(answering(&caller).await, BTreeSet::from(["one".to_owned()]));
    }
    assert_eq!((one.served(), two.served()), (60, 0));
}

#[tokio::test]
async fn an_application_that_cannot_be_reached_fails_the_check_of_its_sidecar() {
    let mesh = Mesh::start(&[service("app", 80, "http"), policy(HTTP)].concat()).await;
    let (one, two) = (App::new("one").await, App::new("two").await);
    let _served = pair(&mesh, &one.application, &two.application).await;
    let web = mesh.sidecar("web").start().await;
    becomes(&web, ["one", "two"]).await;
    assert_eq!(failed(&web).await, 0.0);
    drop(two);
    // Its sidecar registers it as not ready a little later.
    eventually("a check that fails", async || (failed(&web).await >= 1.0).then_some(())).await;
    assert_eq!(answering(&web).await, BTreeSet::from(["one".to_owned()]));
}

#[tokio::test]
async fn policies_at_the_server_do_not_take_it_out_of_service_unless_they_deny_the_check() {
    let faults = other("FaultInjectionPolicy", "abort: {httpStatus: 418, percent: 100}");
    let limits = other(
        "RateLimitPolicy",
        "local: [{requests: 2, per: Day, by: [{path: {type: Exact, value: /healthz}}]}]",
    );
    let mesh = Mesh::start(&[service("app", 80, "http"), policy(HTTP), faults, limits].concat()).await;
    let app = App::new("app").await;
    let _served = mesh.sidecar("app").serves("app", app.application.address).start().await;
    let web = mesh.sidecar("web").logged().start().await;
    web.get_until("app", "/", |response| response.status == 418).await;
    web.get_until("app", "/healthz", |response| response.reason() == "rate_limited").await;
    let before = app.application.requests();
    for _ in 0..10 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert_eq!(web.get("app", "/").await.status, 418);
    }
    assert_eq!((failing(&web).await, app.application.requests()), (0.0, before));
    assert!(passed(&web).await >= 1.0);
    let deny = other("AuthorizationPolicy", "action: Deny, rules: [{to: [{paths: [{value: /healthz}]}]}]");
    mesh.write("deny.yaml", &deny);
    eventually("a check that is denied", async || (failing(&web).await == 1.0).then_some(())).await;
    mesh.write("deny.yaml", "");
    mesh.write("mesh.yaml", &[service("app", 80, "http"), policy(HTTP)].concat());
    eventually("a check that passes", async || (failing(&web).await == 0.0).then_some(())).await;
    web.get_until("app", "/", |response| response.body == "app").await;
}

#[tokio::test]
async fn a_connection_is_checked_up_to_the_application() {
    let mesh =
        Mesh::start(&[service("app", 80, "tcp"), policy("type: TCP, panicThreshold: 0")].concat()).await;
    let echo = Application::repeater().await;
    let dead = Application::repeater().await;
    let _served = pair(&mesh, &echo, &dead).await;
    let web = mesh.sidecar("web").binds("app:80").start().await;
    let mut client = Client::connect(web.bound()).await;
    client.send("hello").await;
    client.stream.read_exact(&mut [0; 5]).await.unwrap();
    eventually("two that pass", async || (passed(&web).await >= 2.0).then_some(())).await;
    assert_eq!(failed(&web).await, 0.0);
    drop(dead);
    eventually("a check that fails", async || (failed(&web).await >= 1.0).then_some(())).await;
    for _ in 0..10 {
        let mut client = Client::connect(web.bound()).await;
        client.send("hello").await;
        let mut received = [0; 5];
        client.stream.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"hello");
    }
}

#[tokio::test]
async fn bytes_must_be_answered_as_expected() {
    let check = r#"type: TCP, tcp: {send: {text: "PING\r\n"}, receive: [{text: "+PO"}, {hex: "4e47"}]}, panicThreshold: 0"#;
    let mesh = Mesh::start(&[service("app", 80, "tcp"), policy(check)].concat()).await;
    let server = |answer: &'static str| {
        Application::raw(move |mut connection| async move {
            let mut line = [0; 6];
            while connection.stream.read_exact(&mut line).await.is_ok() {
                connection.stream.write_all(answer.as_bytes()).await.unwrap();
            }
        })
    };
    let (loading, ready) = (server("-LOADING\r\n").await, server("+PONG\r\n").await);
    let _served = pair(&mesh, &loading, &ready).await;
    let web = mesh.sidecar("web").binds("app:80").start().await;
    for _ in 0..10 {
        let mut client = Client::connect(web.bound()).await;
        client.send("hello!").await;
        let mut received = [0; 5];
        client.stream.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"+PONG");
    }
}

#[tokio::test]
async fn a_grpc_service_is_asked_whether_it_serves() {
    let serving = async |status: u8| {
        Application::http2(move |request, mut respond| async move {
            let (head, mut body) = request.into_parts();
            let mut asked = Vec::new();
            while let Some(Ok(data)) = body.data().await {
                asked.extend_from_slice(&data);
            }
            let answer = Response::builder().header("content-type", "application/grpc");
            let is_check = head.uri.path() == "/grpc.health.v1.Health/Check";
            let status = if is_check && asked.ends_with(b"shop.Cart") { status } else { 0 };
            let mut sender = respond.send_response(answer.body(()).unwrap(), false).unwrap();
            sender.send_data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]), false).unwrap();
            let ended = ("grpc-status".parse().unwrap(), HeaderValue::from_static("0"));
            sender.send_trailers(HeaderMap::from_iter([ended])).unwrap();
        })
        .await
    };
    let check = policy("type: GRPC, grpc: {service: shop.Cart}");
    let mesh = Mesh::start(&[service("app", 80, "grpc"), check].concat()).await;
    let (serves, does_not) = (serving(1).await, serving(2).await);
    let _served = pair(&mesh, &serves, &does_not).await;
    let web = mesh.sidecar("web").start().await;
    web.get_until("app", "/", |response| response.status == 200).await;
    eventually("one that fails", async || (failing(&web).await == 1.0).then_some(())).await;
    assert!(passed(&web).await >= 1.0);
}

#[tokio::test]
async fn a_changed_check_applies_and_a_removed_one_makes_all_usable() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let (one, two) = (App::new("one").await, App::new("two").await);
    two.answers_checks_with(500);
    let _served = pair(&mesh, &one.application, &two.application).await;
    let web = mesh.sidecar("web").start().await;
    becomes(&web, ["one", "two"]).await;
    mesh.write("policy.yaml", &policy(HTTP));
    becomes(&web, ["one"]).await;
    mesh.write(
        "policy.yaml",
        &policy("type: HTTP, http: {path: /healthz, expectedStatuses: [{from: 200, to: 599}]}"),
    );
    becomes(&web, ["one", "two"]).await;
    mesh.write("policy.yaml", &policy(HTTP));
    becomes(&web, ["one"]).await;
    mesh.write("policy.yaml", "");
    becomes(&web, ["one", "two"]).await;
}
