//! Tunnels over HTTP/2: CONNECT (RFC 9113 section 8.5) and WebSockets (RFC 8441), each on one stream beside others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode};
use outrigger_config::cluster::{Cluster, UpstreamProtocol};
use outrigger_core::record::Protocol as Recorded;
use outrigger_test_support::application::{Application, closed_port};
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::{ok, status};
use outrigger_test_support::http2;
use support::{Proxy, World, cluster, endpoint, forward};
use tokio::io::AsyncReadExt;

/// An HTTP/2 client of the proxy port that has received the proxy's SETTINGS.
async fn client(proxy: &Proxy) -> SendRequest<Bytes> {
    let mut send = http2::connect(proxy.address(0)).await;
    while !send.is_extended_connect_protocol_enabled() {
        // The proxy's SETTINGS arrive with its first response at the latest.
        let request = Request::get("http://app/").body(()).unwrap();
        let _ = send.send_request(request, true).unwrap().0.await;
        send = send.ready().await.unwrap();
    }
    send
}

fn connect(to: &'static str) -> Request<()> {
    Request::builder().method(Method::CONNECT).uri(to).body(()).unwrap()
}

async fn ask(
    send: &mut SendRequest<Bytes>,
    request: Request<()>,
) -> (Response<RecvStream>, SendStream<Bytes>) {
    let (response, stream) = send.send_request(request, false).unwrap();
    (response.await.unwrap(), stream)
}

/// Reads everything until the end of the stream.
async fn all(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    Ok(all)
}

async fn send_all(stream: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        let piece = bytes.split_to(room.min(bytes.len()));
        stream.send_data(piece, end && bytes.is_empty()).unwrap();
    }
}

#[tokio::test]
async fn a_connect_is_a_connection_to_an_opaque_destination() {
    let (repeater, echo) = (Application::repeater().await, Application::echo("app").await);
    let mut proxy = World::new()
        .proxy()
        .cluster("stock", &[repeater.address])
        .tcp("stock:9000", "stock")
        .cluster("app", &[echo.address])
        .http("app:80", forward("app"))
        .start();
    let mut send = client(&proxy).await;
    let asked = proxy.totals().responses.values().sum::<u64>();
    let (response, mut up) = ask(&mut send, connect("stock:9000")).await;
    assert_eq!(response.status(), StatusCode::OK);
    // More than any window holds, followed by a half-close.
    let bytes = Bytes::from(vec![b'x'; 3 << 20]);
    let mut down = response.into_body();
    let (_, came) = tokio::join!(send_all(&mut up, bytes.clone(), true), all(&mut down));
    assert!(came.unwrap() == bytes);
    // Requests continue beside it.
    let request = Request::get("http://app/beside").body(()).unwrap();
    assert_eq!(send.send_request(request, true).unwrap().0.await.unwrap().status(), 200);
    for _ in 0..asked {
        proxy.record().await;
    }
    let record = proxy.record().await;
    assert_eq!(
        (record.protocol, record.bytes_received, record.bytes_sent),
        (Recorded::Tcp, 3 << 20, 3 << 20)
    );
}

#[tokio::test]
async fn a_connect_to_an_http_destination_is_served_as_http() {
    let echo = Application::echo("app").await;
    let proxy = World::new().proxy().cluster("app", &[echo.address]).http("app:80", forward("app")).start();
    let mut send = client(&proxy).await;
    let (response, mut up) = ask(&mut send, connect("app:80")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let request = "GET /through HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";
    send_all(&mut up, Bytes::from_static(request.as_bytes()), false).await;
    let answer = String::from_utf8(all(&mut response.into_body()).await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("GET /through "), "{answer}");
}

#[tokio::test]
async fn a_connect_that_leads_nowhere_says_so() {
    let echo = Application::echo("app").await;
    let proxy = World::new()
        .proxy()
        .cluster("app", &[echo.address])
        .http("app:80", forward("app"))
        .cluster("stock", &[closed_port().await])
        .tcp("stock:9000", "stock")
        .start();
    let mut send = client(&proxy).await;
    for (to, status) in [("stock:9000", 503), ("nowhere:80", 502)] {
        assert_eq!(ask(&mut send, connect(to)).await.0.status(), status, "{to}");
    }
}

#[tokio::test]
async fn a_side_that_aborts_is_reported_to_the_other() {
    let application = Application::raw(|mut connection| async move {
        let mut some = [0; 4];
        connection.stream.read_exact(&mut some).await.unwrap();
        if &some == b"kill" {
            socket2::SockRef::from(connection.stream.get_ref())
                .set_linger(Some(std::time::Duration::ZERO))
                .unwrap();
            return;
        }
        let mut rest = Vec::new();
        assert!(connection.stream.read_to_end(&mut rest).await.is_err());
        connection.count_request();
    })
    .await;
    let echo = Application::echo("app").await;
    let proxy = World::new()
        .proxy()
        .cluster("app", &[echo.address])
        .http("app:80", forward("app"))
        .cluster("stock", &[application.address])
        .tcp("stock:9000", "stock")
        .start();
    let mut send = client(&proxy).await;
    let (response, mut up) = ask(&mut send, connect("stock:9000")).await;
    send_all(&mut up, Bytes::from_static(b"kill"), false).await;
    let error = all(&mut response.into_body()).await.unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::CONNECT_ERROR));

    let (_response, mut up) = ask(&mut send, connect("stock:9000")).await;
    send_all(&mut up, Bytes::from_static(b"stay"), false).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    up.send_reset(h2::Reason::CANCEL);
    while application.requests() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

