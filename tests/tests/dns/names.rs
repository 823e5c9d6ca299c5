//! Names of the mesh.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use outrigger_test_support::application::Application;
use outrigger_test_support::wait::eventually;
use outrigger_tests::mesh::{Mesh, service, service_in};
use outrigger_tests::sidecar::Sidecar;

use super::client::{ask, ask_tcp, query, read};
use super::name_server::NameServer;

async fn sidecar(mesh: &Mesh, server: &NameServer) -> Sidecar {
    let upstream = server.address.to_string();
    mesh.sidecar("web").flag("--dns", "127.0.0.1:0").flag("--dns-upstream", &upstream).start().await
}

async fn resolve(web: &Sidecar, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    read(&ask(web.dns(), &query(name, kind)).await)
}

/// The automatic addresses of `cart` in `shop`, which must never change.
const CART: [&str; 2] = ["240.196.8.120", "fd6f:7574:7269:0:65ab:8535:ad9f:45aa"];

fn found(addresses: &[&str]) -> (ResponseCode, Vec<String>) {
    (ResponseCode::NoError, addresses.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn every_name_of_a_service_resolves_to_its_addresses_which_lead_to_it() {
    let app = Application::echo("cart").await;
    let with_address = service("stock", 80, "http").replace("ports:", "clusterIP: 10.96.0.9, ports:");
    let yaml = [service("cart", 80, "http"), with_address, service_in("other", "cart", 80, "http")].concat();
    let mesh = Mesh::start(&yaml).await;
    let _cart = mesh.sidecar("cart").serves("cart", app.address).start().await;
    let server = NameServer::ordinary().await;
    let web = sidecar(&mesh, &server).await;
    for name in ["cart.", "CART.Shop.", "cart.shop.svc.", "cart.shop.svc.cluster.local."] {
        assert_eq!(resolve(&web, name, RecordType::A).await, found(&CART[..1]), "{name}");
        assert_eq!(resolve(&web, name, RecordType::AAAA).await, found(&CART[1..]), "{name}");
        assert_eq!(resolve(&web, name, RecordType::HTTPS).await, found(&[]), "{name}");
        assert!(!server.was_asked(name));
    }
    let kinds = [RecordType::A, RecordType::AAAA].map(|kind| query("cart.shop.", kind));
    let both: Vec<_> = ask_tcp(web.dns(), &kinds).await.iter().map(read).collect();
    assert_eq!(both, [found(&CART[..1]), found(&CART[1..])]);
    assert_eq!(resolve(&web, "stock.", RecordType::A).await, found(&["10.96.0.9"]));
    assert_eq!(resolve(&web, "stock.", RecordType::AAAA).await, found(&[]), "it has none of this family");
    let other = resolve(&web, "cart.other.", RecordType::A).await;
    assert!(other.1[0].starts_with("240.") && other != found(&CART[..1]), "{other:?}");
    assert_eq!(web.get(CART[0], "/").await.by(), (200, "cart"));
    assert_eq!(web.metric("outrigger_dns_queries_total", "answered").await, 17.0);
    let dump = web.page("/config_dump").await.unwrap();
    assert!(dump.contains(CART[1]) && dump.contains("dns|cart.shop"), "{dump}");
}

#[tokio::test]
async fn a_service_that_comes_or_goes_is_resolved_or_forwarded_from_then_on() {
    let mesh = Mesh::start(&service("stock", 80, "http")).await;
    let server = NameServer::ordinary().await;
    let web = sidecar(&mesh, &server).await;
    let until = async |name: &str, expected: (ResponseCode, Vec<String>)| {
        eventually(&format!("{expected:?} for {name}"), async || {
            (resolve(&web, name, RecordType::A).await == expected).then_some(())
        })
        .await;
    };
    assert_eq!(resolve(&web, "cart.", RecordType::A).await, (ResponseCode::NXDomain, vec![]));
    assert_eq!(resolve(&web, "cart.shop.", RecordType::A).await, found(&["192.0.2.1"]));
    mesh.write("cart.yaml", &service("cart", 80, "http"));
    until("cart.shop.", found(&CART[..1])).await;
    until("cart.", found(&CART[..1])).await;
    mesh.write("cart.yaml", "");
    until("cart.shop.", found(&["192.0.2.1"])).await;
}

#[tokio::test]
async fn a_headless_service_resolves_to_its_ready_endpoints_and_its_name_stays_in_the_mesh_without_them() {
    let headless = service("db", 5432, "tcp").replace("ports:", "clusterIP: None, ports:");
    let slice = |conditions: &str| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: db-1, namespace: shop, \
             labels: {{kubernetes.io/service-name: db}}}}, addressType: IPv4, ports: [{{port: 5432}}], \
             endpoints: [{{addresses: [192.0.2.50], hostname: db-0, conditions: {conditions}}}]}}\n---\n"
        )
    };
    let mesh = Mesh::start(&headless).await;
    let server = NameServer::ordinary().await;
    let web = sidecar(&mesh, &server).await;
    let service = ["db.", "db.shop.", "db.shop.svc.", "db.shop.svc.cluster.local."];
    let instance = ["db-0.db.shop.svc.", "db-0.db.shop.svc.cluster.local."];
    let are = async |names: &[&str], expected: &[&str]| {
        for name in names {
            eventually(&format!("{expected:?} for {name}"), async || {
                (resolve(&web, name, RecordType::A).await == found(expected)).then_some(())
            })
            .await;
            assert_eq!(resolve(&web, name, RecordType::AAAA).await, found(&[]));
        }
    };
    for name in service {
        let response = ask(web.dns(), &query(name, RecordType::A)).await;
        assert_eq!(
            (read(&response), response.authorities),
            (found(&[]), vec![]),
            "NODATA, which no cache keeps"
        );
    }
    mesh.write("db.yaml", &slice("{ready: true}"));
    are(&service, &["192.0.2.50"]).await;
    are(&instance, &["192.0.2.50"]).await;
    mesh.write("db.yaml", &slice("{ready: false}"));
    are(&service, &[]).await;
    are(&instance, &[]).await;
    let absent = ["db-9.db.shop.svc.", "db-9.db.shop.svc.cluster.local."];
    for name in absent {
        assert_eq!(resolve(&web, name, RecordType::A).await, (ResponseCode::NXDomain, vec![]));
    }
    let names = [&service[..], &instance, &absent].concat();
    assert!(!names.iter().any(|name| server.was_asked(name)), "no name leaves the mesh");
    let other = "db-0.other.shop.svc.cluster.local.";
    assert_eq!(resolve(&web, other, RecordType::A).await, found(&["192.0.2.1"]), "not below a service");
}

