//! What is not request and response: interim answers, upgrades, CONNECT, TCP, and connections of unknown protocol.

mod support;

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::listener::{DestinationBy, Handler, UnknownDestination};
use outrigger_config::route::{Forward, RouteAction};
use outrigger_core::reason::Reason;
use outrigger_core::record::Protocol;
use outrigger_policy::upgrade::Upgrades;
use outrigger_proto::xds::protobuf::BoolValue;
use outrigger_proto::xds::route::route_action;
use support::application::{Application, ok, read_head, read_request};
use support::client::Client;
use support::{World, forward, manager, tcp_proxy, to};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

/// Repeats what it reads, until the end.
async fn repeater() -> Application {
    Application::raw(|mut stream, _, _| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// Speaks first.
async fn greeter() -> Application {
    Application::raw(|mut stream, _, _| async move {
        let _ = stream.write_all(b"220 hello\r\n").await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await
}

fn either(name: &str, cluster: &str) -> Handler {
    Handler::Detect {
        http: manager(name, forward(cluster)),
        tcp: tcp_proxy(name, cluster),
        within: Duration::from_secs(5),
    }
}

#[tokio::test]
async fn interim_answers_are_relayed() {
    let application = Application::raw(|stream, _, _| async move {
        let mut stream = BufReader::new(stream);
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.contains("expect: 100-continue"));
        stream
            .get_mut()
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
            .await
            .unwrap();
        let mut body = [0; 2];
        stream.read_exact(&mut body).await.unwrap();
        stream.get_mut().write_all(ok("done").as_bytes()).await.unwrap();
    })
    .await;
    let proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    let hints = client.head().await;
    assert!(hints.starts_with("HTTP/1.1 103 ") && hints.contains("link: </a>"), "{hints}");
    client.send("hi").await;
    assert_eq!(client.response().await.body, "done");
}

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel() {
    let application = Application::raw(|stream, _, _| async move {
        let mut stream = BufReader::new(stream);
        let head = read_head(&mut stream).await.unwrap().to_lowercase();
        assert!(
            head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"),
            "{head}"
        );
        let switch =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        stream.get_mut().write_all(switch.as_bytes()).await.unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        stream.get_mut().write_all(&word).await.unwrap();
    })
    .await;
    let mut proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    client
        .send("GET /chat HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nping")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: websocket"), "{head}");
    assert_eq!(client.rest().await, b"helloping");
    drop(client);
    let record = proxy.record().await;
    assert_eq!((record.status, record.bytes_received, record.bytes_sent), (101, 4, 9));
}

#[tokio::test]
async fn an_upgrade_that_nobody_lists_is_not_offered_to_the_application() {
    let echo = Application::echo().await;
    let listed = |listed: &[(&str, bool)]| {
        let wire = listed.iter().map(|(name, enabled)| route_action::UpgradeConfig {
            upgrade_type: (*name).into(),
            enabled: Some(BoolValue { value: *enabled }),
            connect_config: None,
        });
        Upgrades::of_route(wire.collect()).unwrap()
    };
    for (of_listener, of_route, protocol, offered) in [
        (listed(&[("websocket", true)]), listed(&[]), "WebSocket", Some("WebSocket")),
        (listed(&[("websocket", true)]), listed(&[]), "other", None),
        (listed(&[("websocket", true)]), listed(&[]), "other, websocket", Some("websocket")),
        (listed(&[]), listed(&[]), "websocket", None),
        (listed(&[]), listed(&[("websocket", true)]), "websocket", Some("websocket")),
        (Upgrades::any(), listed(&[("websocket", false)]), "websocket", None),
        (Upgrades::any(), listed(&[]), "TLS/1.2", None),
        (Upgrades::any(), listed(&[]), "TLS/1.2, SPDY/3.1, h2c", Some("SPDY/3.1")),
    ] {
        let action = RouteAction::Forward(Box::new(Forward { upgrades: of_route, ..to("app") }));
        let mut manager = (*manager("app:80", action)).clone();
        manager.upgrades = of_listener;
        let proxy = World::new()
            .proxy()
            .cluster("app", &[echo.address])
            .destination("app:80", Handler::Http(Arc::new(manager)))
            .start();
        let mut client = Client::connect(proxy.address(0)).await;
        let fields = format!("Connection: upgrade\r\nUpgrade: {protocol}\r\n");
        let answer = client.get("app", "/", &fields).await;
        let upgrade = answer.body.lines().find_map(|line| line.strip_prefix("upgrade: "));
        assert_eq!((answer.status, upgrade), (200, offered), "{protocol}: {answer:?}");
        assert_eq!(answer.body.contains("connection: upgrade"), offered.is_some(), "{protocol}");
        assert_eq!(client.get("app", "/", "").await.status, 200, "the connection stays");
    }
}

#[tokio::test]
async fn an_upgrade_that_the_application_does_not_take_costs_no_connection() {
    let echo = Application::echo().await;
    let proxy = World::new().proxy().cluster("app", &[echo.address]).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    for protocol in ["TLS/1.2", "websocket", "other"] {
        for _ in 0..10 {
            let fields = format!("Connection: upgrade\r\nUpgrade: {protocol}\r\n");
            assert_eq!(client.get("app", "/", &fields).await.status, 200);
        }
    }
    assert_eq!((echo.requests(), echo.connections()), (30, 1));
}

#[tokio::test]
async fn connect_reaches_an_opaque_destination() {
    let repeater = repeater().await;
    let proxy = World::new().proxy().cluster("stock", &[repeater.address]).tcp("stock:9000", "stock").start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("CONNECT stock:9000 HTTP/1.1\r\nHost: stock:9000\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    client.send("bytes").await;
    client.stream.get_mut().shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"bytes");
}

#[tokio::test]
async fn connect_to_an_http_destination_is_served_as_http() {
    let echo = Application::echo().await;
    let proxy =
        World::new().proxy().cluster("echo", &[echo.address]).http("echo:80", forward("echo")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("CONNECT echo:80 HTTP/1.1\r\nHost: echo:80\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    assert!(client.get("echo", "/through", "").await.body.starts_with("GET /through "));
}

#[tokio::test]
async fn opaque_bytes_go_both_ways_with_half_close() {
    let repeater = repeater().await;
    let mut proxy = World::new()
        .listen(DestinationBy::Name("stock:9000".into()), UnknownDestination::Refuse)
        .cluster("stock", &[support::application::dead().await, repeater.address])
        .tcp("stock:9000", "stock")
        .start();
    for _ in 0..5 {
        let mut client = Client::connect(proxy.address(0)).await;
        client.send("bytes").await;
        client.stream.get_mut().shutdown().await.unwrap();
        assert_eq!(client.rest().await, b"bytes");
        let record = proxy.record().await;
        assert_eq!((record.protocol, record.bytes_received, record.bytes_sent), (Protocol::Tcp, 5, 5));
        assert_eq!(record.reason, None);
    }
}

#[tokio::test]
async fn who_breaks_off_is_not_taken_for_who_has_finished() {
    let (heard, mut hears) = tokio::sync::mpsc::channel(8);
    let application = Application::raw(move |mut stream, _, _| {
        let heard = heard.clone();
        async move {
            let mut all = Vec::new();
            let ended = stream.read_to_end(&mut all).await.map_err(|error| error.kind());
            heard.send((all, ended.map(drop))).await.unwrap();
        }
    })
    .await;
    let proxy = World::new()
        .listen(DestinationBy::Name("stock:9000".into()), UnknownDestination::Refuse)
        .cluster("stock", &[application.address])
        .tcp("stock:9000", "stock")
        .start();
    for (breaks_off, expected) in [(false, Ok(())), (true, Err(std::io::ErrorKind::ConnectionReset))] {
        let mut client = Client::connect(proxy.address(0)).await;
        client.send("half of it").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        if breaks_off {
            socket2::SockRef::from(client.stream.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(client);
        assert_eq!(hears.recv().await.unwrap(), (b"half of it".to_vec(), expected));
    }
}

#[tokio::test]
async fn a_server_that_answers_before_it_has_heard_everything_is_heard() {
    let application = Application::raw(|mut stream, _, _| async move {
        let mut some = [0; 1000];
        stream.read_exact(&mut some).await.unwrap();
        stream.write_all(b"enough").await.unwrap();
        // Nothing more is taken, and what was sent arrives.
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_millis(300), stream.read_to_end(&mut rest)).await;
    })
    .await;
    let mut proxy = World::new()
        .listen(DestinationBy::Name("stock:9000".into()), UnknownDestination::Refuse)
        .cluster("stock", &[application.address])
        .tcp("stock:9000", "stock")
        .start();
    let client = Client::connect(proxy.address(0)).await;
    let (mut reads, mut writes) = client.stream.into_inner().into_split();
    let writing = tokio::spawn(async move { while writes.write_all(&[b'x'; 1000]).await.is_ok() {} });
    let mut answer = [0; 6];
    reads.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"enough");
    writing.await.unwrap();
    assert_eq!(proxy.record().await.reason, Some(Reason::UpstreamConnectionTermination));
}

#[tokio::test]
async fn an_unknown_protocol_is_known_by_its_first_bytes() {
    let echo = Application::echo().await;
    let repeater = repeater().await;
    let proxy = World::new()
        .listen(DestinationBy::Name("echo:80".into()), UnknownDestination::Refuse)
        .listen(DestinationBy::Name("stock:9000".into()), UnknownDestination::Refuse)
        .cluster("echo", &[echo.address])
        .cluster("stock", &[repeater.address])
        .destination("echo:80", either("echo:80", "echo"))
        .destination("stock:9000", either("stock:9000", "stock"))
        .start();
    let answer = Client::connect(proxy.address(0)).await.get("echo", "/found", "").await;
    assert!(answer.body.contains("traceparent"), "it went through as HTTP: {}", answer.body);
    let mut client = Client::connect(proxy.address(1)).await;
    client.send("*1\r\n$4\r\nPING\r\n").await;
    client.stream.get_mut().shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"*1\r\n$4\r\nPING\r\n");
}

#[tokio::test]
async fn what_is_nearly_http_is_refused_and_other_text_passes_on_a_port_of_unknown_protocol() {
    let repeater = repeater().await;
    let mut proxy = World::new()
        .listen(DestinationBy::Name("stock:9000".into()), UnknownDestination::Refuse)
        .cluster("stock", &[repeater.address])
        .destination("stock:9000", either("stock:9000", "stock"))
        .start();
    for bytes in ["GET / HTTP/9.9\r\n", "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", " GET / HTTP/1.1\r\n\r\n"] {
        let mut client = Client::connect(proxy.address(0)).await;
        client.send(bytes).await;
        let text = String::from_utf8(client.rest().await).unwrap();
        assert!(text.starts_with("HTTP/1.1 400 "), "{bytes:?}: {text}");
        assert_eq!(proxy.record().await.reason, Some(Reason::DownstreamProtocolError));
    }
    for bytes in ["GET k\r\n", "CONNECT {}\r\n", "OPTIONS sip:a SIP/2.0\r\n", "EHLO mail\r\n"] {
        let mut client = Client::connect(proxy.address(0)).await;
        client.send(bytes).await;
        let mut echoed = vec![0; bytes.len()];
        client.stream.read_exact(&mut echoed).await.unwrap();
        assert_eq!(echoed, bytes.as_bytes());
        drop(client);
        assert_eq!(proxy.record().await.protocol, Protocol::Tcp);
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_and_closes_its_side_hears_the_server() {
    let application = Application::raw(|mut stream, _, _| async move {
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        stream.write_all(format!("{} bytes", said.len()).as_bytes()).await.unwrap();
    })
    .await;
    let proxy = World::new()
        .listen(DestinationBy::Name("stock:9000".into()), UnknownDestination::Refuse)
        .cluster("stock", &[application.address])
        .destination("stock:9000", either("stock:9000", "stock"))
        .start();
    for pause in [0, 300] {
        let mut client = Client::connect(proxy.address(0)).await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        client.stream.get_mut().shutdown().await.unwrap();
        assert_eq!(client.rest().await, b"0 bytes");
    }
    let probes = application.connections();
    drop(Client::connect(proxy.address(0)).await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(application.connections(), probes, "a probe of the port asks nobody");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_and_remembered() {
    let greeter = greeter().await;
    let proxy = World::new()
        .listen(DestinationBy::Name("mail:25".into()), UnknownDestination::Refuse)
        .cluster("mail", &[greeter.address])
        .destination("mail:25", either("mail:25", "mail"))
        .start();
    let mut waits = Vec::new();
    for _ in 0..2 {
        let began = tokio::time::Instant::now();
        let mut client = Client::connect(proxy.address(0)).await;
        let mut greeting = [0; 11];
        client.stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 hello\r\n");
        waits.push(began.elapsed());
    }
    assert!(waits[0] >= Duration::from_millis(90) && waits[1] < Duration::from_millis(90), "{waits:?}");
}

#[tokio::test]
async fn a_silent_client_of_http_is_still_served_as_http() {
    let echo = Application::http(|asked| ok(&asked.head)).await;
    let proxy = World::new()
        .listen(DestinationBy::Name("echo:80".into()), UnknownDestination::Refuse)
        .cluster("echo", &[echo.address])
        .destination("echo:80", either("echo:80", "echo"))
        .start();
    let mut client = Client::connect(proxy.address(0)).await;
    while echo.connections() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(client.get("echo", "/late", "").await.body.contains("traceparent"));
}

#[tokio::test]
async fn a_request_body_and_its_answer_flow_at_the_same_time() {
    let application = Application::raw(|stream, _, _| async move {
        let mut stream = BufReader::new(stream);
        read_head(&mut stream).await.unwrap();
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        for _ in 0..3 {
            let mut chunk = [0; 6];
            stream.read_exact(&mut chunk).await.unwrap();
            stream.get_mut().write_all(&chunk).await.unwrap();
        }
        stream.get_mut().write_all(b"0\r\n\r\n").await.unwrap();
    })
    .await;
    let proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("POST / HTTP/1.1\r\nHost: app\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send("1\r\na\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    for letter in ["a", "b", "c"] {
        let mut chunk = [0; 6];
        client.stream.read_exact(&mut chunk).await.unwrap();
        assert_eq!(chunk, *format!("1\r\n{letter}\r\n").as_bytes());
        let next = if letter == "a" { "b" } else { "c" };
        if letter != "c" {
            client.send(format!("1\r\n{next}\r\n")).await;
        }
    }
    client.send("0\r\n\r\n").await;
    let _ = Arc::new(());
}

#[tokio::test]
async fn head_and_204_have_no_body_and_the_connection_stays() {
    let application = Application::raw(|stream, _, _| async move {
        let mut stream = BufReader::new(stream);
        while let Some(asked) = read_request(&mut stream).await {
            let answer: &[u8] = if asked.head.starts_with("HEAD") {
                b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"
            } else {
                b"HTTP/1.1 204 No Content\r\n\r\n"
            };
            stream.get_mut().write_all(answer).await.unwrap();
        }
    })
    .await;
    let proxy =
        World::new().proxy().cluster("app", &[application.address]).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("HEAD / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    assert!(client.head().await.contains("content-length: 10"));
    client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 204 ") && !head.contains("content-length"), "{head}");
    assert_eq!(application.connections(), 1);
}
