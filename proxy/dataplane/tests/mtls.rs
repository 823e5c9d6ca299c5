//! Two sidecars with mutual TLS between them.

#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outrigger_config::cluster::{Cluster, UpstreamProtocol};
use outrigger_config::endpoint::{Endpoint, Transport};
use outrigger_config::listener::{
    ChainMatcher, DestinationBy, FilterChain, Handler, Listener, NetworkFilter, UnknownDestination,
};
use outrigger_config::tls::{ClientCertificate, DownstreamTls, UpstreamTls};
use outrigger_core::reason::Reason;
use outrigger_core::record::{Direction, Protocol};
use support::application::{Application, dead, ok, read_head};
use support::client::Client;
use support::identity::{Authority, spiffe};
use support::{Proxy, World, cluster, endpoint, forward, manager, tcp_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// The inbound listener of a sidecar in front of `app`.
fn inbound() -> Listener {
    let chain = |name: &str, alpn: &[&str], filter| FilterChain {
        name: name.into(),
        matcher: ChainMatcher {
            application_protocols: alpn.iter().map(|name| (*name).into()).collect(),
            ..Default::default()
        },
        tls: Some(Arc::new(DownstreamTls {
            alpn: alpn.iter().map(|name| (*name).into()).collect(),
            client_certificate: ClientCertificate::Required,
            peers: None,
            tickets: true,
        })),
        handshake_timeout: None,
        filter: NetworkFilter::Handle(filter),
    };
    let mut listener =
        support::listener("inbound", NetworkFilter::Handle(Handler::Tcp(tcp_proxy("app", "app"))));
    listener.direction = Direction::Inbound;
    listener.default_chain = None;
    listener.chains = Box::new([
        chain("http", &["h2", "http/1.1"], Handler::Http(manager("app:80", forward("app")))),
        chain("tcp", &["outrigger-tcp"], Handler::Tcp(tcp_proxy("app:80", "app"))),
    ]);
    listener
}

/// A sidecar whose application is at `application`.
fn server(authority: &Authority, account: &str, application: SocketAddr) -> Proxy {
    let world = World::new().own(inbound()).cluster("app", &[application]);
    world.secrets.publish(authority.secrets(account));
    world.start()
}

fn over_tls(address: SocketAddr, accounts: &[&str]) -> Endpoint {
    let tls = UpstreamTls {
        alpn: ["h2", "http/1.1", "outrigger-tcp"].map(Into::into).into(),
        sni: Some("app.shop.svc.cluster.local".into()),
        peers: accounts.iter().map(|account| spiffe(account)).collect(),
    };
    Endpoint { transport: Transport::Tls(Arc::new(tls)), ..endpoint(address) }
}

/// A sidecar that calls `endpoints`: HTTP on its first port, opaque bytes on its second.
fn client(authority: &Authority, endpoints: Vec<Endpoint>) -> Proxy {
    let world = World::new()
        .proxy()
        .listen(DestinationBy::Name("raw:9000".into()), UnknownDestination::Refuse)
        .cluster_of(cluster("app", endpoints))
        .http("app:80", forward("app"))
        .tcp("raw:9000", "app");
    world.secrets.publish(authority.secrets("web"));
    world.start()
}

#[tokio::test]
async fn both_sides_know_who_is_at_the_other_end() {
    let (authority, echo) = (Authority::new(), Application::echo().await);
    let mut server = server(&authority, "cart", echo.address);
    let mut client = client(&authority, vec![over_tls(server.address(0), &["cart"])]);
    let mut user = Client::connect(client.address(0)).await;
    for _ in 0..3 {
        let answer = user.post("app", "/order", "body").await;
        assert!(answer.status == 200 && answer.body.ends_with("\r\n\r\nbody"), "{answer:?}");
        let (out, inside) = (client.record().await, server.record().await);
        assert_eq!(out.tries[0].peer.as_ref().unwrap(), &spiffe("cart"));
        assert_eq!((inside.source.as_ref().unwrap(), inside.protocol), (&spiffe("web"), Protocol::Http2));
        assert_eq!(out.trace.unwrap().trace, inside.trace.unwrap().trace);
        assert_eq!(out.tries[0].span, inside.trace.unwrap().parent, "the try is the parent of the next hop");
    }
    assert_eq!(client.totals().clusters["app"].tls_ok, 1, "one connection carries all requests");
}

#[tokio::test]
async fn odd_but_legal_targets_and_hosts_cross_both_sidecars() {
    let (authority, echo) = (Authority::new(), Application::echo().await);
    let server = server(&authority, "cart", echo.address);
    let client = client(&authority, vec![over_tls(server.address(0), &["cart"])]);
    let mut user = Client::connect(client.address(0)).await;
    for (asked, seen) in [
        ("OPTIONS * HTTP/1.1\r\nHost: app", "OPTIONS * HTTP/1.1\r\nhost: app\r\n"),
        ("OPTIONS http://app HTTP/1.1\r\nHost: app", "OPTIONS * HTTP/1.1\r\nhost: app\r\n"),
        ("GET /a HTTP/1.1\r\nHost: app:", "GET /a HTTP/1.1\r\nhost: app\r\n"),
        ("GET http://app:/a HTTP/1.1\r\nHost: app:80", "GET /a HTTP/1.1\r\nhost: app\r\n"),
    ] {
        user.send(format!("{asked}\r\n\r\n")).await;
        let answer = user.response().await;
        assert!(answer.status == 200 && answer.body.starts_with(seen), "{asked}: {answer:?}");
    }
}

#[tokio::test]
async fn an_endpoint_of_another_identity_gets_nothing() {
    let (authority, echo) = (Authority::new(), Application::echo().await);
    let server = server(&authority, "impostor", echo.address);
    let mut client = client(&authority, vec![over_tls(server.address(0), &["cart"])]);
    let answer = Client::connect(client.address(0)).await.get("app", "/", "").await;
    assert!(answer.status == 503 && answer.head.contains("upstream_tls_failure"), "{answer:?}");
    assert_eq!(client.record().await.reason, Some(Reason::UpstreamTlsFailure));
    assert_eq!(echo.requests(), 0);
}

#[tokio::test]
async fn a_client_in_the_clear_or_of_another_authority_is_refused() {
    let (authority, echo) = (Authority::new(), Application::echo().await);
    let mut server = server(&authority, "cart", echo.address);
    let mut plain = Client::connect(server.address(0)).await;
    plain.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    let rest = plain.rest().await;
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
    assert_eq!(server.record().await.reason, Some(Reason::DownstreamTlsFailure));
    let stranger = client(&Authority::new(), vec![over_tls(server.address(0), &["cart"])]);
    assert_eq!(Client::connect(stranger.address(0)).await.get("app", "/", "").await.status, 503);
    assert_eq!((echo.requests(), server.totals().process.downstream_tls_ok), (0, 0));
    assert!(server.totals().process.downstream_tls_failed >= 2);
}

#[tokio::test]
async fn a_post_whose_application_cannot_be_reached_goes_elsewhere() {
    let (authority, echo) = (Authority::new(), Application::echo().await);
    let without = server(&authority, "cart", dead().await);
    let with = server(&authority, "cart", echo.address);
    let endpoints = [without.address(0), with.address(0)].map(|address| over_tls(address, &["cart"]));
    let mut client = client(&authority, endpoints.into());
    let mut user = Client::connect(client.address(0)).await;
    let mut refused = 0;
    for _ in 0..20 {
        assert_eq!(user.post("app", "/", "order").await.status, 200);
        refused += client.record().await.tries.len() - 1;
    }
    assert!(refused > 0);
    assert_eq!(echo.requests(), 20);
}

#[tokio::test]
async fn opaque_bytes_and_upgrades_cross_both_sidecars() {
    let authority = Authority::new();
    let application = Application::raw(|stream, _, requests| async move {
        let mut stream = BufReader::new(stream);
        let head = read_head(&mut stream).await.unwrap();
        requests.fetch_add(1, Ordering::SeqCst);
        if head.starts_with("GET") {
            let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
            stream.get_mut().write_all(switch.as_bytes()).await.unwrap();
        }
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        stream.get_mut().write_all(&word).await.unwrap();
    })
    .await;
    let mut server = server(&authority, "cart", application.address);
    let client = client(&authority, vec![over_tls(server.address(0), &["cart"])]);
    let mut user = Client::connect(client.address(0)).await;
    user.send("GET / HTTP/1.1\r\nHost: app\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nping").await;
    assert!(user.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(user.rest().await, b"ping");
    drop(user);
    assert_eq!(server.record().await.status, 101);
    let mut user = Client::connect(client.address(1)).await;
    user.send("\r\npong").await;
    assert_eq!(user.rest().await, b"pong");
    drop(user);
    let record = server.record().await;
    assert_eq!((record.protocol, record.source.as_ref().unwrap()), (Protocol::Tcp, &spiffe("web")));
}

#[tokio::test]
async fn an_upgrade_that_was_not_taken_leaves_the_connection_between_sidecars_to_the_next() {
    let (authority, echo) = (Authority::new(), Application::echo().await);
    let server = server(&authority, "cart", echo.address);
    let client = client(&authority, vec![over_tls(server.address(0), &["cart"])]);
    let mut user = Client::connect(client.address(0)).await;
    for (protocol, connections) in [("TLS/1.2", 1), ("websocket", 2), ("other", 2)] {
        for _ in 0..20 {
            let fields = format!("Connection: Upgrade\r\nUpgrade: {protocol}\r\n");
            assert_eq!(user.get("app", "/", &fields).await.status, 200);
        }
        assert_eq!(client.totals().clusters["app"].tls_ok, connections, "{protocol}");
    }
    assert_eq!((echo.requests(), echo.connections()), (60, 1));
}

/// `count` fields which, counted with 32 bytes each, come to `bytes`.
fn fields(count: usize, bytes: usize) -> String {
    let each = bytes / count;
    let field = |at: usize| {
        let size = if at == 0 { each + bytes % count } else { each };
        let name = format!("x-{at}");
        format!("{name}: {}\r\n", "v".repeat(size - 32 - name.len()))
    };
    (0..count).map(field).collect()
}

#[tokio::test]
async fn the_largest_heads_that_the_entry_takes_pass_both_sidecars_in_both_directions() {
    const BYTES: usize = 60 * 1024;
    let authority = Authority::new();
    let application = Application::http(|asked| {
        // 100 fields, of which `content-length: 2` is one.
        let of_answer = fields(99, BYTES - 47);
        let whole = asked.head.lines().filter(|line| line.ends_with("vvv")).count() == 99;
        format!("HTTP/1.1 200 OK\r\n{of_answer}content-length: 2\r\n\r\n{}", if whole { "ok" } else { "no" })
    })
    .await;
    let server = server(&authority, "cart", application.address);
    let mut client = client(&authority, vec![over_tls(server.address(0), &["cart"])]);
    let mut user = Client::connect(client.address(0)).await;
    // `host: app` costs 39 and is one of the 100.
    let answer = user.get("app", "/", &fields(99, BYTES - 39)).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "{answer:?}");
    assert_eq!(answer.head.lines().filter(|line| line.ends_with("vvv")).count(), 99);
    assert_eq!(client.record().await.reason, None);
    for too_much in [fields(99, BYTES - 38), fields(100, BYTES / 2)] {
        let mut user = Client::connect(client.address(0)).await;
        assert_eq!(user.get("app", "/", &too_much).await.status, 431);
        assert_eq!(client.record().await.reason, Some(Reason::HeadersTooLarge));
    }
}

#[tokio::test]
async fn renewed_certificates_cost_no_request() {
    let (authority, echo) = (Authority::new(), Application::http(|_| ok("ok")).await);
    let server_world = World::new().own(inbound()).cluster("app", &[echo.address]);
    let secrets = server_world.secrets.clone();
    secrets.publish(authority.secrets("cart"));
    let server = server_world.start();
    let client = client(&authority, vec![over_tls(server.address(0), &["cart"])]);
    let mut user = Client::connect(client.address(0)).await;
    for round in 0..30 {
        if round % 3 == 0 {
            secrets.publish(authority.secrets("cart"));
        }
        assert_eq!(user.post("app", "/", "order").await.status, 200);
    }
}

#[tokio::test]
async fn grpc_streams_both_ways_with_trailers() {
    let authority = Authority::new();
    let application = Application::raw(|stream, _, _| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                assert_eq!(request.headers()["content-type"], "application/grpc");
                let mut body = request.into_body();
                let head =
                    http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let mut send = respond.send_response(head, false).unwrap();
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                    send.send_data(data, false).unwrap();
                }
                let trailers = [("grpc-status".parse().unwrap(), "5".parse().unwrap())].into_iter().collect();
                send.send_trailers(trailers).unwrap();
            });
        }
    })
    .await;
    let mut app = cluster("app", [endpoint(application.address)]);
    app.protocol = UpstreamProtocol::Http2;
    let world = World::new().own(inbound()).cluster_of(app);
    world.secrets.publish(authority.secrets("cart"));
    let mut server = world.start();
    let mut client = client(&authority, vec![over_tls(server.address(0), &["cart"])]);

    let stream = TcpStream::connect(client.address(0)).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://app/shop.Cart/Watch")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (response, mut send) = sender.send_request(request, false).unwrap();
    send.send_data("one".into(), false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "one");
    send.send_data("two".into(), true).unwrap();
    assert_eq!(body.data().await.unwrap().unwrap(), "two");
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "5");
    for record in [client.record().await, server.record().await] {
        assert_eq!((record.protocol, record.status, record.grpc_status), (Protocol::Grpc, 200, Some(5)));
        assert_eq!((record.bytes_received, record.bytes_sent), (6, 6));
    }
}

