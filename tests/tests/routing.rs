//! Which backend a Gateway API route chooses, from its file to the application that is reached: through the real control plane
//! and two sidecars.

use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_tests::grpc::{self, GrpcClient};
use outrigger_tests::mesh::{Mesh, http_route, service, service_in};
use outrigger_tests::shop::Shop;

#[tokio::test]
async fn a_path_is_matched_exactly_by_prefix_or_by_expression() {
    let shop = Shop::with_rules(
        "  - matches: [{path: {type: Exact, value: /exact}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /pre}}]
    backendRefs: [{name: b, port: 80}]
  - matches: [{path: {type: RegularExpression, value: '/v[0-9]+'}}]
    backendRefs: [{name: a, port: 80}]",
    )
    .await;
    for (path, by) in [
        ("/exact", (200, "a")),
        ("/exact?with=query", (200, "a")),
        ("/exact/", (404, "")),
        ("/pre", (200, "b")),
        ("/pre/fix", (200, "b")),
        ("/prefix", (404, "")),
        ("/v12", (200, "a")),
        ("/v12/x", (404, "")),
        ("/", (404, "")),
    ] {
        let answer = shop.get(path).await;
        assert_eq!(answer.by(), by, "{path}: {}", answer.head);
    }
    assert_eq!(shop.get("/").await.reason(), "no_route_found");
}

#[tokio::test]
async fn headers_query_and_method_are_matched_and_the_most_specific_rule_wins() {
    let shop = Shop::with_rules(
        "  - matches: [{headers: [{name: x-canary, value: b}]}]
    backendRefs: [{name: b, port: 80}]
  - matches: [{headers: [{name: x-user, type: RegularExpression, value: 'b.*'}]}]
    backendRefs: [{name: b, port: 80}]
  - matches: [{queryParams: [{name: to, value: b}]}]
    backendRefs: [{name: b, port: 80}]
  - matches: [{method: PUT}]
    backendRefs: [{name: b, port: 80}]
  - backendRefs: [{name: a, port: 80}]",
    )
    .await;
    for (method, path, fields, by) in [
        ("GET", "/", "", "a"),
        ("GET", "/", "X-Canary: b\r\n", "b"),
        ("GET", "/", "x-canary: B\r\n", "a"),
        ("GET", "/", "x-user: bob\r\n", "b"),
        ("GET", "/", "x-user: alice\r\n", "a"),
        ("GET", "/?to=b", "", "b"),
        ("GET", "/?to=c", "", "a"),
        ("PUT", "/", "content-length: 0\r\n", "b"),
    ] {
        let answer = shop.request(method, path, fields).await;
        assert_eq!(answer.by(), (200, by), "{method} {path} {fields}");
    }
}

#[tokio::test]
async fn requests_are_shared_by_weight_and_weight_0_gets_none() {
    let shop = Shop::with_rules(
        "  - matches: [{path: {type: PathPrefix, value: /shared}}]
    backendRefs: [{name: a, port: 80, weight: 1}, {name: b, port: 80, weight: 1}]
  - matches: [{path: {type: PathPrefix, value: /one}}]
    backendRefs: [{name: a, port: 80, weight: 5}, {name: b, port: 80, weight: 0}]
  - matches: [{path: {type: PathPrefix, value: /none}}]
    backendRefs: [{name: a, port: 80, weight: 0}, {name: b, port: 80, weight: 0}]
  - matches: [{path: {type: PathPrefix, value: /nobody}}]
    backendRefs: []",
    )
    .await;
    let mut client = shop.web.client().await;
    for _ in 0..30 {
        assert_eq!(client.get("shop", "/one").await.by(), (200, "a"));
    }
    for _ in 0..100 {
        assert_eq!(client.get("shop", "/shared").await.status, 200);
    }
    let (a, b) = (shop.a.requests() - 30, shop.b.requests());
    assert!(a + b == 100 && a > 10 && b > 10, "{a} and {b} of 100");
    assert_eq!(client.get("shop", "/none").await.status, 500);
    assert_eq!(client.get("shop", "/nobody").await.status, 500);
}

