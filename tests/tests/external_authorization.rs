//! ExternalAuthorizationPolicies, from a file to what callers see.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use outrigger_proto::xds::auth_service::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse,
};
use outrigger_proto::xds::{core, rpc, types};
use outrigger_test_support::application::Application;
use outrigger_test_support::grpc::unary;
use outrigger_test_support::http1::Response;
use outrigger_test_support::wait::eventually;
use outrigger_tests::load::Load;
use outrigger_tests::mesh::{Mesh, service};
use outrigger_tests::sidecar::Sidecar;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const ALICE: &str = "Authorization: alice\r\nX-User: mallory\r\n";
const TO_APP: &str = "targetRefs: [{group: '', kind: Service, name: app}]";
const TO_JUDGE: &str = "backendRef: {name: judge, port: 9191}";

/// A policy of namespace `shop` for the Service `app`.
fn policy(spec: &str) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1alpha1\nkind: ExternalAuthorizationPolicy\n\
         metadata: {{name: p, namespace: shop}}\nspec: {{{TO_APP}, {spec}}}\n"
    )
}

fn services(protocol: &str) -> String {
    [service("app", 80, "http"), service("judge", 9191, protocol)].concat()
}

fn field(name: &str, value: &str) -> core::HeaderValueOption {
    core::HeaderValueOption {
        header: Some(core::HeaderValue { key: name.into(), value: value.into(), ..Default::default() }),
        ..Default::default()
    }
}

/// Allows the requests of alice, and passes on to the application who called and what it has read of the body.
fn only_alice(request: CheckRequest) -> CheckResponse {
    let attributes = request.attributes.unwrap();
    let http = attributes.request.unwrap().http.unwrap();
    let (code, answer) = match http.headers.get("authorization") {
        Some(who) if who == "alice" => {
            let caller = attributes.source.unwrap().principal;
            let headers =
                vec![field("x-user", "alice"), field("x-caller", &caller), field("x-body", &http.body)];
            let ok = OkHttpResponse {
                headers,
                headers_to_remove: vec!["authorization".into()],
                ..Default::default()
            };
            (0, HttpResponse::OkResponse(ok))
        }
        _ => {
            let denied = DeniedHttpResponse {
                status: Some(types::HttpStatus { code: 401 }),
                headers: vec![field("www-authenticate", "Basic"), field("x-why", "unknown")],
                body: format!("who asks for {}?", http.path),
            };
            (16, HttpResponse::DeniedResponse(denied))
        }
    };
    let status = Some(rpc::Status { code, ..Default::default() });
    CheckResponse { status, http_response: Some(answer), ..Default::default() }
}

/// A service that reads questions and never answers.
async fn silent() -> Application {
    Application::http2(|request, respond| async move {
        let _open = (request, respond);
        std::future::pending().await
    })
    .await
}

/// A workload of `app` that answers with the head and the body of each request.
async fn served(mesh: &Mesh) -> (Application, Sidecar) {
    let app = Application::echo("app").await;
    let sidecar = mesh.sidecar("app").serves("app", app.address).logged().start().await;
    (app, sidecar)
}

async fn ask(sidecar: &Sidecar, host: &str, path: &str, fields: &str) -> Response {
    sidecar.client().await.request("GET", host, path, fields).await
}

async fn post(sidecar: &Sidecar, host: &str, fields: &str, body: &str) -> Response {
    let length = body.len();
    let mut client = sidecar.client().await;
    client
        .send(format!("POST /new HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{fields}\r\n{body}"))
        .await;
    client.response().await
}

/// Waits until a GET of `/` has this status and this reason.
async fn becomes(sidecar: &Sidecar, host: &str, fields: &str, status: u16, reason: &str) {
    let what = format!("{status} {reason} from {host}");
    let same = |answer: &Response| (answer.status, answer.reason()) == (status, reason);
    eventually(&what, async || same(&ask(sidecar, host, "/", fields).await).then_some(())).await;
}

fn example() -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/external-authorization.md");
    let page = std::fs::read_to_string(page).unwrap();
    page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap().to_owned()
}

