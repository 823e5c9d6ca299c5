//! The filter ExternalAuth of an HTTPRoute, from a file to what callers see.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use outrigger_test_support::application::Application;
use outrigger_test_support::http1::{Response, ok};
use outrigger_test_support::wait::eventually;
use outrigger_tests::mesh::Mesh;
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
    let example = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
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