fn websocket(path: &str, protocol: &'static str) -> Request<()> {
    Request::builder()
        .method(Method::CONNECT)
        .uri(format!("http://app{path}"))
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .body(())
        .unwrap()
}

#[tokio::test]
async fn a_websocket_over_http2_is_one_for_the_application_too() {
    let application = Application::raw(|mut connection| async move {
        while let Some(head) = connection.head().await {
            let head = head.to_lowercase();
            if !head.contains("upgrade: websocket\r\n") {
                connection.send(status(404)).await.unwrap();
                continue;
            }
            assert!(
                head.starts_with("get /chat http/1.1\r\n") && head.contains("\r\nhost: app\r\n"),
                "{head}"
            );
            assert!(head.contains("\r\nsec-websocket-key: ") && head.contains("==\r\n"), "{head}");
            let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                          Sec-WebSocket-Accept: proof\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello";
            connection.send(switch).await.unwrap();
            let mut word = [0; 4];
            connection.stream.read_exact(&mut word).await.unwrap();
            connection.send(&word).await.unwrap();
            return;
        }
    })
    .await;
    let proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut send = client(&proxy).await;
    let (response, mut up) = ask(&mut send, websocket("/chat", "websocket")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let headers = response.headers();
    assert!(!headers.contains_key("sec-websocket-accept") && !headers.contains_key("upgrade"), "{headers:?}");
    assert_eq!(headers["sec-websocket-protocol"], "chat");
    send_all(&mut up, Bytes::from_static(b"ping"), true).await;
    assert_eq!(all(&mut response.into_body()).await.unwrap(), b"helloping");

    let (response, _up) = ask(&mut send, websocket("/chat", "connect-udp")).await;
    assert_eq!(
        (response.status(), &response.headers()["x-outrigger-reason"]),
        (StatusCode::FORBIDDEN, &"upgrade_refused".parse().unwrap())
    );
}

#[tokio::test]
async fn an_answer_that_opens_no_tunnel_does_not_pass_for_one() {
    let application = Application::http(|asked| {
        if asked.head.to_lowercase().contains("upgrade: websocket") { ok("no tunnel") } else { ok("") }
    })
    .await;
    let proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut send = client(&proxy).await;
    for kind in ["text/plain", "application/grpc"] {
        let mut request = websocket("/chat", "websocket");
        request.headers_mut().insert("content-type", kind.parse().unwrap());
        let (response, _up) = ask(&mut send, request).await;
        assert_eq!(
            (response.status(), &response.headers()["x-outrigger-reason"]),
            (StatusCode::FORBIDDEN, &"upgrade_refused".parse().unwrap()),
            "{kind}"
        );
    }
}

/// An application that speaks HTTP/2 and echoes what it receives through a WebSocket, if it accepts any.
async fn speaks_http2(takes_websockets: bool) -> Application {
    let mut builder = h2::server::Builder::new();
    if takes_websockets {
        builder.enable_connect_protocol();
    }
    Application::http2_with(builder, |request, mut respond| async move {
        let (head, mut body) = request.into_parts();
        if head.extensions.get::<Protocol>().is_none() {
            respond.send_response(Response::new(()), true).unwrap();
            return;
        }
        assert_eq!((head.method, head.uri.path()), (Method::CONNECT, "/chat"));
        assert!(!head.headers.contains_key("sec-websocket-key"), "{:?}", head.headers);
        assert_eq!(head.headers["sec-websocket-version"], "13");
        let mut back = respond.send_response(Response::new(()), false).unwrap();
        while let Some(Ok(data)) = body.data().await {
            send_all(&mut back, data, false).await;
        }
        back.send_data(Bytes::new(), true).unwrap();
    })
    .await
}

#[tokio::test]
async fn a_websocket_of_http1_reaches_an_application_of_http2() {
    for takes_websockets in [true, false] {
        let application = speaks_http2(takes_websockets).await;
        let endpoints = [endpoint(application.address)];
        let cluster = Cluster { protocol: UpstreamProtocol::Http2, ..cluster("app", endpoints) };
        let mut proxy = World::new().proxy().cluster_of(cluster).http("app:80", forward("app")).start();
        let mut client = Client::connect(proxy.address(0)).await;
        let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        client.send(format!("GET /chat HTTP/1.1\r\nHost: app\r\n{fields}\r\n")).await;
        let head = client.head().await.to_lowercase();
        if takes_websockets {
            assert!(
                head.starts_with("http/1.1 101 ") && head.contains("\r\nupgrade: websocket\r\n"),
                "{head}"
            );
            assert!(head.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
            client.send("hello").await;
            let mut said = [0; 5];
            client.stream.read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"hello");
            continue;
        }
        assert!(head.starts_with("http/1.1 403 "), "{head}");
        let record = proxy.record().await;
        assert_eq!(record.reason, Some(outrigger_core::reason::Reason::UpgradeRefused));
        assert!(record.text.as_ref().unwrap().detail.contains("extended CONNECT"), "{record:?}");
        assert_eq!(record.attempts.len(), 1, "no attempt follows");
    }
}