#[tokio::test]
async fn the_example_of_the_page_holds() {
    let mesh = Mesh::start(&example()).await;
    let (orders, judge) = (Application::echo("orders").await, unary(CHECK, only_alice).await);
    let served = mesh.sidecar("orders").serves("orders", orders.address).logged().start().await;
    let _judge = mesh.sidecar("judge").serves("judge:9191", judge.address).start().await;
    let web = mesh.sidecar("web").start().await;
    becomes(&web, "orders", ALICE, 200, "").await;

    let denied = ask(&web, "orders", "/orders?n=1", "X-User: mallory\r\n").await;
    assert_eq!((denied.status, denied.reason()), (401, "external_authorization_denied"));
    assert_eq!(denied.body, "who asks for /orders?n=1?");
    assert_eq!((denied.field("www-authenticate"), denied.field("x-why")), (Some("Basic"), Some("unknown")));
    let record = &served.records("external_authorization_denied").await[0];
    assert!(record.contains("UAEX"), "{record}");

    let reached = orders.requests();
    let seen = post(&web, "orders", ALICE, "two books").await.body;
    let (head, body) = seen.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.contains("x-user: alice\r\n") && !head.contains("mallory"), "{head}");
    assert!(!head.contains("authorization:") && body == "two books", "{seen}");
    assert!(head.contains("x-body: two books"), "{head}");
    assert!(head.contains("x-caller: spiffe://cluster.local/ns/shop/sa/web\r\n"), "{head}");

    let asked = judge.requests();
    let long = post(&web, "orders", ALICE, &"x".repeat(8193)).await;
    assert_eq!((long.status, long.reason()), (413, "body_too_large"));
    assert_eq!(post(&web, "orders", ALICE, &"x".repeat(8192)).await.status, 200);
    assert_eq!(ask(&web, "orders", "/healthz", "").await.status, 200);
    assert_eq!((judge.requests(), orders.requests()), (asked + 1, reached + 3));

    let explained = mesh.page("/policies?service=shop/orders").await;
    for line in ["\"Ask\"", "\"Off\"", "shop/orders-health"] {
        assert!(explained.contains(line), "{line}: {explained}");
    }
}

#[tokio::test]
async fn an_http_service_sees_the_beginning_of_a_body_and_chooses_what_passes_on() {
    let spec = format!(
        "{TO_JUDGE}, protocol: HTTP, forwardBody: {{maxSize: 4, allowPartial: true}},
         http: {{path: /check, allowedHeaders: [x-tenant], allowedResponseHeaders: [x-user], allowedClientHeaders: [x-why]}}"
    );
    let mesh = Mesh::start(&[services("http"), policy(&spec)].concat()).await;
    let questions = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&questions);
    let judge = Application::http(move |request| {
        let head = request.head.to_ascii_lowercase();
        let allows = head.contains("authorization: alice\r\n");
        seen.lock().unwrap().push(format!("{head}{}", String::from_utf8_lossy(&request.body)));
        let status = if allows { "200 OK" } else { "402 Payment Required" };
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: 3\r\nx-user: alice\r\nx-why: money\r\nx-other: o\r\n\r\npay"
        )
    })
    .await;
    let (_app, _served) = served(&mesh).await;
    let _judge = mesh.sidecar("judge").serves("judge:9191", judge.address).start().await;
    let web = mesh.sidecar("web").start().await;
    becomes(&web, "app", ALICE, 200, "").await;

    let answer = post(&web, "app", &format!("{ALICE}X-Tenant: t\r\nX-Secret: s\r\n"), "two books").await;
    let head = answer.body.to_ascii_lowercase();
    assert!(answer.body.ends_with("\r\n\r\ntwo books"), "{head}");
    assert!(head.contains("x-user: alice\r\n") && !head.contains("mallory"), "{head}");
    assert!(!head.contains("x-other") && !head.contains("x-why"), "{head}");
    let question = questions.lock().unwrap().last().unwrap().clone();
    assert!(question.starts_with("post /check/new ") && question.ends_with("\r\n\r\ntwo "), "{question}");
    assert!(question.contains("x-tenant: t\r\n") && !question.contains("x-secret"), "{question}");
    assert!(question.contains("x-envoy-auth-partial-body: true\r\n"), "{question}");

    let denied = ask(&web, "app", "/", "").await;
    assert_eq!((denied.status, denied.body.as_str()), (402, "pay"));
    assert_eq!((denied.field("x-why"), denied.field("x-other")), (Some("money"), None));
}