#[tokio::test]
async fn requests_for_a_missing_backend_are_answered_500() {
    let shop = Shop::with_rules(
        "  - matches: [{path: {type: PathPrefix, value: /half}}]
    backendRefs: [{name: a, port: 80}, {name: nobody, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /none}}]
    backendRefs: [{name: nobody, port: 80}]",
    )
    .await;
    let mut client = shop.web.client().await;
    assert_eq!(client.get("shop", "/none").await.status, 500);
    let mut answers = [0, 0];
    for _ in 0..60 {
        match client.get("shop", "/half").await.by() {
            (200, "a") => answers[0] += 1,
            (500, "") => answers[1] += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(answers.iter().all(|&share| share > 5), "{answers:?}");
}

#[tokio::test]
async fn another_namespace_is_reached_only_where_its_owner_allows_it() {
    let rules = |backend: &str| format!("  - backendRefs: [{{name: {backend}, namespace: other, port: 80}}]");
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\n\
        metadata: {name: shop, namespace: other}\nspec:\n  \
        from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]\n  \
        to: [{group: \"\", kind: Service, name: granted}]\n";
    let yaml = [
        service("to-granted", 80, "http"),
        service("to-secret", 80, "http"),
        service_in("other", "granted", 80, "http"),
        service_in("other", "secret", 80, "http"),
        http_route("shop", "to-granted", "to-granted", &rules("granted")),
        http_route("shop", "to-secret", "to-secret", &rules("secret")),
        grant.to_owned(),
    ];
    let mesh = Mesh::start(&yaml.concat()).await;
    let app = Application::echo("other").await;
    let other = mesh.sidecar("all").namespace("other");
    let other = other.serves("granted", app.address).serves("secret", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    assert_eq!(web.get("to-granted", "/").await.by(), (200, "other"));
    assert_eq!(web.get("to-secret", "/").await.status, 500);
    assert_eq!(
        web.get("secret.other", "/").await.by(),
        (200, "other"),
        "without a route there is no reference"
    );
    drop(other);
}

#[tokio::test]
async fn a_route_of_another_namespace_is_for_clients_of_that_namespace() {
    let consumer = http_route(
        "readers",
        "mine",
        "shop",
        "  - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-route, value: consumer}]}}]
    backendRefs: [{name: shop, namespace: shop, port: 80}]",
    );
    let yaml = [service("shop", 80, "http"), consumer];
    let mesh = Mesh::start(&yaml.concat()).await;
    let app = Application::echo("shop").await;
    let served = mesh.sidecar("shop").serves("shop", app.address).start().await;
    let (web, reader) =
        (mesh.sidecar("web").start().await, mesh.sidecar("reader").namespace("readers").start().await);
    let answer = web.get("shop", "/").await;
    assert_eq!((answer.by(), answer.field("x-route")), ((200, "shop"), None));
    let answer = reader.get("shop.shop", "/").await;
    assert_eq!(answer.field("x-route"), Some("consumer"), "{}", answer.head);
    drop(served);
}

#[tokio::test]
async fn grpc_is_routed_by_service_method_and_header() {
    let grpc_route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\n\
        metadata: {name: pay, namespace: shop}\nspec:\n  \
        parentRefs: [{group: \"\", kind: Service, name: pay, port: 50051}]\n  rules:\n  \
        - matches: [{method: {service: pay.Pay}, headers: [{name: x-canary, value: b}]}]\n    backendRefs: [{name: b, port: 50051}]\n  \
        - matches: [{method: {service: pay.Pay, method: Refund}}]\n    backendRefs: [{name: b, port: 50051}]\n  \
        - matches: [{method: {service: pay.Pay}}]\n    backendRefs: [{name: a, port: 50051}]\n";
    let services = ["pay", "a", "b"].map(|name| service(name, 50051, "grpc")).concat();
    let mesh = Mesh::start(&format!("{services}{grpc_route}")).await;
    let (a, b) = (grpc::echo("a").await, grpc::echo("b").await);
    let backends = mesh.sidecar("backends").serves("a:50051", a.address).serves("b:50051", b.address);
    let backends = backends.start().await;
    let web = mesh.sidecar("web").start().await;
    let client = GrpcClient::connect(web.outbound()).await;
    for (path, fields, by) in [
        ("/pay.Pay/Charge", &[][..], "a"),
        ("/pay.Pay/Refund", &[], "b"),
        ("/pay.Pay/Charge", &[("x-canary", "b")], "b"),
    ] {
        let (head, message, trailers) = client.unary("pay:50051", path, fields).await;
        assert_eq!(head.headers()["x-app"], by, "{path}");
        assert_eq!(&message[5..], b"hi");
        assert_eq!(trailers["grpc-status"], "0");
    }
    let (head, _, _) = client.unary("pay:50051", "/other.Service/Call", &[]).await;
    assert_eq!((head.status().as_u16(), &head.headers()["grpc-status"]), (200, &"12".parse().unwrap()));
    drop(backends);
}

#[tokio::test]
async fn connections_are_routed_by_a_tcp_route() {
    let tcp_route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\n\
        metadata: {name: stock, namespace: shop}\nspec:\n  \
        parentRefs: [{group: \"\", kind: Service, name: stock, port: 9000}]\n  rules:\n  \
        - backendRefs: [{name: stock-v2, port: 9000}]\n";
    let services = [service("stock", 9000, "tcp"), service("stock-v2", 9000, "tcp")].concat();
    let mesh = Mesh::start(&format!("{services}{tcp_route}")).await;
    let repeater = Application::repeater().await;
    let backends = mesh.sidecar("stock").serves("stock-v2:9000", repeater.address).start().await;
    let web = mesh.sidecar("web").binds("stock:9000").start().await;
    let mut client = Client::connect(web.bound()).await;
    client.send("bytes").await;
    client.finish().await;
    assert_eq!(client.rest().await, b"bytes");
    drop(backends);
}

#[tokio::test]
async fn an_edited_file_moves_traffic() {
    let shop = Shop::start("").await;
    let rules = |name: &str| format!("  - backendRefs: [{{name: {name}, port: 80}}]");
    for name in ["a", "b", "a"] {
        shop.mesh.write("route.yaml", &http_route("shop", "shop", "shop", &rules(name)));
        shop.web.get_until("shop", "/", |answer| answer.by() == (200, name)).await;
    }
}
