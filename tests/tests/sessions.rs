//! Session persistence, from a file to what callers see.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use outrigger_test_support::application::Application;
use outrigger_test_support::http1::Response;
use outrigger_test_support::wait::eventually;
use outrigger_tests::grpc::{self, GrpcClient};
use outrigger_tests::mesh::{Mesh, http_route, service};
use outrigger_tests::sidecar::Sidecar;

const NAMES: [&str; 4] = ["one", "two", "three", "four"];

/// A policy of the Service `app` of namespace `shop`.
fn policy(sessions: &str) -> String {
    format!(
        "---\napiVersion: outrigger.dev/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {{name: app, namespace: shop}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: app}}], sessionPersistence: {{{sessions}}}}}\n"
    )
}

/// A client that repeats what responses gave it.
#[derive(Debug, Clone, Default)]
struct Browser {
    cookies: BTreeMap<String, String>,
    header: Option<String>,
}

impl Browser {
    async fn get(&mut self, web: &Sidecar, host: &str, path: &str) -> Response {
        let mut fields = String::new();
        if !self.cookies.is_empty() {
            let pairs: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            fields = format!("cookie: {}\r\n", pairs.join("; "));
        }
        if let Some(value) = &self.header {
            fields = format!("{fields}x-at: {value}\r\n");
        }
        let response = web.client().await.request("GET", host, path, &fields).await;
        if let Some(line) = response.field("set-cookie") {
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.insert(name.into(), value.into());
        }
        self.header = response.field("x-at").map(String::from).or(self.header.take());
        response
    }

    /// Sends requests to `app`. Returns the application that answered all of them.
    async fn stays(&mut self, web: &Sidecar, requests: usize) -> String {
        let first = self.get(web, "app", "/").await;
        assert_eq!(first.status, 200);
        for number in 1..requests {
            let before = (self.cookies.clone(), self.header.clone());
            let response = self.get(web, "app", "/").await;
            assert_eq!(response.by(), first.by(), "request {number}");
            assert_eq!((&self.cookies, &self.header), (&before.0, &before.1), "request {number}");
        }
        first.by().1.to_owned()
    }
}

/// An instance of `app`.
struct Instance {
    name: &'static str,
    sidecar: Sidecar,
    _app: Application,
}

/// Starts instances of `app`, each behind a relay.
async fn instances(mesh: &Mesh, names: &[&'static str]) -> Vec<Instance> {
    let mut all = Vec::new();
    for name in names {
        let app = Application::echo(name).await;
        let sidecar = mesh.sidecar("app").instance(name).serves_behind_relay("app", app.address).await;
        all.push(Instance { name, sidecar: sidecar.start().await, _app: app });
    }
    all
}

#[tokio::test]
async fn a_client_stays_while_others_come_and_go_and_moves_when_its_endpoint_dies() {
    for sessions in ["", "type: Header, sessionName: X-At"] {
        let mesh = Mesh::start(&[service("app", 80, "http"), policy(sessions)].concat()).await;
        let mut instances = instances(&mesh, &NAMES[..3]).await;
        let web = mesh.sidecar("web").start().await;
        for name in &NAMES[..3] {
            web.get_until("app", "/", |response| response.by() == (200, name)).await;
        }
        let mut browser = Browser::default();
        let own = browser.stays(&web, 50).await;
        assert_eq!(
            (browser.cookies.len(), browser.header.is_some()),
            (usize::from(sessions.is_empty()), !sessions.is_empty())
        );

        // One more, and one of the others less.
        instances.extend(self::instances(&mesh, &NAMES[3..]).await);
        web.get_until("app", "/", |response| response.by() == (200, "four")).await;
        assert_eq!(browser.stays(&web, 20).await, own);
        let other = instances.iter().position(|instance| instance.name != own).unwrap();
        instances.remove(other).sidecar.stop().await;
        assert_eq!(browser.stays(&web, 20).await, own);

        // Its own dies.
        instances.iter().find(|instance| instance.name == own).unwrap().sidecar.relay().close();
        let before = (browser.cookies.clone(), browser.header.clone());
        let new = browser.stays(&web, 20).await;
        assert_ne!(new, own);
        assert_ne!((&browser.cookies, &browser.header), (&before.0, &before.1));

        // Of 110 requests, the first one had no session, and that of an endpoint that has died moved.
        let counted = async |outcome: &str| {
            let labels = format!("outcome=\"{outcome}\"");
            web.metric("outrigger_upstream_sessions_total", &labels).await
        };
        assert_eq!((counted("kept").await, counted("moved").await), (108.0, 1.0));
        assert!(counted("new").await >= 4.0, "those that have looked for the four endpoints too");
    }
}

#[tokio::test]
async fn the_sessions_of_grpc_calls_are_kept_in_a_header() {
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: app, namespace: shop}\n\
        spec: {parentRefs: [{group: '', kind: Service, name: app}], \
               rules: [{backendRefs: [{name: app, port: 80}], sessionPersistence: {type: Header, sessionName: x-at}}]}\n";
    let mesh = Mesh::start(&[&service("app", 80, "grpc"), route].concat()).await;
    let mut served = Vec::new();
    for name in &NAMES[..3] {
        let app = grpc::echo(name).await;
        let sidecar = mesh.sidecar("app").instance(name).serves("app", app.address).start().await;
        served.push((app, sidecar));
    }
    let web = mesh.sidecar("web").start().await;
    let client = GrpcClient::connect(web.outbound()).await;
    let call = async |at: Option<&str>| {
        let fields: Vec<_> = at.into_iter().map(|at| ("x-at", at)).collect();
        let (head, message, trailers) = client.unary("app:80", "/shop.Cart/Add", &fields).await;
        assert_eq!((trailers["grpc-status"].as_bytes(), &message[5..]), (&b"0"[..], &b"hi"[..]));
        let field = |name: &str| head.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        (field("x-app").unwrap(), field("x-at"))
    };
    let mut all = BTreeMap::new();
    eventually("calls to each instance", async || {
        let (app, at) = call(None).await;
        all.insert(app, at.unwrap());
        (all.len() == 3).then_some(())
    })
    .await;
    for (app, at) in &all {
        for _ in 0..50 {
            assert_eq!(call(Some(at)).await, (app.clone(), None));
        }
    }
}