/// What a rollout does to a service: instance after instance leaves discovery, drains and ends, and new ones come.
#[tokio::test]
async fn a_rollout_under_load_loses_nothing() {
    let (authority, echo) = (Authority::new(), Application::http(|_| ok("ok")).await);
    let mut servers: Vec<_> = (0..3).map(|_| server(&authority, "cart", echo.address)).collect();
    let over = |server: &Proxy| over_tls(server.address(0), &["cart"]);
    let app = cluster("app", servers.iter().map(over));
    let handle = app.endpoints.clone();
    let world = World::new().proxy().cluster_of(app).http("app:80", forward("app"));
    let secrets = world.secrets.clone();
    secrets.publish(authority.secrets("web"));
    let client = world.start();
    let (stop, stopped) = watch::channel(false);
    let users: Vec<_> = (0..16)
        .map(|number| {
            let (stopped, address) = (stopped.clone(), client.address(0));
            tokio::spawn(async move {
                let mut user = Client::connect(address).await;
                let (mut sent, mut lost) = (0, Vec::new());
                while !*stopped.borrow() {
                    let answer = if number % 2 == 0 {
                        user.post("app", "/", "order").await
                    } else {
                        user.get("app", "/", "").await
                    };
                    sent += 1;
                    if answer.status != 200 {
                        lost.push(answer);
                    }
                }
                (sent, lost)
            })
        })
        .collect();
    for _ in 0..6 {
        // Under load, however slow the machine is.
        let before = echo.requests();
        while echo.requests() < before + 20 {
            tokio::task::yield_now().await;
        }
        let new = server(&authority, "cart", echo.address);
        let old = servers.remove(0);
        servers.push(new);
        handle.store(support::endpoints(servers.iter().map(over)));
        secrets.publish(authority.secrets("web"));
        assert_eq!(old.drain(Duration::from_secs(10)).await, outrigger_core::drain::Drained::Complete);
    }
    stop.send(true).unwrap();
    let mut total = 0;
    for user in users {
        let (sent, lost) = user.await.unwrap();
        assert!(lost.is_empty(), "{} of {sent}: {:?}", lost.len(), lost[0]);
        total += sent;
    }
    assert!(total > 100, "{total}");
    let _ = client.drain(Duration::from_secs(10)).await;
}

