//! Invalid input: it is refused with the right status, never reaches an application, and does not disturb other traffic.

use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::wait::eventually;
use outrigger_tests::load::Load;
use outrigger_tests::mesh::{Mesh, service};
use outrigger_tests::sidecar::Sidecar;
use outrigger_tests::tls;

/// Malformed requests, and requests that two parsers might read differently.
const MALFORMED: [&[u8]; 16] = [
    b"GET / HTTP/1.1\r\nHost: app\r\nHost: other\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: app\r\nbad name: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: app\r\nx : y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: app\r\n folded: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: app\r\nx: a\0b\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: app\r\n\r\n",
    b"G@T / HTTP/1.1\r\nHost: app\r\n\r\n",
    b"GET /a b HTTP/1.1\r\nHost: app\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a pp\r\n\r\n",
    b"GET http://other/ HTTP/1.1\r\nHost: app\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: +1\r\n\r\na",
    b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
];

struct Pair {
    mesh: Mesh,
    app: Application,
    web: Sidecar,
    served: Sidecar,
}

impl Pair {
    async fn start() -> Self {
        let mesh = Mesh::start(&service("app", 80, "http")).await;
        let app = Application::echo("app").await;
        let served = mesh.sidecar("app").serves("app", app.address).start().await;
        let web = mesh.sidecar("web").start().await;
        Self { mesh, app, web, served }
    }

    /// Sends `bytes`, reads until the connection ends, and returns the status code of the response.
    async fn refusal(&self, bytes: &[u8]) -> String {
        let mut client = self.web.client().await;
        client.send(bytes).await;
        let answer = String::from_utf8_lossy(&client.rest().await).into_owned();
        answer.get(9..12).unwrap_or("none").to_owned()
    }
}

#[tokio::test]
async fn malformed_requests_get_400_and_are_never_forwarded() {
    let pair = Pair::start().await;
    for bytes in MALFORMED {
        let text = String::from_utf8_lossy(bytes);
        let status = pair.refusal(bytes).await;
        assert!(matches!(&*status, "400" | "501" | "505"), "{status} for {text:?}");
    }
    assert_eq!(pair.app.requests(), 0);
    assert_eq!(pair.web.get("app", "/").await.by(), (200, "app"));
}

#[tokio::test]
async fn a_member_of_the_mesh_that_sends_malformed_bytes_gets_the_same() {
    let pair = Pair::start().await;
    let (to, me) = (pair.served.inbound(), pair.web.state());
    for bytes in MALFORMED.iter().chain(&[&b"\x16\x03\x01 no request at all\r\n\r\n"[..]]) {
        let answer = tls::exchange(to, Some(&me), "http/1.1", bytes).await.unwrap_or_default();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.get(9..12).unwrap_or("none");
        // An inbound listener serves a single service, whatever the authority of a request is.
        assert!(matches!(status, "400" | "501" | "505"), "{status} for {:?}", String::from_utf8_lossy(bytes));
    }
    // ALPN selected HTTP/2, and the bytes are not HTTP/2: a connection error without a response.
    let answer = tls::exchange(to, Some(&me), "h2", b"GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    assert!(!answer.unwrap_or_default().starts_with(b"HTTP/1.1"));
    assert_eq!(pair.app.requests(), 0);
}

#[tokio::test]
async fn what_is_too_large_gets_its_own_status() {
    let pair = Pair::start().await;
    let long = |length: usize| "a".repeat(length);
    let many: String = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
    for (request, status) in [
        (format!("GET /{} HTTP/1.1\r\nHost: app\r\n\r\n", long(10 * 1024)), "414"),
        (format!("GET / HTTP/1.1\r\nHost: app\r\nx: {}\r\n\r\n", long(100 * 1024)), "431"),
        (format!("GET / HTTP/1.1\r\nHost: app\r\n{many}\r\n"), "431"),
    ] {
        assert_eq!(pair.refusal(request.as_bytes()).await, status, "{}", &request[..60]);
    }
    assert_eq!(pair.app.requests(), 0);
}

#[tokio::test]
async fn invented_hosts_are_answered_and_leave_nothing_behind() {
    let pair = Pair::start().await;
    let mut client = pair.web.client().await;
    for number in 0..2000 {
        let answer = client.get(&format!("invented-{number}"), "/").await;
        assert_eq!((answer.status, answer.reason()), (502, "no_destination"));
    }
    assert_eq!(client.get("app", "/").await.by(), (200, "app"));
    let series = pair.web.page("/metrics").await.unwrap();
    let named = series.lines().filter(|line| line.contains("invented-")).count();
    assert_eq!(named, 0, "no series for a name that a client made up");
    eventually("names that nobody asks for any more, forgotten", async || {
        let status = pair.mesh.status().await;
        let web = status.proxies.iter().find(|proxy| proxy.node == "web")?;
        let names = web.types.iter().flat_map(|kind| &kind.resources);
        (names.filter(|one| one.name.contains("invented-")).count() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_refused_file_is_named_and_the_last_good_version_stays() {
    let pair = Pair::start().await;
    let route = |rest: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: app, namespace: shop}}\n\
             spec:\n  parentRefs: [{{group: \"\", kind: Service, name: app}}]\n  rules:\n  - filters:\n    \
             - {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-route, value: good}}]}}}}\n    \
             backendRefs: [{{name: app, port: 80}}]\n{rest}"
        )
    };
    pair.mesh.write("route.yaml", &route(""));
    let routed = |answer: &outrigger_test_support::http1::Response| answer.field("x-route") == Some("good");
    pair.web.get_until("app", "/", routed).await;
    let load = Load::start(pair.web.outbound(), "app");
    for (rest, said) in [
        ("  - [not, yaml\n", "route.yaml"),
        ("    timeout: 3s\n", "rules[0].timeout: unknown field"),
        ("    timeouts: {request: soon}\n", "rules[0].timeouts.request"),
        ("    matches: [{path: {type: RegularExpression, value: '('}}]\n", "rules[0].matches[0].path"),
        ("  colour: red\n", "colour"),
        ("---\napiVersion: v1\nkind: Sevice\nmetadata: {name: p, namespace: shop}\n", "Sevice"),
    ] {
        pair.mesh.write("route.yaml", &route(rest));
        let refusal = pair.mesh.refusal(said).await;
        assert!(refusal.contains("route.yaml"), "{refusal}");
        assert!(routed(&pair.web.get("app", "/").await), "the last good version stays: {refusal}");
    }
    pair.mesh.write("route.yaml", &route(""));
    eventually("no refusal", async || pair.mesh.status().await.refusals.is_empty().then_some(())).await;
    load.finish().await.assert_nothing_lost();
}

#[tokio::test]
async fn silent_and_endless_clients_delay_no_other_client() {
    let pair = Pair::start().await;
    let mut held = Vec::new();
    for _ in 0..50 {
        let mut slow = pair.web.client().await;
        slow.send("GET / HTTP/1.1\r\nHost: app\r\nx-").await;
        held.push(slow);
        held.push(Client::connect(pair.served.inbound()).await);
    }
    assert_eq!(pair.web.get("app", "/").await.by(), (200, "app"));
}