#[tokio::test]
async fn the_rules_of_a_route_have_sessions_of_their_own_and_those_of_weighted_backends_stay() {
    let route = |first: u32, second: u32| {
        let rules = format!(
            "    - matches: [{{path: {{value: /other}}}}]\n      backendRefs: [{{name: app, port: 80}}]\n      \
                   sessionPersistence: {{}}\n\
             \x20   - backendRefs: [{{name: app, port: 80, weight: {first}}}, {{name: new, port: 80, weight: {second}}}]\n      \
                   sessionPersistence: {{absoluteTimeout: 1h, cookieConfig: {{lifetimeType: Permanent}}}}"
        );
        http_route("shop", "app", "app", &rules)
    };
    let services = ["app", "new"].map(|name| service(name, 80, "http")).concat();
    // The rule comes before the policy.
    let of_service = policy("type: Header, sessionName: x-at");
    let mesh = Mesh::start(&[services, of_service].concat()).await;
    mesh.write("route.yaml", &route(1, 0));
    let _instances = instances(&mesh, &NAMES[..3]).await;
    let new = Application::echo("new").await;
    let _new = mesh.sidecar("new").serves("new", new.address).start().await;
    let web = mesh.sidecar("web").start().await;
    for name in &NAMES[..3] {
        web.get_until("app", "/", |response| response.by() == (200, name)).await;
    }
    let mut browser = Browser::default();
    let own = browser.stays(&web, 20).await;
    assert!(browser.header.is_none() && browser.cookies.len() == 1, "{browser:?}");
    let line = Browser::default().get(&web, "app", "/").await;
    assert!(line.field("set-cookie").unwrap().ends_with("; Max-Age=3600; Path=/; HttpOnly"), "{line:?}");
    browser.get(&web, "app", "/other").await;
    assert_eq!(browser.cookies.len(), 2, "another rule has another cookie: {browser:?}");

    mesh.write("route.yaml", &route(0, 1));
    web.get_until("app", "/", |response| response.by() == (200, "new")).await;
    assert_eq!(browser.stays(&web, 20).await, own, "with weight 0");
    assert_eq!(Browser::default().stays(&web, 5).await, "new");
}

#[tokio::test]
async fn a_policy_of_a_backend_changes_the_routes_of_other_services() {
    let mesh = Mesh::start(&["app", "front"].map(|name| service(name, 80, "http")).concat()).await;
    mesh.write(
        "route.yaml",
        &http_route("shop", "front", "front", "    - backendRefs: [{name: app, port: 80}]"),
    );
    let _instances = instances(&mesh, &NAMES[..2]).await;
    let web = mesh.sidecar("web").start().await;
    let given = async |host: &str| {
        let response = web.get_until(host, "/", |response| response.status == 200).await;
        response.field("set-cookie").map(|line| line.split('=').next().unwrap().to_owned())
    };
    assert_eq!((given("app").await, given("front").await), (None, None));
    mesh.write("policy.yaml", &policy("sessionName: at"));
    for host in ["app", "front"] {
        web.get_until(host, "/", |response| response.field("set-cookie").is_some()).await;
        assert_eq!(given(host).await.as_deref(), Some("at"));
    }
    mesh.write("policy.yaml", "");
    for host in ["app", "front"] {
        web.get_until(host, "/", |response| response.field("set-cookie").is_none()).await;
    }
    mesh.write("policy.yaml", &policy("idleTimeout: 1m"));
    mesh.refusal("spec.sessionPersistence.idleTimeout: is not supported yet").await;
}