/// A cable to `to` that can be cut: then connections are made and stay, and nothing passes any more.
async fn cable(to: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, watched) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(to).await.unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            for (mut from, mut into) in [(near_in, far_out), (far_in, near_out)] {
                let mut cut = watched.clone();
                tokio::spawn(async move {
                    let mut bytes = vec![0; 16 * 1024];
                    while let Ok(count @ 1..) = from.read(&mut bytes).await {
                        if cut.wait_for(|cut| !*cut).await.is_err()
                            || into.write_all(&bytes[..count]).await.is_err()
                        {
                            break;
                        }
                    }
                });
            }
        }
    });
    (address, cut)
}

/// POSTs may not be sent twice, so that whatever is written to the silent sidecar waits; and nothing more is after that.
#[tokio::test]
async fn posts_find_a_silent_sidecar_out_without_being_written_to_it() {
    let authority = Authority::new();
    let (first, second) = (Application::echo().await, Application::echo().await);
    let servers = [first.address, second.address].map(|to| server(&authority, "cart", to));
    let (address, cut) = cable(servers[0].address(0)).await;
    let endpoints = [address, servers[1].address(0)].map(|to| over_tls(to, &["cart"]));
    let outlier = outrigger_policy::outlier::OutlierDetection::decode(Some(Default::default())).unwrap();
    let cluster = Cluster { outlier, ..cluster("app", endpoints) };
    let world = World::new().proxy().cluster_of(cluster).http("app:80", forward("app"));
    world.secrets.publish(authority.secrets("web"));
    let client = world.start();
    let mut users = Vec::new();
    for _ in 0..6 {
        users.push(Client::connect(client.address(0)).await);
    }
    for user in &mut users {
        assert_eq!(user.post("app", "/", "order").await.status, 200);
    }
    cut.send_replace(true);
    let (began, mut waiting, mut hung) = (Instant::now(), Vec::new(), Vec::new());
    while began.elapsed() < Duration::from_secs(12) {
        let Some(mut user) = users.pop() else { break };
        match timeout(Duration::from_millis(900), user.post("app", "/", "order")).await {
            Ok(answer) => {
                assert_eq!(answer.status, 200, "{answer:?}");
                users.push(user);
            }
            Err(_) => {
                hung.push(began.elapsed());
                waiting.push(user);
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    let (first, last) = (hung.first().expect("some are written"), hung.last().expect("some are written"));
    assert!(*last - *first < Duration::from_secs(4), "none once PINGs are unanswered: {hung:?}");
    cut.send_replace(false);
    for mut user in waiting {
        assert_eq!(user.response().await.status, 200, "it waited and is answered");
    }
}
