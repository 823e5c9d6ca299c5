//! What a Gateway API route says, from its file to the bytes that an application reads: through the real control plane and
//! two sidecars.

use std::sync::atomic::{AtomicUsize, Ordering};

use outrigger_tests::application::{Application, ok, read_request, status};
use outrigger_tests::client::{Answer, Client};
use outrigger_tests::grpc::{GrpcApplication, GrpcClient};
use outrigger_tests::mesh::{Mesh, service, service_in};
use outrigger_tests::patience::eventually;
use outrigger_tests::sidecar::Sidecar;

/// A mesh with the applications `a` and `b`, and a service `shop` that is nothing but its routes.
struct Shop {
    mesh: Mesh,
    a: Application,
    b: Application,
    web: Sidecar,
    _backends: Sidecar,
}

impl Shop {
    /// With the rules of one HTTPRoute.
    async fn with_rules(rules: &str) -> Self {
        Self::start(&route("shop", "shop", "shop", rules)).await
    }

    async fn start(routes: &str) -> Self {
        let services =
            [service("shop", 80, "http"), service("a", 80, "http"), service("b", 80, "http")].concat();
        let mesh = Mesh::start(&format!("{services}{routes}")).await;
        let (a, b) = (Application::echo("a").await, Application::echo("b").await);
        let backends = mesh.sidecar("backends").serves("a", a.address).serves("b", b.address);
        let backends = backends.start().await;
        let web = mesh.sidecar("web").start().await;
        Self { mesh, a, b, web, _backends: backends }
    }

    async fn get(&self, path: &str) -> Answer {
        self.web.get("shop", path).await
    }

    async fn ask(&self, method: &str, path: &str, fields: &str) -> Answer {
        self.web.client().await.request(method, "shop", path, fields).await
    }
}

fn route(namespace: &str, name: &str, parent: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: {parent}, namespace: shop, port: 80}}]\n  rules:\n{rules}\n"
    )
}

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
        let answer = shop.ask(method, path, fields).await;
        assert_eq!(answer.by(), (200, by), "{method} {path} {fields}");
    }
}

#[tokio::test]
async fn fields_are_set_added_and_removed_by_rule_and_by_backend() {
    let shop = Shop::with_rules(
        "  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: x-set, value: rule}]
        add: [{name: x-add, value: rule}]
        remove: [x-secret]
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set: [{name: x-rule, value: seen}]
        remove: [server]
    backendRefs:
    - name: a
      port: 80
      filters:
      - type: RequestHeaderModifier
        requestHeaderModifier: {add: [{name: x-backend, value: a}]}
      - type: ResponseHeaderModifier
        responseHeaderModifier: {add: [{name: x-backend, value: seen}]}",
    )
    .await;
    let answer = shop.ask("GET", "/", "x-set: client\r\nx-add: client\r\nx-secret: 1\r\n").await;
    for line in ["x-set: rule\r\n", "x-add: client\r\n", "x-add: rule\r\n", "x-backend: a\r\n"] {
        assert!(answer.body.contains(line), "{line}: {}", answer.body);
    }
    assert!(!answer.body.contains("x-set: client") && !answer.body.contains("x-secret"), "{}", answer.body);
    assert_eq!((answer.field("x-rule"), answer.field("x-backend")), (Some("seen"), Some("seen")));
    assert_eq!(answer.field("server"), None, "{}", answer.head);
}

#[tokio::test]
async fn a_redirect_is_answered_by_the_sidecar_itself() {
    let shop = Shop::with_rules(
        "  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters:
    - type: RequestRedirect
      requestRedirect:
        scheme: https
        hostname: new.example
        path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}
        statusCode: 301
  - backendRefs: [{name: a, port: 80}]",
    )
    .await;
    let answer = shop.get("/old/page?q=1").await;
    assert_eq!((answer.status, answer.field("location")), (301, Some("https://new.example/new/page?q=1")));
    assert_eq!(shop.a.requests(), 0);
}

