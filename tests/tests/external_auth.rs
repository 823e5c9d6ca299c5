//! The filter ExternalAuth of an HTTPRoute, from a file to what callers see.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use outrigger_proto::xds::auth_service::{CheckRequest, CheckResponse};
use outrigger_proto::xds::rpc;
use outrigger_test_support::application::Application;
use outrigger_test_support::grpc::unary;
use outrigger_test_support::http1::{Response, ok};
use outrigger_test_support::wait::eventually;
use outrigger_tests::mesh::{Mesh, http_route, service};
use outrigger_tests::sidecar::Sidecar;

/// A service that allows requests with the password, in the name of `ann`.
async fn doorkeeper(seen: Arc<Mutex<Vec<String>>>) -> Application {
    Application::http(move |request| {
        seen.lock().unwrap().push(request.head.clone());
        match request.head.to_ascii_lowercase().contains("authorization: secret\r\n") {
            true => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-type: text/plain\r\nx-user: ann\r\n\r\n"
                .into(),
            false => {
                "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic\r\ncontent-length: 2\r\n\r\nno".into()
            }
        }
    })
    .await
}

async fn post(sidecar: &Sidecar, path: &str, fields: &str) -> Response {
    sidecar.client().await.request("POST", "payments", path, fields).await
}

/// Waits until a request without a password has this status.
async fn becomes(sidecar: &Sidecar, path: &str, expected: u16) {
    let what = format!("{expected} from {path}");
    eventually(&what, async || (post(sidecar, path, "").await.status == expected).then_some(())).await;
}

#[tokio::test]
async fn the_example_of_the_page_holds() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/external-authorization.md");
    let page = std::fs::read_to_string(page).unwrap();
    let example = page.split("```yaml\n").nth(2).and_then(|rest| rest.split("```").next()).unwrap();
    let mesh = Mesh::start(example).await;
    let (seen, asked) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<Vec<String>>>::default());
    let heads = Arc::clone(&seen);
    let payments = Application::http(move |request| {
        heads.lock().unwrap().push(request.head.to_ascii_lowercase());
        ok("paid")
    })
    .await;
    let auth = doorkeeper(Arc::clone(&asked)).await;
    let _served = mesh.sidecar("payments").serves("payments", payments.address).start().await;
    let mut door = mesh.sidecar("doorkeeper").serves("doorkeeper:9000", auth.address).start().await;
    let web = mesh.sidecar("web").start().await;

    assert_eq!(post(&web, "/public", "").await.status, 200);
    assert_eq!(asked.lock().unwrap().len(), 0, "only the routes with the filter ask");
    let denied = post(&web, "/payments", "").await;
    assert_eq!(
        (denied.status, denied.reason(), denied.body.as_str()),
        (401, "external_authorization_denied", "no")
    );
    assert_eq!(denied.field("www-authenticate"), Some("Basic"));
    let password =
        "Authorization: secret\r\nContent-Type: application/json\r\nx-user: bob\r\nX-Tenant: t\r\n";
    assert_eq!(post(&web, "/payments/7?a=b", password).await.body, "paid");
    let head = seen.lock().unwrap().last().unwrap().clone();
    assert!(head.starts_with("post /payments/7?a=b ") && head.contains("x-user: ann\r\n"), "{head}");
    assert!(!head.contains("bob") && head.contains("content-type: application/json\r\n"), "{head}");
    let question = asked.lock().unwrap().last().unwrap().to_ascii_lowercase();
    assert!(question.starts_with("post /check/payments/7?a=b "), "{question}");
    assert!(question.contains("x-tenant: t\r\n") && !question.contains("x-user"), "{question}");

    // Without the service nothing passes.
    door.stop().await;
    becomes(&web, "/payments", 403).await;
    let failed = post(&web, "/payments", password).await;
    assert_eq!((failed.status, failed.reason()), (403, "external_authorization_failed"));
    assert_eq!(post(&web, "/public", "").await.status, 200);
    // Nor does it if the route names one that does not exist.
    mesh.write("mesh.yaml", &example.replace("backendRef: {name: doorkeeper,", "backendRef: {name: porter,"));
    becomes(&web, "/payments", 500).await;
    assert_eq!(post(&web, "/public", "").await.status, 200);
}

/// A route of `payments` that asks the doorkeeper by gRPC.
fn asking_by_grpc() -> String {
    let auth =
        "protocol: GRPC, backendRef: {name: doorkeeper, port: 9000}, grpc: {}, forwardBody: {maxSize: 4}";
    let rules = format!(
        "    - filters: [{{type: ExternalAuth, externalAuth: {{{auth}}}}}]\n      backendRefs: [{{name: payments, port: 80}}]"
    );
    let services = [service("payments", 80, "http"), service("doorkeeper", 9000, "kubernetes.io/h2c")];
    services.concat() + &http_route("shop", "payments", "payments", &rules)
}

#[tokio::test]
async fn a_grpc_service_decides_about_the_requests_of_a_route() {
    let mesh = Mesh::start(&asking_by_grpc()).await;
    let payments = Application::echo("payments").await;
    let door = unary("/envoy.service.auth.v3.Authorization/Check", |question: CheckRequest| {
        let http = question.attributes.unwrap().request.unwrap().http.unwrap();
        // PERMISSION_DENIED unless the body is the password.
        let code = if http.body == "open" { 0 } else { 7 };
        CheckResponse { status: Some(rpc::Status { code, ..Default::default() }), ..Default::default() }
    })
    .await;
    let _served = mesh.sidecar("payments").serves("payments", payments.address).start().await;
    let _door = mesh.sidecar("doorkeeper").serves("doorkeeper:9000", door.address).start().await;
    let web = mesh.sidecar("web").start().await;

    becomes(&web, "/", 403).await;
    let denied = web.client().await.post("payments", "/", "shut").await;
    assert_eq!((denied.status, denied.reason()), (403, "external_authorization_denied"));
    let allowed = web.client().await.post("payments", "/", "open").await;
    assert_eq!(allowed.by(), (200, "payments"));
    let long = web.client().await.post("payments", "/", "open!").await;
    assert_eq!((long.status, long.reason()), (413, "body_too_large"));
    assert_eq!(payments.requests(), 1);
}

#[tokio::test]
async fn a_grpc_service_that_hangs_lets_nothing_pass() {
    let mesh = Mesh::start(&asking_by_grpc()).await;
    let payments = Application::echo("payments").await;
    let door = Application::http2(|question, respond| async move {
        let _open = (question, respond);
        std::future::pending().await
    })
    .await;
    let _served = mesh.sidecar("payments").serves("payments", payments.address).start().await;
    let _door = mesh.sidecar("doorkeeper").serves("doorkeeper:9000", door.address).start().await;
    let web = mesh.sidecar("web").start().await;

    let asked = async || {
        let answer = web.client().await.post("payments", "/", "open").await;
        assert_eq!((answer.status, answer.reason()), (403, "external_authorization_failed"));
        (door.requests() > 0).then_some(())
    };
    eventually("a question to a service that hangs", asked).await;
    assert_eq!(payments.requests(), 0);
}
