//! What an operator sees of a running mesh: labels of workloads, and active requests of endpoints.

use std::time::Duration;

use outrigger_test_support::application::Application;
use outrigger_test_support::wait::eventually;
use outrigger_tests::mesh::{Mesh, service};
use serde_json::Value;

#[tokio::test]
async fn callers_see_the_labels_and_active_requests_of_an_endpoint() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::raw(|mut connection| async move {
        // Reads requests and never responds.
        while connection.request().await.is_some() {}
    })
    .await;
    let app = mesh.sidecar("app").serves("app", app.address).flag("--label", "version=v2").start().await;
    let web = mesh.sidecar("web").start().await;
    let (mut first, mut second) = (web.client().await, web.client().await);
    let waiting = tokio::spawn(async move {
        let asked = async { tokio::join!(first.get("app", "/"), second.get("app", "/")) };
        tokio::time::timeout(Duration::from_secs(60), asked).await.is_err()
    });
    let endpoint = eventually("an endpoint with two requests", async || {
        let page: Value = serde_json::from_str(&web.page("/clusters").await?).ok()?;
        let endpoints = page.as_array()?.iter().flat_map(|cluster| cluster["endpoints"].as_array().cloned());
        endpoints.flatten().find(|endpoint| endpoint["active_requests"] == 2)
    })
    .await;
    assert_eq!((&endpoint["version"], &endpoint["latency_ewma_ms"]), (&Value::from("v2"), &Value::Null));
    waiting.abort();
    drop(app);
}
