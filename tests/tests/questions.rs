//! Services that policies ask about requests, and that are asked about each other's.

use outrigger_proto::xds::auth_service::{CheckRequest, CheckResponse};
use outrigger_proto::xds::ratelimit_service::{
    RateLimitRequest, RateLimitResponse, rate_limit_response::Code,
};
use outrigger_proto::xds::rpc;
use outrigger_test_support::application::Application;
use outrigger_test_support::grpc::unary;
use outrigger_test_support::wait::eventually;
use outrigger_tests::mesh::{Mesh, service};
use outrigger_tests::sidecar::Sidecar;

const GRPC: &str = "kubernetes.io/h2c";

fn policy(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1alpha1\nkind: {kind}\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

/// A policy by which `asked` decides about requests; for a longer time than a test has.
fn decided(name: &str, target: &str, asked: &str) -> String {
    let spec = format!("{target} protocol: GRPC, timeout: 60s, backendRef: {{name: {asked}, port: 9191}}");
    policy("ExternalAuthorizationPolicy", name, &spec)
}

fn services() -> String {
    ["judge", "jury", "limits"].map(|name| service(name, 9191, GRPC)).concat() + &service("app", 80, "http")
}

/// A service that allows all requests.
async fn allowing() -> Application {
    let answer = |_: CheckRequest| CheckResponse {
        status: Some(rpc::Status { code: 0, ..Default::default() }),
        ..Default::default()
    };
    unary("/envoy.service.auth.v3.Authorization/Check", answer).await
}

async fn serve(mesh: &Mesh, account: &str, application: &Application) -> Sidecar {
    let service = format!("{account}:9191");
    mesh.sidecar(account).serves(&service, application.address).start().await
}

/// Waits until a GET has this status.
async fn becomes(web: &Sidecar, status: u16) {
    eventually(&format!("{status}"), async || (web.get("app", "/").await.status == status).then_some(()))
        .await;
}

#[tokio::test]
async fn the_service_of_limits_of_a_namespace_and_that_of_its_authorization_answer_each_other() {
    let limit = "global: {service: {name: limits, port: 9191}, timeout: 60s, failureMode: Closed,
                          descriptors: [{by: [{caller: {}}]}]}";
    let policies = decided("all", "", "judge") + &policy("RateLimitPolicy", "all", limit);
    let mesh = Mesh::start(&(services() + &policies)).await;
    let (app, judge) = (Application::echo("app").await, allowing().await);
    let answer =
        |_: RateLimitRequest| RateLimitResponse { overall_code: Code::Ok.into(), ..Default::default() };
    let limits = unary("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", answer).await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let (_judge, _limits) = (serve(&mesh, "judge", &judge).await, serve(&mesh, "limits", &limits).await);
    let web = mesh.sidecar("web").start().await;
    becomes(&web, 200).await;
    let before = (judge.requests(), limits.requests());
    assert_eq!(web.get("app", "/").await.status, 200);
    // The judge is asked about the request and about the question to the service of limits, which is asked about the request alone.
    assert_eq!((judge.requests(), limits.requests()), (before.0 + 2, before.1 + 1));
}

#[tokio::test]
async fn two_services_that_authorize_each_other_refuse_at_once_until_one_is_excluded() {
    let of_judge = decided("judge", "targetRefs: [{group: '', kind: Service, name: judge}],", "jury");
    let circular = services() + &decided("all", "", "judge") + &of_judge;
    let mesh = Mesh::start(&circular).await;
    let (app, judge, jury) = (Application::echo("app").await, allowing().await, allowing().await);
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let (_judge, _jury) = (serve(&mesh, "judge", &judge).await, serve(&mesh, "jury", &jury).await);
    let web = mesh.sidecar("web").start().await;
    becomes(&web, 403).await;
    let explained = mesh.page("/policies?service=shop/judge").await;
    assert!(explained.contains("\"Deny\""), "{explained}");
    assert_eq!((app.requests(), judge.requests(), jury.requests()), (0, 0, 0));

    let excluded = "targetRefs: [{group: '', kind: Service, name: jury}], mode: 'Off'";
    let excluded = policy("ExternalAuthorizationPolicy", "jury", excluded);
    mesh.write("mesh.yaml", &(circular + &excluded));
    becomes(&web, 200).await;
    let before = (judge.requests(), jury.requests());
    assert_eq!(web.get("app", "/").await.status, 200);
    assert_eq!((judge.requests(), jury.requests()), (before.0 + 1, before.1 + 1));
}
