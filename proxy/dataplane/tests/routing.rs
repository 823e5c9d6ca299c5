//! Routes: where a request is sent, how it is modified, and what answers it.

mod support;

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::cluster::Balancing;
use outrigger_config::http_manager::{HttpConnectionManager, HttpSettings};
use outrigger_config::listener::{DestinationBy, Handler, UnknownDestination};
use outrigger_config::route::RouteAction;
use outrigger_core::reason::Reason;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use outrigger_policy::direct_response::DirectResponse;
use outrigger_policy::mirror::Mirror;
use outrigger_policy::outlier::OutlierDetection;
use outrigger_policy::redirect::Redirect;
use outrigger_policy::rewrite::Rewrite;
use outrigger_policy::timeout::Timeouts;
use outrigger_policy::weighted_cluster::WeightedClusters;
use outrigger_proto::xds::{cluster as wire, protobuf, route};
use outrigger_test_support::application::{Application, closed_port};
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use support::{World, cluster, endpoint, endpoints, forward, forward_to, manager, to};

fn number(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

#[tokio::test]
async fn weights_split_requests() {
    let (one, two) = (Application::http(|_| ok("one")).await, Application::http(|_| ok("two")).await);
    let weight = |name: &str, weight| route::weighted_cluster::ClusterWeight {
        name: name.into(),
        weight: number(weight),
        ..Default::default()
    };
    let clusters = route::WeightedCluster {
        clusters: vec![weight("one", 90), weight("two", 10), weight("gone", 0)],
        ..Default::default()
    };
    let action = forward_to(WeightedClusters::decode(clusters, &Default::default()).unwrap());
    let proxy = World::new()
        .proxy()
        .cluster("one", &[one.address])
        .cluster("two", &[two.address])
        .http("app:80", RouteAction::Forward(Box::new(action)))
        .start();
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..500 {
        assert_eq!(client.get("app", "/").await.status, 200);
    }
    assert!((20..90).contains(&two.requests()), "{} of 500", two.requests());
}

#[tokio::test]
async fn path_and_host_are_rewritten() {
    let echo = Application::echo("app").await;
    let mut action = to("echo");
    action.rewrite = Rewrite {
        path: outrigger_policy::rewrite::PathRewrite::decode(String::new(), None, "/new".into()).unwrap(),
        host: Some("other.host".parse().unwrap()),
        append_x_forwarded_host: true,
    };
    let proxy = World::new()
        .proxy()
        .cluster("echo", &[echo.address])
        .http("echo:80", RouteAction::Forward(Box::new(action)))
        .start();
    let answer = Client::connect(proxy.address(0)).await.get("echo", "/old?q=1").await;
    assert!(answer.body.starts_with("GET /new?q=1 HTTP/1.1\r\n"), "{}", answer.body);
    assert!(
        answer.body.contains("host: other.host\r\n") && answer.body.contains("x-forwarded-host: echo\r\n")
    );
}

#[tokio::test]
async fn redirects_and_direct_responses_need_no_backend() {
    let redirect = route::RedirectAction { host_redirect: "elsewhere".into(), ..Default::default() };
    let direct = DirectResponse { status: http::StatusCode::IM_A_TEAPOT, body: "short and stout".into() };
    let mut proxy = World::new()
        .proxy()
        .http("moved:80", RouteAction::Redirect(Redirect::decode(redirect).unwrap()))
        .http("tea:80", RouteAction::Respond(direct))
        .start();
    let mut client = Client::connect(proxy.address(0)).await;
    let answer = client.get("moved", "/a?b").await;
    assert!(answer.status == 301 && answer.head.contains("location: http://elsewhere/a?b\r\n"), "{answer:?}");
    let answer = client.post("tea", "/", "milk").await;
    assert_eq!((answer.status, answer.body.as_str()), (418, "short and stout"));
    assert_eq!(proxy.record().await.reason, Some(Reason::DirectResponse));
    // A gRPC client does not read the HTTP status.
    for (host, code, message) in [("moved", 2, None), ("tea", 2, Some("short and stout"))] {
        let answer = client.request("GET", host, "/a", "Content-Type: application/grpc+proto\r\n").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{answer:?}");
        assert!(answer.head.contains(&format!("grpc-status: {code}\r\n")), "{answer:?}");
        assert_eq!(answer.head.contains("location: http://elsewhere/a\r\n"), host == "moved");
        let told = message.map(|message| format!("grpc-message: {message}\r\n"));
        assert!(told.is_none_or(|told| answer.head.contains(&told)), "{answer:?}");
    }
}

#[tokio::test]
async fn copies_go_to_mirrors_with_their_bodies_and_cost_the_client_nothing() {
    let echo = Application::echo("app").await;
    let (seen, mut copies) = tokio::sync::mpsc::channel(8);
    let shadow = Application::http(move |asked| {
        seen.try_send(asked.clone()).unwrap();
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".into()
    })
    .await;
    let mirror = |cluster: &str| {
        Mirror::decode(route::route_action::RequestMirrorPolicy {
            cluster: cluster.into(),
            ..Default::default()
        })
        .unwrap()
    };
    let mut action = to("echo");
    action.mirrors = Box::new([mirror("shadow"), mirror("nowhere"), mirror("dead")]);
    let proxy = World::new()
        .proxy()
        .cluster("echo", &[echo.address])
        .cluster("shadow", &[shadow.address])
        .cluster("dead", &[closed_port().await])
        .http("echo:80", RouteAction::Forward(Box::new(action)))
        .start();
    let mut client = Client::connect(proxy.address(0)).await;
    assert_eq!(client.get("echo", "/first").await.status, 200);
    assert!(client.post("echo", "/second", "a body").await.body.ends_with("a body"));
    let mut got = [copies.recv().await.unwrap(), copies.recv().await.unwrap()];
    got.sort_by_key(|asked| asked.body.len());
    assert!(
        got[0].head.starts_with("GET /first ") && got[0].head.contains("host: echo-shadow\r\n"),
        "{got:?}"
    );
    assert_eq!(got[1].body, b"a body");
}

#[tokio::test]
async fn a_large_body_is_copied_whole_or_not_at_all() {
    let echo = Application::http(|asked| ok(&asked.body.len().to_string())).await;
    let (seen, mut copies) = tokio::sync::mpsc::channel(8);
    let shadow = Application::http(move |asked| {
        seen.try_send(asked.body.len()).unwrap();
        ok("")
    })
    .await;
    let wire = route::route_action::RequestMirrorPolicy { cluster: "shadow".into(), ..Default::default() };
    let mut action = to("echo");
    action.mirrors = Box::new([Mirror::decode(wire).unwrap()]);
    let proxy = World::new()
        .proxy()
        .cluster("echo", &[echo.address])
        .cluster("shadow", &[shadow.address])
        .http("echo:80", RouteAction::Forward(Box::new(action)))
        .start();
    let mut client = Client::connect(proxy.address(0)).await;
    for size in [100_000, 900_000, 100_000] {
        assert_eq!(client.post("echo", "/", &"x".repeat(size)).await.body, size.to_string());
        assert_eq!(copies.recv().await, Some(size));
    }
    while proxy.totals().process.mirrored < 3 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!((proxy.totals().process.mirrors_dropped, proxy.totals().process.mirrors_failed), (0, 0));
}

#[tokio::test]
async fn a_copy_whose_receiver_reads_nothing_is_dropped_and_counted() {
    let echo = Application::http(|asked| ok(&asked.body.len().to_string())).await;
    let deaf = Application::raw(|connection| async move {
        std::future::pending::<()>().await;
        drop(connection);
    })
    .await;
    let wire = route::route_action::RequestMirrorPolicy { cluster: "deaf".into(), ..Default::default() };
    let mut action = to("echo");
    action.mirrors = Box::new([Mirror::decode(wire).unwrap()]);
    let proxy = World::new()
        .proxy()
        .cluster("echo", &[echo.address])
        .cluster("deaf", &[deaf.address])
        .http("echo:80", RouteAction::Forward(Box::new(action)))
        .start();
    let mut client = Client::connect(proxy.address(0)).await;
    let size = 32 * 1024 * 1024;
    assert_eq!(client.post("echo", "/", &"x".repeat(size)).await.body, size.to_string());
    while proxy.totals().process.mirrors_dropped == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(proxy.totals().process.mirrored, 0);
}

#[tokio::test]
async fn a_request_that_takes_too_long_gets_504() {
    let application = Application::raw(|mut connection| async move {
        connection.request().await;
        std::future::pending::<()>().await;
    })
    .await;
    let mut action = to("app");
    let limit = protobuf::Duration { seconds: 0, nanos: 50_000_000 };
    action.timeouts = Timeouts::decode(Some(limit), None, None).unwrap();
    let mut proxy = World::new()
        .proxy()
        .cluster("app", &[application.address])
        .http("app:80", RouteAction::Forward(Box::new(action)))
        .start();
    let answer = Client::connect(proxy.address(0)).await.get("app", "/").await;
    assert!(answer.status == 504 && answer.head.contains("upstream_request_timeout"), "{answer:?}");
    assert!(proxy.record().await.duration < Duration::from_secs(2));
}

#[tokio::test]
async fn one_connection_serves_the_queue_and_no_more_than_the_queue() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let application = Application::raw(move |mut connection| {
        let mut wait = wait.clone();
        async move {
            while connection.request().await.is_some() {
                wait.wait_for(|go| *go).await.unwrap();
                connection.send(ok("ok")).await.unwrap();
            }
        }
    })
    .await;
    let mut one = cluster("app", [endpoint(application.address)]);
    let thresholds = wire::circuit_breakers::Thresholds {
        max_connections: number(1),
        max_pending_requests: number(2),
        ..Default::default()
    };
    let wire = wire::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() };
    one.breakers = CircuitBreakers::decode(Some(wire)).unwrap();
    let proxy = World::new().proxy().cluster_of(one).http("app:80", forward("app")).start();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(proxy.address(0)).await;
        client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n").await;
        clients.push(client);
    }
    while proxy.totals().clusters.get("app").is_none_or(|app| app.overflow == 0) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    go.send(true).unwrap();
    let mut statuses = Vec::new();
    for client in &mut clients {
        statuses.push(client.response().await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 503]);
    assert_eq!(application.connections(), 1);
}

