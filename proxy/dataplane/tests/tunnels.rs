//! Exchanges other than request and response: interim responses, upgrades, CONNECT, TCP, and connections of unknown protocol.

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
use outrigger_test_support::application::{Application, closed_port};
use outrigger_test_support::client::Client;
use support::{World, forward, manager, to};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel() {
    let application = Application::raw(|mut connection| async move {
        let head = connection.head().await.unwrap().to_lowercase();
        assert!(
            head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"),
            "{head}"
        );
        let switch =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello";
        connection.send(switch).await.unwrap();
        let mut word = [0; 4];
        connection.stream.read_exact(&mut word).await.unwrap();
        connection.send(&word).await.unwrap();
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
async fn an_upgrade_that_is_not_configured_is_not_offered_to_the_application() {
    let echo = Application::echo("app").await;
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
        let answer = client.request("GET", "app", "/", &fields).await;
        let upgrade = answer.body.lines().find_map(|line| line.strip_prefix("upgrade: "));
        assert_eq!((answer.status, upgrade), (200, offered), "{protocol}: {answer:?}");
        assert_eq!(answer.body.contains("connection: upgrade"), offered.is_some(), "{protocol}");
        assert_eq!(client.get("app", "/").await.status, 200, "the connection stays");
    }
}

#[tokio::test]
async fn an_upgrade_that_the_application_does_not_take_costs_no_connection() {
    let echo = Application::echo("app").await;
    let proxy = World::new().proxy().cluster("app", &[echo.address]).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    for protocol in ["TLS/1.2", "websocket", "other"] {
        for _ in 0..10 {
            let fields = format!("Connection: upgrade\r\nUpgrade: {protocol}\r\n");
            assert_eq!(client.request("GET", "app", "/", &fields).await.status, 200);
        }
    }
    assert_eq!((echo.requests(), echo.connections()), (30, 1));
}

#[tokio::test]
async fn connect_reaches_an_opaque_destination() {
    let repeater = Application::repeater().await;
    let proxy = World::new().proxy().cluster("stock", &[repeater.address]).tcp("stock:9000", "stock").start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("CONNECT stock:9000 HTTP/1.1\r\nHost: stock:9000\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    client.send("bytes").await;
    client.finish().await;
    assert_eq!(client.rest().await, b"bytes");
}

#[tokio::test]
async fn connect_to_an_http_destination_is_served_as_http() {
    let echo = Application::echo("app").await;
    let proxy =
        World::new().proxy().cluster("echo", &[echo.address]).http("echo:80", forward("echo")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("CONNECT echo:80 HTTP/1.1\r\nHost: echo:80\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    assert!(client.get("echo", "/through").await.body.starts_with("GET /through "));
}

#[tokio::test]
async fn opaque_bytes_go_both_ways_with_half_close() {
    let repeater = Application::repeater().await;
    let mut proxy = World::new()
        .listen(DestinationBy::Name("stock:9000".into()), UnknownDestination::Refuse)
        .cluster("stock", &[closed_port().await, repeater.address])
        .tcp("stock:9000", "stock")
        .start();
    for _ in 0..5 {
        let mut client = Client::connect(proxy.address(0)).await;
        client.send("bytes").await;
        client.finish().await;
        assert_eq!(client.rest().await, b"bytes");
        let record = proxy.record().await;
        assert_eq!((record.protocol, record.bytes_received, record.bytes_sent), (Protocol::Tcp, 5, 5));
        assert_eq!(record.reason, None);
    }
}

#[tokio::test]
async fn an_abort_is_not_mistaken_for_an_end() {
    let (heard, mut hears) = tokio::sync::mpsc::channel(8);
    let application = Application::raw(move |mut connection| {
        let heard = heard.clone();
        async move {
            let mut all = Vec::new();
            let ended = connection.stream.read_to_end(&mut all).await.map_err(|error| error.kind());
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
async fn an_early_response_of_a_server_is_passed_on() {
    let application = Application::raw(|mut connection| async move {
        let mut some = [0; 1000];
        connection.stream.read_exact(&mut some).await.unwrap();
        connection.send("enough").await.unwrap();
        // No more is accepted, and the bytes already sent arrive.
        let mut rest = Vec::new();
        let _ =
            tokio::time::timeout(Duration::from_millis(300), connection.stream.read_to_end(&mut rest)).await;
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
