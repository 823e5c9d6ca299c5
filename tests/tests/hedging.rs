//! Hedging, from a BackendTrafficPolicy to what the callers of a service see.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use outrigger_test_support::application::Application;
use outrigger_test_support::http1::ok;
use outrigger_test_support::wait::eventually;
use outrigger_tests::mesh::{Mesh, service};
use tokio::sync::watch;

const POLICY: &str = "---
apiVersion: outrigger.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: app, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: app}]
  loadBalancer: {type: RoundRobin}
  hedging: {percentile: 90, maxDelay: 100ms}
";

/// Starts an application that answers one of `every` GETs and each POST when it is released, and others at once.
async fn application(every: usize, released: watch::Receiver<bool>, posts: Arc<AtomicUsize>) -> Application {
    let gets = Arc::<AtomicUsize>::default();
    Application::raw(move |mut connection| {
        let (mut released, gets, posts) = (released.clone(), Arc::clone(&gets), Arc::clone(&posts));
        async move {
            while let Some(request) = connection.request().await {
                let holds = if request.head.starts_with("POST ") {
                    posts.fetch_add(1, Ordering::SeqCst);
                    true
                } else {
                    gets.fetch_add(1, Ordering::SeqCst) % every == every - 1
                };
                if holds && released.wait_for(|released| *released).await.is_err() {
                    return;
                }
                if connection.send(ok("fine")).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn one_slow_endpoint_of_three_makes_no_get_slow_and_no_post_is_executed_twice() {
    let mesh = Mesh::start(&[service("app", 80, "http"), POLICY.to_owned()].concat()).await;
    let (release, released) = watch::channel(false);
    let posts = Arc::<AtomicUsize>::default();
    let (mut applications, mut served) = (Vec::new(), Vec::new());
    for (name, every) in [("slow", 20), ("one", usize::MAX), ("two", usize::MAX)] {
        let application = application(every, released.clone(), Arc::clone(&posts)).await;
        let sidecar = mesh.sidecar("app").instance(name).serves("app", application.address);
        served.push(sidecar.start().await);
        applications.push(application);
    }
    let web = mesh.sidecar("web").start().await;
    let mut client = web.client().await;
    eventually("all endpoints", async || {
        assert_eq!(client.get("app", "/").await.status, 200);
        applications.iter().all(|application| application.requests() > 0).then_some(())
    })
    .await;
    let mut post = web.client().await;
    post.send("POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 5\r\n\r\norder").await;
    eventually("the POST", async || (posts.load(Ordering::SeqCst) == 1).then_some(())).await;
    // A twentieth of the requests to the slow endpoint are never answered by it, and every one is by another.
    for _ in 0..150 {
        assert_eq!(client.get("app", "/").await.status, 200);
    }
    let hedges = web.metric("outrigger_upstream_hedges_total", "app").await;
    let won = web.metric("outrigger_upstream_hedges_won_total", "app").await;
    assert!(hedges >= 2.0 && won >= 2.0 && won <= hedges, "{won} of {hedges}");
    assert!(hedges <= 0.2 * 200.0, "within the retry budget: {hedges}");
    assert_eq!(posts.load(Ordering::SeqCst), 1, "while GETs were hedged, the POST was not");
    release.send_replace(true);
    assert_eq!(post.response().await.status, 200);
    assert_eq!(posts.load(Ordering::SeqCst), 1);
}
