//! Filters and policies of Gateway API routes: header modification, redirects, rewrites, mirrors, CORS, timeouts and retries.

use std::sync::atomic::{AtomicUsize, Ordering};

use outrigger_test_support::application::Application;
use outrigger_test_support::http1::{ok, status};
use outrigger_test_support::wait::eventually;
use outrigger_tests::mesh::{Mesh, http_route, service};
use outrigger_tests::shop::Shop;

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
    let answer = shop.request("GET", "/", "x-set: client\r\nx-add: client\r\nx-secret: 1\r\n").await;
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
async fn a_mirror_gets_a_copy_and_its_response_is_discarded() {
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
    // At least 65 and at most 135 copies of 200: within 5 sigma of a half.
    eventually("half of the copies", async || (shop.b.requests() >= 20 + 65).then_some(())).await;
    assert!(shop.b.requests() <= 20 + 135, "{} copies of 200", shop.b.requests() - 20);
}

#[tokio::test]
async fn cors_requests_of_allowed_origins_are_answered() {
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
    let answer = shop.request("OPTIONS", "/", preflight).await;
    assert!(matches!(answer.status, 200 | 204), "{}", answer.head);
    assert_eq!(answer.field("access-control-allow-origin"), Some("https://shop.example"));
    assert_eq!(answer.field("access-control-max-age"), Some("60"));
    assert_eq!(shop.a.requests(), 0, "a preflight is not the application's");
    let answer = shop.request("GET", "/", "Origin: https://shop.example\r\n").await;
    assert_eq!(
        (answer.by().1, answer.field("access-control-allow-origin")),
        ("a", Some("https://shop.example"))
    );
    let answer = shop.request("GET", "/", "Origin: https://evil.example\r\n").await;
    assert_eq!(answer.field("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_browser_may_read_the_refusals_of_both_sidecars() {
    let cors = |backend: &str, path: &str| {
        format!(
            "    - {{matches: [{{path: {{value: {path}}}}}], filters: [{{type: CORS, cors: {{allowOrigins: ['https://shop.example']}}}}],\n\
             \x20      backendRefs: [{{name: {backend}, port: 80}}]}}\n"
        )
    };
    let policy = |kind: &str, spec: &str| {
        format!(
            "---\napiVersion: outrigger.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: p, namespace: shop}}\n\
             spec: {{targetRefs: [{{group: '', kind: Service, name: app}}], {spec}}}\n"
        )
    };
    let limit = "local: [{requests: 1, per: Day, by: [{path: {value: /limited}}]}]";
    let documents = [
        service("app", 80, "http"),
        service("away", 80, "http"),
        http_route("shop", "app", "app", &[cors("away", "/away"), cors("app", "/")].concat()),
        policy("AuthorizationPolicy", "action: Deny, rules: [{to: [{paths: [{value: /forbidden}]}]}]"),
        policy("RateLimitPolicy", limit),
    ];
    let mesh = Mesh::start(&documents.concat()).await;
    let app = Application::echo("app").await;
    let _served = mesh.sidecar("app").serves("app", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    for (path, status, reason) in [
        ("/", 200, ""),
        ("/forbidden", 403, "access_denied"),
        ("/limited", 200, ""),
        ("/limited", 429, "rate_limited"),
        ("/away", 503, "no_healthy_upstream"),
    ] {
        let get = async |origin: &str| web.client().await.request("GET", "app", path, origin).await;
        let answer = get("Origin: https://shop.example\r\n").await;
        let allowed = answer.field("access-control-allow-origin");
        assert_eq!((answer.status, answer.reason()), (status, reason), "{path}");
        assert_eq!(allowed, Some("https://shop.example"), "{path}: {}", answer.head);
    }
    assert_eq!(app.requests(), 2);
}

#[tokio::test]
async fn a_request_says_how_long_its_response_is_waited_for() {
    let rules = "    - {matches: [{path: {value: /timed}}], timeouts: {request: 20s}, backendRefs: [{name: shop, port: 80}]}\n\
                 \x20   - backendRefs: [{name: shop, port: 80}]";
    let mesh =
        Mesh::start(&[service("shop", 80, "http"), http_route("shop", "shop", "shop", rules)].concat()).await;
    let app = Application::echo("shop").await;
    let _served = mesh.sidecar("shop").serves("shop", app.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let expected = async |path: &str, fields: &str| {
        let seen = web.client().await.request("GET", "shop", path, fields).await.body.to_ascii_lowercase();
        let value = seen.split("x-envoy-expected-rq-timeout-ms: ").nth(1)?.split("\r\n").next()?;
        Some(value.parse::<u64>().unwrap())
    };
    const OF_CLIENT: &str = "X-Envoy-Expected-Rq-Timeout-Ms: 700\r\n";
    let timed = expected("/timed", "").await;
    assert!(timed.is_some_and(|left| (1..=20_000).contains(&left)), "{timed:?}");
    assert!(
        expected("/timed", OF_CLIENT).await.is_some_and(|left| left > 700),
        "the route's own time replaces it"
    );
    // What an application passes on arrives where no route has a timeout.
    assert_eq!((expected("/", "").await, expected("/", OF_CLIENT).await), (None, Some(700)));
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_504() {
    let yaml = [
        service("shop", 80, "http"),
        http_route(
            "shop",
            "shop",
            "shop",
            "  - timeouts: {request: 200ms}\n    backendRefs: [{name: shop, port: 80}]",
        ),
    ];
    let mesh = Mesh::start(&yaml.concat()).await;
    let silent =
        Application::raw(|mut connection| async move { while connection.request().await.is_some() {} }).await;
    let served = mesh.sidecar("shop").serves("shop", silent.address).start().await;
    let web = mesh.sidecar("web").start().await;
    let answer = web.client().await.post("shop", "/", "order").await;
    assert_eq!((answer.status, answer.reason()), (504, "upstream_request_timeout"));
    assert_eq!(silent.requests(), 1);
    drop(served);
}

#[tokio::test]
async fn a_request_is_retried_on_a_status_that_the_route_names() {
    let yaml = [
        service("shop", 80, "http"),
        http_route(
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
