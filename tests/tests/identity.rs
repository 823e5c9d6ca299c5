//! Identities: every hop verifies both ends, clients without an identity of the mesh are refused, and certificates are renewed
//! under traffic.

use std::time::Duration;

use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::wait::eventually;
use outrigger_tests::load::Load;
use outrigger_tests::mesh::{Mesh, service};
use outrigger_tests::tls;

const HTTP: &[u8] = b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn both_ends_of_a_hop_have_the_expected_identity() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let served = mesh.sidecar("app").serves("app", app.address).logged().start().await;
    let web = mesh.sidecar("web").logged().start().await;
    assert_eq!(web.get("app", "/hop").await.by(), (200, "app"));
    let sent = web.records("/hop").await.remove(0);
    assert!(sent.contains("\"peer\":\"spiffe://cluster.local/ns/shop/sa/app\""), "{sent}");
    let received = served.records("/hop").await.remove(0);
    assert!(received.contains("\"source\":\"spiffe://cluster.local/ns/shop/sa/web\""), "{received}");
    assert!(web.page("/certs").await.unwrap().contains("spiffe://cluster.local/ns/shop/sa/web"));
}

#[tokio::test]
async fn plaintext_and_foreign_certificates_are_refused_and_reach_no_application() {
    let mesh = Mesh::start(&service("app", 80, "http")).await;
    let app = Application::echo("app").await;
    let served = mesh.sidecar("app").serves("app", app.address).start().await;
    let inbound = served.inbound();

    let mut plaintext = Client::connect(inbound).await;
    plaintext.send(HTTP).await;
    let answer = String::from_utf8_lossy(&plaintext.rest().await).into_owned();
    assert!(!answer.contains("HTTP/1.1"), "{answer}");

    assert!(tls::exchange(inbound, None, "http/1.1", HTTP).await.is_err(), "no certificate");

    let elsewhere = Mesh::start("").await;
    let foreign = elsewhere.sidecar("web").start().await;
    let refused = tls::exchange(inbound, Some(&foreign.state()), "http/1.1", HTTP).await;
    assert!(refused.is_err(), "a certificate of another CA");

    let web = mesh.sidecar("web").start().await;
    let refused = tls::exchange(inbound, Some(&web.state()), "carrier-pigeon", HTTP).await;
    assert!(refused.is_err(), "a protocol that is none");
    assert_eq!(app.requests(), 0);

    let answer = tls::exchange(inbound, Some(&web.state()), "http/1.1", HTTP).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "who belongs to the mesh is served");
    assert!(served.metric("outrigger_downstream_tls_handshakes_total", "failed").await >= 3.0);
}

#[tokio::test]
async fn an_endpoint_that_is_somebody_else_gets_no_request() {
    let mesh = Mesh::start(&[service("app", 80, "http"), service("thief", 80, "http")].concat()).await;
    let (app, theft) = (Application::echo("app").await, Application::echo("thief").await);
    let served = mesh.sidecar("app").serves_behind_relay("app", app.address).await.start().await;
    let thief = mesh.sidecar("thief").serves("thief", theft.address).start().await;
    served.relay().forward_to(thief.inbound());
    let web = mesh.sidecar("web").start().await;
    let answer = web.client().await.post("app", "/", "secret").await;
    assert_eq!((answer.status, answer.reason()), (503, "upstream_tls_failure"));
    assert_eq!((app.requests(), theft.requests()), (0, 0));
}

#[tokio::test]
async fn certificates_are_renewed_and_neither_a_request_nor_a_connection_is_lost() {
    let services = [service("app", 80, "http"), service("stock", 9000, "tcp")].concat();
    let mesh = Mesh::with_certificate_ttl(Duration::from_secs(6), &services).await;
    let (app, stock) = (Application::echo("app").await, Application::repeater().await);
    let served =
        mesh.sidecar("app").serves("app", app.address).serves("stock:9000", stock.address).start().await;
    let web = mesh.sidecar("web").binds("stock:9000").start().await;
    let certificate = async |sidecar: &outrigger_tests::sidecar::Sidecar| {
        let page = sidecar.page("/certs").await.expect("a page");
        page.lines().find(|line| line.contains("\"not_after\"")).map(str::to_owned)
    };
    let before = [certificate(&web).await, certificate(&served).await];
    let mut tunnel = Client::connect(web.bound()).await;
    tunnel.send("before").await;
    assert_eq!(tunnel.bytes(6).await, b"before");
    let load = Load::start(web.outbound(), "app");
    load.wait_for(10).await;
    let streams = async || -> Vec<String> {
        mesh.status()
            .await
            .proxies
            .into_iter()
            .map(|stream| format!("{} {}", stream.node, stream.since))
            .collect()
    };
    let pushes = async || -> Vec<String> {
        let page = mesh.page("/metrics").await;
        page.lines().filter(|line| line.contains("xds_pushes_total")).map(str::to_owned).collect()
    };
    let (old_streams, pushed) = (streams().await, pushes().await);
    eventually("new certificates", async || {
        let now = [certificate(&web).await, certificate(&served).await];
        before.iter().zip(&now).all(|(before, now)| before != now).then_some(())
    })
    .await;
    eventually("new streams to the control plane, and the old ones gone", async || {
        let now = streams().await;
        (now.len() == 2 && now.iter().all(|stream| !old_streams.contains(stream))).then_some(())
    })
    .await;
    load.wait_for(100).await;
    assert_eq!(pushes().await, pushed, "nothing is sent twice");
    assert_eq!(mesh.status().await.registrations.len(), 1);
    load.finish().await.assert_nothing_lost();
    tunnel.send("after").await;
    assert_eq!(tunnel.bytes(5).await, b"after");
    assert_eq!(Client::connect(web.outbound()).await.get("app", "/").await.by(), (200, "app"));
}

#[tokio::test]
async fn a_token_is_for_one_workload_and_an_invalid_one_joins_none() {
    let mesh = Mesh::start("").await;
    let token = mesh.token("shop", "web").await;
    let first = mesh.sidecar("web").token(&token).start().await;
    let thief = mesh.sidecar("web").instance("web-2").token(&token).launch().await;
    let stranger = mesh.sidecar("stranger").token("made up").launch().await;
    eventually("two refusals", async || {
        let metrics = mesh.page("/metrics").await;
        ["used-token", "malformed-token"].iter().all(|reason| metrics.contains(reason)).then_some(())
    })
    .await;
    assert!(first.page("/ready").await.is_some());
    assert!(thief.page("/ready").await.is_none() && stranger.page("/ready").await.is_none());
    assert_eq!(mesh.status().await.certificates_issued, 1);
}

#[tokio::test]
async fn who_may_not_serve_a_service_is_refused_by_its_name() {
    let narrowed = "---\napiVersion: v1\nkind: Service\n\
        metadata: {name: app, namespace: shop, annotations: {outrigger.dev/service-accounts: app}}\n\
        spec: {ports: [{port: 80, appProtocol: http}]}\n";
    let mesh = Mesh::start(narrowed).await;
    let app = Application::echo("thief").await;
    let thief = mesh.sidecar("thief").serves("app", app.address).launch().await;
    let refused = eventually("a refusal", async || {
        let dump = thief.page("/config_dump").await?;
        dump.lines().find(|line| line.contains("app") && line.contains("thief")).map(str::to_owned)
    })
    .await;
    assert!(refused.contains("reason"), "{refused}");
    let web = mesh.sidecar("web").start().await;
    assert_eq!(web.get("app", "/").await.reason(), "no_healthy_upstream");
    assert_eq!(app.requests(), 0);
}