#[tokio::test]
async fn a_failing_endpoint_is_ejected_and_a_removed_one_is_left() {
    let good = Application::http(|_| ok("good")).await;
    let bad = Application::http(|_| "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n".into()).await;
    let mut app = cluster("app", [endpoint(good.address), endpoint(bad.address)]);
    let wire = wire::OutlierDetection {
        consecutive_5xx: number(3),
        max_ejection_percent: number(50),
        ..Default::default()
    };
    app.outlier = OutlierDetection::decode(Some(wire)).unwrap();
    app.balancing = Balancing::Random;
    let handle = app.endpoints.clone();
    let proxy = World::new().proxy().cluster_of(app).http("app:80", forward("app")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    for _ in 0..60 {
        client.get("app", "/").await;
    }
    assert_eq!(bad.requests(), 3, "ejected after three failures");
    assert_eq!(proxy.shared.ejected(), [(Arc::from("app"), bad.address)]);
    assert_eq!(proxy.totals().ejections[&("app".into(), "consecutive_5xx")], 1);
    let third = Application::http(|_| ok("third")).await;
    handle.store(endpoints([endpoint(third.address)]));
    for _ in 0..5 {
        assert_eq!(client.get("app", "/").await.body, "third");
    }
}

#[tokio::test]
async fn an_old_client_that_names_no_host_is_served_as_the_listener_says() {
    let echo = Application::echo("app").await;
    for (accept, host, status) in
        [(false, Some("default.host:81"), "426"), (true, None, "400"), (true, Some("default.host:81"), "200")]
    {
        let mut foreign = HttpConnectionManager::clone(&manager("echo:80", forward("echo")));
        foreign.destination = None;
        foreign.settings = Arc::new(HttpSettings {
            accept_http_10: accept,
            default_host_for_http_10: host.map(|host| host.parse().unwrap()),
            ..HttpSettings::default()
        });
        let mut proxy = World::new()
            .listen(DestinationBy::Name("echo:80".into()), UnknownDestination::Refuse)
            .cluster("echo", &[echo.address])
            .destination("echo:80", Handler::Http(Arc::new(foreign)))
            .start();
        let mut client = Client::connect(proxy.address(0)).await;
        client.send("GET /old HTTP/1.0\r\n\r\n").await;
        let text = String::from_utf8(client.rest().await).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{accept} {host:?}: {text}");
        assert_eq!(text.contains("host: default.host:81\r\n"), status == "200", "{text}");
        let destination = proxy.record().await.destination.clone();
        assert_eq!(destination.as_deref(), (status == "200").then_some("echo"), "the cluster's name");
    }
}

#[tokio::test]
async fn http_1_0_clients_are_served_and_closed() {
    let echo = Application::echo("app").await;
    let proxy =
        World::new().proxy().cluster("echo", &[echo.address]).http("echo:80", forward("echo")).start();
    let mut client = Client::connect(proxy.address(0)).await;
    client.send("GET /old HTTP/1.0\r\nHost: echo\r\n\r\n").await;
    let text = String::from_utf8(client.rest().await).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("GET /old HTTP/1.1\r\n"), "{text}");
}
