//! An application that gets more than it can process: its own sidecar keeps the requests in front of it, and refuses those that
//! would wait for too long.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use http::{HeaderMap, Response};
use outrigger_test_support::application::Application;
use outrigger_test_support::wait::eventually;
use outrigger_tests::grpc::GrpcClient;
use outrigger_tests::mesh::{Mesh, service};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const CLIENTS: usize = 120;

/// Starts an application with one thread that takes 10 ms for each request, and a queue.
async fn one_thread() -> Application {
    let thread = Arc::new(Mutex::new(()));
    Application::http2(move |_, mut respond| {
        let thread = Arc::clone(&thread);
        async move {
            let busy = thread.lock().await;
            sleep(Duration::from_millis(10)).await;
            drop(busy);
            let response =
                Response::builder().header("content-type", "application/grpc").header("grpc-status", "0");
            let _ = respond.send_response(response.body(()).unwrap(), true);
        }
    })
    .await
}

/// Services, the annotation of which says what is done about overload.
fn app(overload: &str) -> String {
    service("app", 80, "grpc").replace(
        "namespace: shop}",
        &format!("namespace: shop, annotations: {{outrigger.dev/overload: {overload}}}}}"),
    )
}

#[tokio::test]
async fn an_overloaded_application_gets_what_it_can_process_and_the_rest_is_refused() {
    let mesh = Mesh::start(&service("app", 80, "grpc")).await;
    let application = one_thread().await;
    let server = mesh.sidecar("app").serves("app", application.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let (outbound, answered) = (web.outbound(), Arc::new(AtomicUsize::new(0)));
    let (refusals, mut refused) = mpsc::unbounded_channel::<HeaderMap>();
    // Aborted when it is dropped.
    let mut load = JoinSet::new();
    for _ in 0..CLIENTS {
        let (answered, refusals) = (Arc::clone(&answered), refusals.clone());
        load.spawn(async move {
            let client = GrpcClient::connect(outbound).await;
            loop {
                let call = client.unary("app", "/shop.App/Get", &[]);
                let Ok((head, ..)) = timeout(Duration::from_secs(1), call).await else { continue };
                if head.headers()["grpc-status"] == "0" {
                    answered.fetch_add(1, Ordering::SeqCst);
                } else {
                    refusals.send(head.into_parts().0.headers).unwrap();
                    sleep(Duration::from_millis(100)).await;
                }
            }
        });
    }

    let refusal = timeout(Duration::from_secs(60), refused.recv()).await.expect("a refusal").unwrap();
    assert_eq!(refusal["grpc-status"], "14", "{refusal:?}");
    assert_eq!(refusal["x-outrigger-reason"], "overloaded", "{refusal:?}");
    let details = BASE64_STANDARD_NO_PAD.decode(&refusal["grpc-status-details-bin"]).unwrap();
    assert!(String::from_utf8_lossy(&details).contains("google.rpc.RetryInfo"), "{details:?}");
    // Those that are admitted are answered: not each of them waits behind all others.
    let before = answered.load(Ordering::SeqCst);
    eventually("answers", async || (answered.load(Ordering::SeqCst) > before + 100).then_some(())).await;

    let waits = async || server.metric("outrigger_upstream_overload_waits_total", "").await;
    let refusals_counted = async || server.metric("outrigger_upstream_overload_refused_total", "").await;
    assert!(waits().await > 0.0 && refusals_counted().await > 0.0);
    let limit = async || server.metric("outrigger_upstream_overload_limit", "").await;
    let waiting = async || server.metric("outrigger_upstream_overload_waiting", "").await;
    eventually("a limit and a queue", async || (limit().await > 0.0 && waiting().await > 0.0).then_some(()))
        .await;

    // Whatever was refused before, nothing is from then on.
    for mode in ["observe", "off"] {
        mesh.write("mesh.yaml", &app(mode));
        let (mut counted, mut quiet) = (refusals_counted().await, 0);
        eventually("no more refusals", async || {
            sleep(Duration::from_millis(100)).await;
            let now = refusals_counted().await;
            quiet = if now > counted { 0 } else { quiet + 1 };
            counted = now;
            (quiet == 10).then_some(())
        })
        .await;
        let before = waits().await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(waits().await > before, mode == "observe", "{mode}");
    }
    assert_eq!(limit().await, 0.0, "what is not watched has no limit");
}
