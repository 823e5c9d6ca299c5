use super::*;
use crate::state::Disk;
use crate::translate::scope::MeshSettings;

fn pages(directory: &std::path::Path) -> Pages {
    let metrics = Arc::new(Metrics::default());
    let settings = MeshSettings {
        cluster_domain: "cluster.local".into(),
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
    };
    let xds = Server::new(settings, Arc::clone(&metrics));
    xds.publish(Arc::default());
    Pages {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        view: watch::channel(View::default()).1,
        sync: SyncStatus::default(),
        mesh: watch::channel(Arc::default()).1,
        xds,
        store: Some(Store::open(directory).unwrap()),
        pods_without_sidecar: watch::channel(Arc::default()).1,
        metrics,
        authority: Arc::new(Authority::for_tests()),
        leaving: watch::channel(false).1,
    }
}

async fn ask(
    pages: &Arc<Pages>,
    interface: Interface,
    method: Method,
    host: &str,
    path: &str,
    body: &str,
) -> (u16, String) {
    let request = Request::builder().method(method).uri(path).header("host", host);
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let answer = pages.answer(interface, request).await;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn only_the_socket_makes_tokens() {
    let directory = tempfile::tempdir().unwrap();
    let pages = Arc::new(pages(directory.path()));
    let cart = r#"{"namespace":"shop","service_account":"cart","ttl_seconds":600}"#;
    let nobody = r#"{"namespace":"Shop","service_account":"cart","ttl_seconds":600}"#;
    for (interface, method, body, status, says) in [
        (Interface::Loopback, Method::POST, cart, 403, "Unix socket"),
        (Interface::Socket, Method::GET, "", 405, "method"),
        (Interface::Socket, Method::POST, "{}", 400, "namespace"),
        (Interface::Socket, Method::POST, nobody, 400, "\"Shop\""),
        (Interface::Socket, Method::POST, cart, 201, "outrigger-join."),
    ] {
        let (got, text) = ask(&pages, interface, method, "localhost", "/tokens", body).await;
        assert!(got == status && text.contains(says), "{got} {text}");
    }
}

#[tokio::test]
async fn loopback_answers_to_names_of_this_machine_only() {
    let directory = tempfile::tempdir().unwrap();
    let pages = Arc::new(pages(directory.path()));
    for (host, status) in [
        ("localhost:15011", 200),
        ("127.0.0.1:15011", 200),
        ("[::1]:15011", 200),
        ("attacker.example", 421),
        ("10.0.0.1:15011", 421),
    ] {
        assert_eq!(
            ask(&pages, Interface::Loopback, Method::GET, host, "/ready", "").await.0,
            status,
            "{host}"
        );
    }
}

#[tokio::test]
async fn the_public_address_serves_metrics_and_probes_to_any_host_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let pages = Arc::new(pages(directory.path()));
    let cart = r#"{"namespace":"shop","service_account":"cart","ttl_seconds":600}"#;
    for (method, path, status) in [
        (Method::GET, "/metrics", 200),
        (Method::HEAD, "/metrics", 200),
        (Method::GET, "/ready", 200),
        (Method::GET, "/healthz", 200),
        (Method::POST, "/metrics", 405),
        (Method::GET, "/status", 404),
        (Method::GET, "/history", 404),
        (Method::POST, "/tokens", 404),
    ] {
        let answer = ask(&pages, Interface::Public, method, "mesh.example:15012", path, cart).await;
        assert_eq!(answer.0, status, "{path}");
    }
}

#[tokio::test]
async fn the_pages_show_the_current_state() {
    let directory = tempfile::tempdir().unwrap();
    let pages = Arc::new(pages(directory.path()));
    pages.metrics.certificate_refused("weak-key");
    for (path, says) in [
        ("/metrics", r#"outrigger_control_plane_certificates_refused_total{reason="weak-key"} 1"#),
        ("/status", r#""trust_domain":"cluster.local""#),
        ("/history?count=5", "[]"),
    ] {
        let (status, text) = ask(&pages, Interface::Loopback, Method::GET, "localhost", path, "").await;
        assert!(status == 200 && text.contains(says), "{path}: {status} {text}");
    }
    assert_eq!(
        ask(&pages, Interface::Loopback, Method::GET, "localhost", "/history?count=x", "").await.0,
        400
    );
    assert_eq!(ask(&pages, Interface::Loopback, Method::GET, "localhost", "/x", "").await.0, 404);
}

#[tokio::test]
async fn ready_names_what_is_not_synced_to_this_machine_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (pages, sync) = (pages(directory.path()), SyncStatus::default());
    ["EndpointSlice", "Service"].into_iter().for_each(|part| sync.add(part));
    sync.synced("Service");
    let pages = Arc::new(Pages { sync: sync.clone(), store: None, ..pages });
    let ready = async |interface| ask(&pages, interface, Method::GET, "localhost", "/ready", "").await;
    let reason = "not ready: EndpointSlice is not synced yet\n".to_owned();
    assert_eq!(ready(Interface::Loopback).await, (503, reason));
    assert_eq!(ready(Interface::Public).await, (503, "not ready\n".to_owned()));
    sync.synced("EndpointSlice");
    // A kind that cannot be read for a while is a problem, but what was read is served.
    sync.set_failure("Service", Some("the API server is away".into()));
    assert_eq!(ready(Interface::Public).await.0, 200);
    let status = ask(&pages, Interface::Loopback, Method::GET, "localhost", "/status", "").await.1;
    assert!(status.contains("Service cannot be read now: the API server is away"), "{status}");
    let history = ask(&pages, Interface::Loopback, Method::GET, "localhost", "/history", "").await;
    assert_eq!(history.0, 404, "{}", history.1);
}

#[tokio::test]
async fn a_failing_store_is_reported_and_the_process_stays_healthy() {
    let (directory, disk) = (tempfile::tempdir().unwrap(), Disk::default());
    let store = Store::open_with(directory.path(), disk.opener()).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let pages = Arc::new(Pages { store: Some(store.clone()), ..pages(elsewhere.path()) });
    let page = async |path: &str| ask(&pages, Interface::Loopback, Method::GET, "localhost", path, "").await;
    assert_eq!(page("/ready").await.0, 200);
    disk.fill(true);
    let cart = r#"{"namespace":"shop","service_account":"cart","ttl_seconds":600}"#;
    let refused = ask(&pages, Interface::Socket, Method::POST, "localhost", "/tokens", cart).await;
    assert_eq!(refused.0, 500, "{}", refused.1);
    let (status, text) = page("/ready").await;
    assert!(status == 503 && text.contains("the state cannot be written since 20"), "{status} {text}");
    let public = ask(&pages, Interface::Public, Method::GET, "mesh.example", "/ready", "").await;
    assert_eq!(public, (503, "not ready\n".to_owned()), "the reason is for this machine");
    assert_eq!(page("/healthz").await.0, 200);
    assert!(page("/status").await.1.contains(r#""problems":["the state cannot be written"#));
}

#[tokio::test]
async fn a_replica_that_leaves_is_not_ready_and_answers() {
    let directory = tempfile::tempdir().unwrap();
    let (leave, leaving) = watch::channel(false);
    let pages = Arc::new(Pages { leaving, ..pages(directory.path()) });
    let ready = async || ask(&pages, Interface::Loopback, Method::GET, "localhost", "/ready", "").await;
    assert_eq!(ready().await.0, 200);
    leave.send_replace(true);
    assert_eq!(ready().await, (503, "not ready: it is shutting down\n".to_owned()));
    assert_eq!(ask(&pages, Interface::Public, Method::GET, "any", "/healthz", "").await.0, 200);
}