#[tokio::test]
async fn without_an_answer_in_time_a_request_is_refused_or_passes_as_the_policy_says() {
    let spec = format!("{TO_JUDGE}, protocol: GRPC, timeout: 50ms");
    let mesh = Mesh::start(&[services("kubernetes.io/h2c"), policy(&spec)].concat()).await;
    let judge = silent().await;
    let (app, served) = served(&mesh).await;
    let mut of_judge = mesh.sidecar("judge").serves("judge:9191", judge.address).start().await;
    let web = mesh.sidecar("web").start().await;

    becomes(&web, "app", "", 403, "external_authorization_failed").await;
    eventually("a question", async || (judge.requests() > 0).then_some(())).await;
    let record = &served.records("external_authorization_failed").await[0];
    assert!(record.contains("EAF"), "{record}");
    // A service that hangs, and one that is away.
    of_judge.stop().await;
    for _ in 0..5 {
        assert_eq!(ask(&web, "app", "/", ALICE).await.reason(), "external_authorization_failed");
    }
    assert_eq!(app.requests(), 0);

    let open = format!("{spec}, failureMode: Open");
    mesh.write("mesh.yaml", &[services("kubernetes.io/h2c"), policy(&open)].concat());
    becomes(&web, "app", "", 200, "").await;
    of_judge.restart().await;
    let before = judge.requests();
    let asked = async || {
        assert_eq!(ask(&web, "app", "/", "").await.status, 200);
        (judge.requests() > before).then_some(())
    };
    eventually("a question to a service that hangs", asked).await;
    assert!(served.metric("outrigger_filters_failed_open_total", "").await >= 2.0);
}

#[tokio::test]
async fn what_cannot_be_asked_about_is_refused_and_a_good_version_stays() {
    let good = format!("{TO_JUDGE}, protocol: GRPC");
    let missing = good.replace("judge", "jugde") + ", failureMode: Open";
    let mesh = Mesh::start(&[services("kubernetes.io/h2c"), policy(&missing)].concat()).await;
    let judge = unary(CHECK, only_alice).await;
    let (app, _served) = served(&mesh).await;
    let _judge = mesh.sidecar("judge").serves("judge:9191", judge.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let write = |spec: &str| mesh.write("mesh.yaml", &[services("kubernetes.io/h2c"), policy(spec)].concat());

    becomes(&web, "app", ALICE, 403, "access_denied").await;
    let explained = mesh.page("/policies?service=shop/app").await;
    assert!(explained.contains("\"Deny\""), "{explained}");
    assert_eq!(app.requests(), 0);
    write(&good);
    becomes(&web, "app", ALICE, 200, "").await;
    // A refused version changes nothing.
    write(&good.replace("GRPC", "CARRIER-PIGEON"));
    mesh.refusal("spec.protocol").await;
    assert_eq!(ask(&web, "app", "/", ALICE).await.status, 200);
    assert_eq!(ask(&web, "app", "/", "").await.status, 401);
    write("mode: 'Off'");
    becomes(&web, "app", "", 200, "").await;
}

#[tokio::test]
async fn a_refused_policy_without_a_good_version_refuses_everything_at_its_target() {
    let bad = policy(&format!("{TO_JUDGE}, protocol: GRPC, failureMode: Ajar"));
    let mesh = Mesh::start(&[services("kubernetes.io/h2c"), bad].concat()).await;
    let (app, _served) = served(&mesh).await;
    let web = mesh.sidecar("web").start().await;
    mesh.refusal("denies everything").await;
    becomes(&web, "app", ALICE, 403, "access_denied").await;
    assert_eq!(app.requests(), 0);
}

#[tokio::test]
async fn a_policy_is_turned_on_and_off_under_load_and_nothing_is_lost() {
    let mesh = Mesh::start(&services("kubernetes.io/h2c")).await;
    let judge = unary(CHECK, only_alice).await;
    let (_app, _served) = served(&mesh).await;
    let _judge = mesh.sidecar("judge").serves("judge:9191", judge.address).start().await;
    let web = mesh.sidecar("web").start().await;
    becomes(&web, "app", "", 200, "").await;
    // Longer than any pause of a busy machine.
    let spec = format!("{TO_JUDGE}, protocol: GRPC, timeout: 30s");
    let load = Load::with_fields(web.outbound(), "app", ALICE);
    for _ in 0..2 {
        load.wait_for(50).await;
        mesh.write("policy.yaml", &policy(&spec));
        becomes(&web, "app", "", 401, "external_authorization_denied").await;
        load.wait_for(50).await;
        mesh.write("policy.yaml", "");
        becomes(&web, "app", "", 200, "").await;
    }
    load.finish().await.assert_nothing_lost();
}
