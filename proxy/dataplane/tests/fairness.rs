//! One peer cannot deprive others of an application: with real connections, in the numbers in which this was observed.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_config::cluster::Cluster;
use outrigger_config::listener::{DestinationBy, Handler, Listener, NetworkFilter, UnknownDestination};
use outrigger_config::tls::ClientCertificate;
use outrigger_core::reason::Reason;
use outrigger_core::record::Direction;
use outrigger_dataplane::ConnectionBudget;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use outrigger_proto::xds::{cluster as wire, protobuf};
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::{ok, read_head};
use support::tls::{Authority, Peer, get};
use support::{Proxy, World, cluster, endpoint, forward, manager, tcp_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// The longest that a guest may wait for a response while another peer misbehaves.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers a GET at once, `/slow` never, and a POST when its body is complete.
async fn application() -> Application {
    Application::raw(|mut connection| async move {
        while let Some(head) = connection.head().await {
            if head.starts_with("GET /slow") {
                std::future::pending::<()>().await;
            }
            if head.starts_with("POST") && connection.stream.read_exact(&mut [0; 10]).await.is_err() {
                return;
            }
            if connection.send(ok("ok")).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// A cluster with the limits that the control plane writes, except that it has at most `connections` connections.
fn bounded(application: &Application, connections: u32) -> Cluster {
    let number = |value| Some(protobuf::UInt32Value { value });
    let thresholds = wire::circuit_breakers::Thresholds {
        max_connections: number(connections),
        max_pending_requests: number(1024),
        max_requests: number(10_000),
        ..Default::default()
    };
    let breakers = wire::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() };
    let mut app = cluster("app", [endpoint(application.address)]);
    app.breakers = CircuitBreakers::decode(Some(breakers)).unwrap();
    app
}

fn inbound(mut listener: Listener) -> Listener {
    listener.direction = Direction::Inbound;
    listener
}

fn plain(handler: Handler) -> Listener {
    inbound(support::listener("inbound", NetworkFilter::Handle(handler)))
}

fn http() -> Handler {
    Handler::Http(manager("app", forward("app")))
}

fn sidecar(app: Cluster, handler: Handler) -> Proxy {
    World::new().own(plain(handler)).cluster_of(app).start()
}

/// Connects from another address of this machine.
async fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

const HOG: &str = "127.0.0.2";
const GUEST: &str = "127.0.0.3";

async fn guest(proxy: &Proxy) -> Client {
    Client::over(connect_from(GUEST, proxy.address(0)).await)
}

/// Checks that a guest's requests are each answered in time, on existing and on new connections.
async fn a_guest_is_served(proxy: &Proxy) {
    let served = async {
        for _ in 0..10 {
            let mut guest = guest(proxy).await;
            for _ in 0..3 {
                assert_eq!(guest.get("app", "/").await.status, 200);
            }
        }
    };
    tokio::time::timeout(PATIENCE, served).await.expect("answers in time");
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited).await.expect(what);
}

/// Returns how many connections to the application the proxy has open or is opening.
fn open_connections(proxy: &Proxy) -> u64 {
    proxy.totals().clusters.get("app").map_or(0, |app| app.connections_open)
}

const POST: &str = "POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 10\r\n\r\n";

#[tokio::test]
async fn streams_whose_bodies_never_come_leave_capacity_for_other_peers() {
    let (authority, application) = (Authority::new(), application().await);
    let world = World::new()
        .own(inbound(support::tls::listener(&["h2"], ClientCertificate::Required, http())))
        .cluster_of(bounded(&application, 1024));
    world.secrets.publish(authority.secrets("cart"));
    let proxy = world.start();
    let hog = Peer::new(&authority, "hog", "h2");
    let mut senders = Vec::new();
    for _ in 0..5 {
        senders.push(hog.http2(proxy.address(0)).await);
    }
    let mut streams = Vec::new();
    // The queue begins when the others are in flight: a slot in it is kept for ten seconds, however busy this machine is. In groups,
    // each of which the application's backlog holds.
    for (number, forwarded) in [(240, 240), (240, 480), (240, 720), (240, 960), (290, 960)] {
        for _ in 0..number {
            let sender = &senders[streams.len() % 5];
            let request =
                http::Request::post("https://app/").header("content-length", "10").body(()).unwrap();
            streams.push(sender.clone().ready().await.unwrap().send_request(request, false).unwrap());
        }
        until("complete heads are forwarded at once", || application.requests() == forwarded).await;
    }
    until("the others wait", || proxy.totals().clusters["app"].pending == 290).await;
    let guest = Peer::new(&authority, "guest", "h2").http2(proxy.address(0)).await;
    let served = async {
        for _ in 0..50 {
            assert_eq!(get(&guest, "/").await, 200);
        }
    };
    tokio::time::timeout(PATIENCE, served).await.expect("answers in time");
    // Requests with a slot in the queue are served in order; none was refused.
    let mut first = streams.remove(0);
    first.1.send_data("0123456789".into(), true).unwrap();
    assert_eq!(first.0.await.unwrap().status(), 200);
    until("the next of the queue", || proxy.totals().clusters["app"].pending == 289).await;
    assert_eq!(proxy.totals().clusters["app"].overflow, 0);
}

#[tokio::test]
async fn http1_posts_whose_bodies_never_come_leave_capacity_for_other_peers() {
    let application = application().await;
    let proxy = sidecar(bounded(&application, 1024), http());
    let mut hogs = Vec::new();
    for _ in 0..1100 {
        let mut hog = connect_from(HOG, proxy.address(0)).await;
        hog.write_all(POST.as_bytes()).await.unwrap();
        hogs.push(hog);
    }
    until("complete heads are forwarded at once", || application.requests() == 960).await;
    a_guest_is_served(&proxy).await;
}

#[tokio::test]
async fn silent_connections_to_an_undeclared_port_leave_capacity_for_other_peers() {
    let application = application().await;
    let handler = Handler::Detect {
        http: manager("app", forward("app")),
        tcp: tcp_proxy("app", "app"),
        within: Duration::from_millis(100),
    };
    let proxy = sidecar(bounded(&application, 1024), handler);
    let mut hogs = Vec::new();
    for _ in 0..1100 {
        hogs.push(connect_from(HOG, proxy.address(0)).await);
    }
    // The application may have accepted more, if connections were cancelled before they were established.
    until("its share is open", || open_connections(&proxy) == 960).await;
    a_guest_is_served(&proxy).await;
}

#[tokio::test]
async fn opaque_connections_of_one_peer_leave_capacity_for_other_peers() {
    let application = application().await;
    let proxy = World::new()
        .listen(DestinationBy::Name("raw:9000".into()), UnknownDestination::Refuse)
        .cluster_of(bounded(&application, 64))
        .tcp("raw:9000", "app")
        .start();
    let mut hogs = Vec::new();
    for _ in 0..70 {
        hogs.push(connect_from(HOG, proxy.address(0)).await);
    }
    until("its share is open", || open_connections(&proxy) == 60).await;
    a_guest_is_served(&proxy).await;
}

#[tokio::test]
async fn an_exchange_whose_client_owes_bytes_is_cut_for_a_peer_that_has_none() {
    let application = application().await;
    let mut proxy = sidecar(bounded(&application, 4), http());
    let mut hogs = Vec::new();
    for _ in 0..6 {
        let mut hog = Client::over(connect_from(HOG, proxy.address(0)).await);
        hog.send(POST).await;
        hogs.push(hog);
    }
    until("it has all there are", || application.requests() == 4).await;
    let mut guest = guest(&proxy).await;
    assert_eq!(guest.get("app", "/").await.status, 200);
    let cut = proxy.record().await;
    assert_eq!((cut.status, cut.reason), (408, Some(Reason::DownstreamTimeout)));
}

#[tokio::test]
async fn running_requests_are_not_cut_and_their_permits_go_to_the_peer_with_the_least() {
    let application = application().await;
    let mut proxy = sidecar(bounded(&application, 4), http());
    let mut hogs = Vec::new();
    for _ in 0..8 {
        let mut hog = Client::over(connect_from(HOG, proxy.address(0)).await);
        hog.send("GET /slow HTTP/1.1\r\nHost: app\r\n\r\n").await;
        hogs.push(hog);
        let taken = hogs.len().min(4);
        until("they come in order", || application.requests() == taken).await;
    }
    let mut guest = guest(&proxy).await;
    guest.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!((application.requests(), proxy.totals().clusters["app"].pending), (4, 5));
    drop(hogs.remove(0));
    assert_eq!(guest.response().await.status, 200, "the guest is before the hog's fifth");
    assert_eq!(proxy.record().await.reason, Some(Reason::DownstreamConnectionTermination));
}

#[tokio::test]
async fn an_accepted_client_is_served_though_capacity_is_small_and_clients_keep_their_connections() {
    let application = application().await;
    let mut world = World::new().own(plain(http())).cluster_of(bounded(&application, 1024));
    world.connections = ConnectionBudget::new(16, 40);
    let proxy = world.start();
    let clients: Vec<_> = (0..60)
        .map(|_| {
            let address = proxy.address(0);
            tokio::spawn(async move {
                let mut client = Client::over(connect_from(HOG, address).await);
                client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
                (client.head().await, client)
            })
        })
        .collect();
    let mut kept = Vec::new();
    for client in clients {
        let (head, client) = client.await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        kept.push(client);
    }
    assert_eq!(proxy.totals().process.downstream_connections_refused, 0);
}

#[tokio::test]
async fn busy_connections_of_one_peer_leave_capacity_for_other_peers() {
    let application = application().await;
    let mut world = World::new().own(plain(http())).cluster_of(bounded(&application, 1024));
    world.connections = ConnectionBudget::new(64, 200);
    let proxy = world.start();
    let mut hogs = Vec::new();
    for _ in 0..200 {
        let mut hog = connect_from(HOG, proxy.address(0)).await;
        // An unanswered request keeps its connection in use.
        hog.write_all(b"GET /slow HTTP/1.1\r\nHost: app\r\n\r\n").await.unwrap();
        hogs.push(hog);
    }
    until("its share is served", || application.requests() == 60).await;
    let mut guest = guest(&proxy).await;
    guest.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
    let head = tokio::time::timeout(Duration::from_secs(10), read_head(&mut guest.stream)).await;
    assert!(head.unwrap().unwrap().starts_with("HTTP/1.1 200 "), "behind them in the listener's queue");
    a_guest_is_served(&proxy).await;
    assert!(proxy.totals().process.downstream_connections_refused > 0);
}
