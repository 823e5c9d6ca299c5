//! Protocols through two sidecars: gRPC, upgrades, interim responses, trailers, streams in both directions, opaque bytes, and
//! protocols that must be detected.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use outrigger_test_support::wait::{eventually, in_time};
use outrigger_tests::grpc::{self, GrpcClient};
use outrigger_tests::mesh::{Mesh, service};
use outrigger_tests::sidecar::Sidecar;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The sidecar of `web`, with a port bound to the service `app`, and the sidecar of the application.
struct Pair {
    mesh: Mesh,
    web: Sidecar,
    app: Sidecar,
}

impl Pair {
    async fn start(protocol: &str, address: SocketAddr) -> Self {
        let mesh = Mesh::start(&service("app", 80, protocol)).await;
        let app = mesh.sidecar("app").serves("app", address).start().await;
        let web = mesh.sidecar("web").binds("app:80").start().await;
        Self { mesh, web, app }
    }

    async fn bound(&self) -> Client {
        Client::connect(self.web.bound()).await
    }
}

#[tokio::test]
async fn grpc_calls_come_back_with_their_trailers() {
    let app = grpc::echo("pay").await;
    let pair = Pair::start("grpc", app.address).await;
    let client = GrpcClient::connect(pair.web.bound()).await;
    let (head, message, trailers) = client.unary("anything", "/pay.Pay/Charge", &[]).await;
    assert_eq!(
        (head.status().as_u16(), &head.headers()["x-path"]),
        (200, &"/pay.Pay/Charge".parse().unwrap())
    );
    assert_eq!((&message[5..], &trailers["grpc-status"]), (&b"hi"[..], &"0".parse().unwrap()));
    let (head, message, _) = client.unary("anything", "/pay.Pay/Charge", &[("please-fail", "7")]).await;
    assert_eq!((&head.headers()["grpc-status"], message.len()), (&"7".parse().unwrap(), 0));
}