#[tokio::test]
async fn without_a_control_plane_known_names_are_answered_and_others_forwarded() {
    let mut mesh = Mesh::start(&[service("cart", 80, "http"), service("stock", 80, "http")].concat()).await;
    let server = NameServer::ordinary().await;
    let mut web = sidecar(&mesh, &server).await;
    assert_eq!(resolve(&web, "cart.", RecordType::A).await, found(&CART[..1]));
    mesh.stop_control_plane().await;
    eventually("a lost stream", async || {
        (web.metric("outrigger_xds_connected", "").await == 0.0).then_some(())
    })
    .await;
    let away = async |web: &Sidecar| {
        assert_eq!(resolve(web, "cart.", RecordType::A).await, found(&CART[..1]));
        assert_eq!(
            resolve(web, "stock.shop.", RecordType::A).await,
            found(&["192.0.2.1"]),
            "never asked before"
        );
        assert_eq!(resolve(web, "www.example.com.", RecordType::A).await, found(&["192.0.2.1"]));
    };
    away(&web).await;
    web.stop().await;
    web.restart().await;
    away(&web).await;
    mesh.start_control_plane().await;
    eventually("the other service", async || {
        (resolve(&web, "stock.shop.", RecordType::A).await != found(&["192.0.2.1"])).then_some(())
    })
    .await;
    assert_eq!(resolve(&web, "cart.", RecordType::A).await, found(&CART[..1]), "as before");
}

#[tokio::test]
async fn names_resolve_in_wildcard_mode_too() {
    let mesh = Mesh::start(&service("cart", 80, "http")).await;
    let server = NameServer::ordinary().await;
    let upstream = server.address.to_string();
    let web = mesh.sidecar("web").flag("--mode", "wildcard").flag("--dns", "127.0.0.1:0");
    let web = web.flag("--dns-upstream", &upstream).start().await;
    assert_eq!(resolve(&web, "cart.", RecordType::A).await, found(&CART[..1]));
    assert_eq!(resolve(&web, "www.example.com.", RecordType::A).await, found(&["192.0.2.1"]));
}