#[tokio::test]
async fn path_and_host_are_rewritten_before_the_application_sees_them() {
    let shop = Shop::with_rules(
        "  - matches: [{path: {type: PathPrefix, value: /api}}]
    filters:
    - type: URLRewrite
      urlRewrite:
        hostname: internal.example
        path: {type: ReplacePrefixMatch, replacePrefixMatch: /}
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /all}}]
    filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}}
    backendRefs: [{name: a, port: 80}]",
    )
    .await;
    let answer = shop.get("/api/items?q=1").await;
    assert!(answer.body.starts_with("GET /items?q=1 HTTP/1.1\r\n"), "{}", answer.body);
    assert!(answer.body.to_lowercase().contains("host: internal.example\r\n"), "{}", answer.body);
    assert!(shop.get("/api").await.body.starts_with("GET / HTTP/1.1\r\n"));
    assert!(shop.get("/all/of/it?q=1").await.body.starts_with("GET /one?q=1 HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_mirror_gets_a_copy_and_answers_nobody() {
    let shop = Shop::with_rules(
        "  - filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}}}
    backendRefs: [{name: a, port: 80}]",
    )
    .await;
    for _ in 0..3 {
        assert_eq!(shop.web.client().await.post("shop", "/order", "one").await.by(), (200, "a"));
    }
    eventually("three copies", async || (shop.b.requests() == 3).then_some(())).await;
    assert_eq!(shop.a.requests(), 3);
}

#[tokio::test]
async fn a_mirror_gets_the_share_that_its_percentage_says() {
    let mirrored = |path: &str, share: &str| {
        format!(
            "  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    filters:
    - {{type: RequestMirror, requestMirror: {{backendRef: {{name: b, port: 80}}, {share}}}}}
    backendRefs: [{{name: a, port: 80}}]
"
        )
    };
    let rules = [
        mirrored("/never", "percent: 0"),
        mirrored("/always", "percent: 100"),
        mirrored("/half", "fraction: {numerator: 1, denominator: 2}"),
    ];
    let shop = Shop::with_rules(&rules.concat()).await;
    let mut client = shop.web.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("shop", "/never").await.by(), (200, "a"));
    }
    for _ in 0..20 {
        assert_eq!(client.get("shop", "/always").await.by(), (200, "a"));
    }
    eventually("every copy", async || (shop.b.requests() >= 20).then_some(())).await;
    assert_eq!(shop.b.requests(), 20, "none of what is never mirrored");
    for _ in 0..200 {
        assert_eq!(client.get("shop", "/half").await.by(), (200, "a"));
    }
    // A copy for every third request at least: 5 sigma below a half.
    eventually("half of the copies", async || (shop.b.requests() >= 20 + 65).then_some(())).await;
    assert!(shop.b.requests() <= 20 + 135, "{} copies of 200", shop.b.requests() - 20);
}

#[tokio::test]
async fn cors_is_answered_for_those_who_may() {
    let shop = Shop::with_rules(
        "  - filters:
    - type: CORS
      cors:
        allowOrigins: ['https://shop.example']
        allowMethods: [GET, PUT]
        maxAge: 60
    backendRefs: [{name: a, port: 80}]",
    )
    .await;
    let preflight = "Origin: https://shop.example\r\nAccess-Control-Request-Method: PUT\r\n";
    let answer = shop.ask("OPTIONS", "/", preflight).await;
    assert!(matches!(answer.status, 200 | 204), "{}", answer.head);
    assert_eq!(answer.field("access-control-allow-origin"), Some("https://shop.example"));
    assert_eq!(answer.field("access-control-max-age"), Some("60"));
    assert_eq!(shop.a.requests(), 0, "a preflight is not the application's");
    let answer = shop.ask("GET", "/", "Origin: https://shop.example\r\n").await;
    assert_eq!(
        (answer.by().1, answer.field("access-control-allow-origin")),
        ("a", Some("https://shop.example"))
    );
    let answer = shop.ask("GET", "/", "Origin: https://evil.example\r\n").await;
    assert_eq!(answer.field("access-control-allow-origin"), None);
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
async fn the_share_of_a_backend_that_is_not_there_is_answered_500() {
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
        route("shop", "to-granted", "to-granted", &rules("granted")),
        route("shop", "to-secret", "to-secret", &rules("secret")),
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
    let consumer = route(
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
async fn a_request_that_takes_too_long_is_answered_504() {
    let yaml = [
        service("shop", 80, "http"),
        route(
            "shop",
            "shop",
            "shop",
            "  - timeouts: {request: 200ms}\n    backendRefs: [{name: shop, port: 80}]",
        ),
    ];
    let mesh = Mesh::start(&yaml.concat()).await;
    let silent = Application::raw(|mut stream, requests| async move {
        while read_request(&mut stream).await.is_some() {
            requests.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let served = mesh.sidecar("shop").serves("shop", silent.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let answer = web.client().await.post("shop", "/", "order").await;
    assert_eq!((answer.status, answer.reason()), (504, "upstream_request_timeout"));
    assert_eq!(silent.requests(), 1);
    drop(served);
}

#[tokio::test]
async fn a_status_that_the_route_names_is_tried_again() {
    let yaml = [
        service("shop", 80, "http"),
        route(
            "shop",
            "shop",
            "shop",
            "  - retry: {codes: [500], attempts: 2, backoff: 10ms}\n    backendRefs: [{name: shop, port: 80}]",
        ),
    ];
    let mesh = Mesh::start(&yaml.concat()).await;
    let failures = AtomicUsize::new(0);
    let app = Application::http(move |_| {
        if failures.fetch_add(1, Ordering::SeqCst) < 2 { status(500) } else { ok("third") }
    })
    .await;
    let served = mesh.sidecar("shop").serves("shop", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    assert_eq!(web.get("shop", "/").await.body, "third");
    assert_eq!(app.requests(), 3);
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
    let (a, b) = (GrpcApplication::echo("a").await, GrpcApplication::echo("b").await);
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
        shop.mesh.write("route.yaml", &route("shop", "shop", "shop", &rules(name)));
        shop.web.get_until("shop", "/", |answer| answer.by() == (200, name)).await;
    }
}