#[tokio::test]
async fn messages_of_one_call_alternate_in_both_directions() {
    let app = grpc::echo("chat").await;
    let pair = Pair::start("grpc", app.address).await;
    let client = GrpcClient::connect(pair.web.bound()).await;
    let mut call = client.call("app", "/chat.Chat/Talk", &[]).await;
    let mut body = call.response().await.into_body();
    for word in ["one", "two", "three"] {
        call.messages.send_data(Bytes::from_static(word.as_bytes()), false).unwrap();
        let heard = in_time("an echo", body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(heard.len()).unwrap();
        assert_eq!(heard, word);
    }
    call.messages.send_data(Bytes::new(), true).unwrap();
    assert!(in_time("the end", body.data()).await.is_none());
    assert_eq!(in_time("trailers", body.trailers()).await.unwrap().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn an_upgraded_connection_is_a_tunnel() {
    let app = Application::raw(|mut connection| async move {
        // The sidecar's first connection only checks whether the application listens; it carries no request.
        let Some(head) = connection.head().await else { return };
        assert!(head.to_lowercase().contains("upgrade: websocket\r\n"), "{head}");
        let switch =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        connection.send(switch).await.unwrap();
        let mut word = [0; 4];
        connection.stream.read_exact(&mut word).await.unwrap();
        connection.send(&word).await.unwrap();
    })
    .await;
    let pair = Pair::start("http", app.address).await;
    let mut client = pair.bound().await;
    client
        .send("GET /chat HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nping")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(client.rest().await, b"helloping");
}

#[tokio::test]
async fn interim_responses_reach_the_client() {
    let app = Application::raw(|mut connection| async move {
        let Some(head) = connection.head().await else { return };
        assert!(head.to_lowercase().contains("expect: 100-continue"), "{head}");
        let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        connection.send(interim).await.unwrap();
        let mut body = [0; 2];
        connection.stream.read_exact(&mut body).await.unwrap();
        connection.send(ok("done")).await.unwrap();
    })
    .await;
    let pair = Pair::start("http", app.address).await;
    let mut client = pair.bound().await;
    client.send("POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    let hints = client.head().await;
    assert!(hints.starts_with("HTTP/1.1 103 ") && hints.contains("link: </a>"), "{hints}");
    client.send("hi").await;
    assert_eq!(client.response().await.body, "done");
}

#[tokio::test]
async fn responses_without_a_body_keep_the_connection() {
    let app = Application::http(|asked| {
        let path = asked.head.split(' ').nth(1).unwrap_or_default();
        match path {
            "/head" => "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n".into(),
            "/204" => "HTTP/1.1 204 No Content\r\n\r\n".into(),
            "/304" => "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n".into(),
            _ => ok("body"),
        }
    })
    .await;
    let pair = Pair::start("http", app.address).await;
    let mut client = pair.bound().await;
    for (method, path, status) in [("HEAD", "/head", "200"), ("GET", "/204", "204"), ("GET", "/304", "304")] {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: app\r\n\r\n")).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert_eq!(head.contains("content-length: 10"), method == "HEAD", "{head}");
    }
    assert_eq!(client.get("app", "/").await.body, "body");
}

#[tokio::test]
async fn http_1_0_clients_get_no_chunked_response() {
    let app = Application::raw(|mut connection| async move {
        while connection.request().await.is_some() {
            let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
            if connection.send(chunks).await.is_err() {
                return;
            }
        }
    })
    .await;
    let pair = Pair::start("http", app.address).await;
    let mut client = pair.bound().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    let answer = String::from_utf8(client.rest().await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && !head.to_lowercase().contains("chunked"), "{head}");
    assert_eq!(body, "body", "the end of the connection ends it");
}

#[tokio::test]
async fn trailers_go_both_ways() {
    let app = Application::raw(|mut connection| async move {
        while let Some(asked) = connection.request().await {
            let seen = String::from_utf8_lossy(&asked.body).contains("x-sum: 1");
            let answer = format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-seen\r\n\r\n2\r\nok\r\n0\r\nx-seen: {seen}\r\n\r\n"
            );
            if connection.send(answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    let pair = Pair::start("http", app.address).await;
    let mut client = pair.bound().await;
    client
        .send("POST / HTTP/1.1\r\nHost: app\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n")
        .await;
    let answer = client.response().await;
    assert!(answer.body.contains("x-seen: true"), "{answer:?}");
}

#[tokio::test]
async fn a_slow_reader_slows_the_sender_and_buffers_stay_bounded() {
    // Sends until the connection ends or flow control blocks it.
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let app = Application::raw(move |mut connection| {
        let count = Arc::clone(&count);
        async move {
            if connection.request().await.is_none() {
                return;
            }
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";
            connection.send(head).await.unwrap();
            let piece = [0; 64 * 1024];
            while let Ok(written) = connection.stream.write(&piece).await {
                count.fetch_add(written, Ordering::SeqCst);
            }
        }
    })
    .await;
    let pair = Pair::start("http", app.address).await;
    let mut client = pair.bound().await;
    client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    client.head().await;
    // The sender blocks in the end: HTTP/2 windows and the kernel's buffers bound the bytes in transit.
    let mut before = 0;
    let (mut still, mut stopped) = (0, 0);
    eventually("a sender that waits", async || {
        let now = sent.load(Ordering::SeqCst);
        still = if now == before { still + 1 } else { 0 };
        (before, stopped) = (now, now);
        (still > 50).then_some(())
    })
    .await;
    assert!(stopped < 64 << 20, "{stopped} bytes are on the way to a client that reads nothing");
    let more = 32 << 20;
    for _ in 0..more / (64 * 1024) {
        client.bytes(64 * 1024).await;
    }
    assert!(sent.load(Ordering::SeqCst) >= more, "and goes on when it reads");
}

#[tokio::test]
async fn opaque_bytes_go_both_ways_with_half_close() {
    let app = Application::repeater().await;
    let pair = Pair::start("tcp", app.address).await;
    let mut client = pair.bound().await;
    client.send("first ").await;
    assert_eq!(client.bytes(6).await, b"first ");
    client.send("second").await;
    client.finish().await;
    assert_eq!(client.rest().await, b"second");
}

#[tokio::test]
async fn an_undeclared_protocol_is_detected_by_its_first_bytes() {
    let mesh = Mesh::start(&[service("web", 80, ""), service("redis", 6379, "")].concat()).await;
    let (echo, repeater) = (Application::echo("web").await, Application::repeater().await);
    let apps = mesh.sidecar("apps").serves("web", echo.address).serves("redis:6379", repeater.address);
    let apps = apps.start().await;
    let client = mesh.sidecar("client").binds("web:80").start().await;
    let cli = mesh.sidecar("cli").binds("redis:6379").start().await;
    let answer = Client::connect(client.bound()).await.get("web", "/").await;
    assert!(answer.by() == (200, "web") && answer.body.contains("traceparent"), "as HTTP: {}", answer.body);
    let mut client = Client::connect(cli.bound()).await;
    client.send("*1\r\n$4\r\nPING\r\n").await;
    client.finish().await;
    assert_eq!(client.rest().await, b"*1\r\n$4\r\nPING\r\n");
    drop(apps);
}

#[tokio::test]
async fn a_server_that_sends_first_reaches_the_client() {
    let app = Application::raw(|mut connection| async move {
        let _ = connection.send(b"220 hello\r\n").await;
        let mut line = [0; 6];
        if connection.stream.read_exact(&mut line).await.is_ok() {
            let _ = connection.send(b"221 bye\r\n").await;
        }
    })
    .await;
    let pair = Pair::start("", app.address).await;
    for _ in 0..2 {
        let mut client = pair.bound().await;
        assert_eq!(client.bytes(11).await, b"220 hello\r\n");
        client.send("QUIT\r\n").await;
        assert_eq!(client.rest().await, b"221 bye\r\n");
    }
}

#[tokio::test]
async fn connect_opens_a_tunnel_to_the_destination_that_it_names() {
    let app = Application::repeater().await;
    let pair = Pair::start("tcp", app.address).await;
    let mut client = pair.web.client().await;
    client.send("CONNECT app.shop:80 HTTP/1.1\r\nHost: app.shop:80\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    client.send("bytes").await;
    client.finish().await;
    assert_eq!(client.rest().await, b"bytes");
    let mut client = pair.web.client().await;
    client.send("CONNECT nobody:80 HTTP/1.1\r\nHost: nobody:80\r\n\r\n").await;
    assert_eq!(client.response().await.status, 502);
}

#[tokio::test]
async fn a_service_is_reached_by_each_of_its_names_and_by_its_bound_port() {
    let app = Application::echo("app").await;
    let pair = Pair::start("http", app.address).await;
    let mut client = pair.web.client().await;
    for host in [
        "app",
        "app:80",
        "APP",
        "app.shop",
        "app.shop.svc",
        "app.shop.svc.cluster.local",
        "app.shop.svc.cluster.local.",
    ] {
        assert_eq!(client.get(host, "/").await.by(), (200, "app"), "{host}");
    }
    // As clients with `http_proxy` send it, in absolute form (RFC 9112 section 3.2.2).
    let answer = client.get("app.shop", "http://app.shop/page").await;
    assert!(answer.body.starts_with("GET /page HTTP/1.1\r\n"), "{answer:?}");
    assert_eq!(pair.bound().await.get("whatever", "/").await.by(), (200, "app"));
    let unknown = client.get("nobody", "/").await;
    assert_eq!((unknown.status, unknown.reason()), (502, "no_destination"));
    let status = pair.mesh.status().await;
    assert!(status.refusals.is_empty(), "{:?}", status.refusals);
    drop(pair.app);
}

#[tokio::test]
async fn in_wildcard_mode_every_service_is_known_before_it_is_used() {
    let mesh = Mesh::start(&[service("a", 80, "http"), service("b", 80, "http")].concat()).await;
    let (a, b) = (Application::echo("a").await, Application::echo("b").await);
    let apps = mesh.sidecar("apps").serves("a", a.address).serves("b", b.address).start().await;
    let mut all = mesh.sidecar("all").flag("--mode", "wildcard").start().await;
    eventually("both services", async || {
        let known = all.page("/config_dump").await?;
        ["a", "b"]
            .iter()
            .all(|name| known.contains(&format!("{name}.shop.svc.cluster.local:80")))
            .then_some(())
    })
    .await;
    assert_eq!(all.get("a", "/").await.by(), (200, "a"));
    assert_eq!(all.get("b.shop", "/").await.by(), (200, "b"));
    all.stop().await;
    drop(apps);
}

#[tokio::test]
async fn http_2_clients_reach_http_1_applications() {
    let app = Application::echo("app").await;
    let pair = Pair::start("http", app.address).await;
    let client = GrpcClient::connect(pair.web.outbound()).await;
    let (head, body, _) = client.unary("app.shop", "/page", &[]).await;
    assert_eq!((head.status().as_u16(), &head.headers()["x-app"]), (200, &"app".parse().unwrap()));
    assert!(body.starts_with(b"POST /page HTTP/1.1\r\n"), "{body:?}");
}
