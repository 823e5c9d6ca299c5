//! FaultInjectionPolicies, from a file to what callers see.

use std::path::Path;

use outrigger_test_support::application::Application;
use outrigger_test_support::wait::eventually;
use outrigger_tests::load::Load;
use outrigger_tests::mesh::{Mesh, service};
use outrigger_tests::sidecar::Sidecar;

/// A policy of namespace `shop` for the Service `app`.
fn policy(spec: &str) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1alpha1\nkind: FaultInjectionPolicy\n\
         metadata: {{name: p, namespace: shop}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: app}}], {spec}}}\n"
    )
}

async fn status(sidecar: &Sidecar, host: &str, path: &str, fields: &str) -> u16 {
    // No sidecar sends a POST again that an application may have read.
    let answer = sidecar.client().await.request("POST", host, path, fields).await;
    if answer.status >= 400 {
        assert_eq!(answer.reason(), "fault_injected");
    }
    answer.status
}

/// Waits until a request has this status.
async fn becomes(sidecar: &Sidecar, host: &str, expected: u16) {
    let what = format!("{expected} from {host}");
    eventually(&what, async || (status(sidecar, host, "/", "").await == expected).then_some(())).await;
}

#[tokio::test]
async fn the_example_of_the_page_holds() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/fault-injection.md");
    let page = std::fs::read_to_string(page).unwrap();
    let example = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mesh = Mesh::start(example).await;
    let payments = Application::echo("payments").await;
    let _served = mesh.sidecar("payments").serves("payments", payments.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let (mut faults, all) = (0, 400);
    for _ in 0..all {
        assert_eq!(status(&web, "payments", "/", "").await, 200, "without the header");
        let status = status(&web, "payments", "/", "x-fault: payments\r\n").await;
        assert!([200, 503].contains(&status), "{status}");
        faults += usize::from(status == 503);
    }
    // 30 % of them, within six standard deviations.
    assert!((65..175).contains(&faults), "{faults} of {all}");
    assert_eq!(payments.requests(), 2 * all - faults);
}

#[tokio::test]
async fn health_checks_get_no_faults_and_a_refused_policy_injects_none() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    mesh.write("policy.yaml", &policy("abort: {httpStatus: 99, percent: 100}"));
    mesh.refusal("spec.abort.httpStatus").await;
    assert_eq!(status(&web, "app", "/", "").await, 200);
    mesh.write("policy.yaml", &policy("abort: {httpStatus: 418, percent: 100}"));
    becomes(&web, "app", 418).await;
    for (path, fields) in [
        ("/", "User-Agent: outrigger-health-check\r\n"),
        ("/", "User-Agent: Envoy/HC\r\n"),
        ("/healthz", "User-Agent: kube-probe/1.34\r\n"),
        ("/grpc.health.v1.Health/Check", ""),
    ] {
        assert_eq!(status(&web, "app", path, fields).await, 200, "{path} {fields}");
    }
    assert_eq!(status(&web, "app", "/healthz", "User-Agent: curl/8\r\n").await, 418);
    // The last good version stays.
    mesh.write("policy.yaml", &policy("abort: {httpStatus: 418, percent: 1000}"));
    mesh.refusal("spec.abort.percent").await;
    assert_eq!(status(&web, "app", "/", "").await, 418);
}

#[tokio::test]
async fn faults_of_some_requests_are_turned_on_and_off_and_others_lose_nothing() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let load = Load::start(web.outbound(), "app");
    load.wait_for(50).await;
    let on = policy("headers: [{name: x-fault, value: 'on'}], abort: {httpStatus: 418, percent: 100}");
    for _ in 0..3 {
        for (text, expected) in [(on.as_str(), 418), ("", 200)] {
            mesh.write("policy.yaml", text);
            let what = format!("status {expected}");
            eventually(&what, async || {
                (status(&web, "app", "/", "x-fault: on\r\n").await == expected).then_some(())
            })
            .await;
        }
    }
    load.wait_for(50).await;
    load.finish().await.assert_nothing_lost();
}
