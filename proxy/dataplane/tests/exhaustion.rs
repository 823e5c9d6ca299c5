//! When no further connection may be opened, an idle one is closed for a request that needs one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;

use outrigger_config::cluster::{Cluster, UpstreamProtocol};
use outrigger_dataplane::ConnectionBudget;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use outrigger_proto::xds::{cluster as wire, protobuf};
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use support::{Proxy, World, cluster, endpoint, forward};

use self::UpstreamProtocol::{Http1, Http2};

/// An application that speaks one version of HTTP and answers every request at once.
async fn application(protocol: UpstreamProtocol) -> (Cluster, Application) {
    let application = match protocol {
        Http1 => Application::http(|_| ok("one")).await,
        _ => {
            Application::http2(|_, mut respond| async move {
                respond.send_response(http::Response::new(()), true).unwrap();
            })
            .await
        }
    };
    (Cluster { protocol, ..cluster("", [endpoint(application.address)]) }, application)
}

fn world(clusters: &[(&str, Cluster)], budget: &Arc<ConnectionBudget>) -> World {
    let mut world = World::new().proxy();
    world.connections = Arc::clone(budget);
    clusters.iter().fold(world, |world, (name, app)| {
        let app = Cluster { name: (*name).into(), ..app.clone() };
        world.cluster_of(app).http(&format!("{name}:80"), forward(name))
    })
}

async fn served(client: &mut Client, name: &str) {
    assert_eq!(client.get(name, "/").await.status, 200, "{name}");
}

fn open(proxy: &Proxy, name: &str) -> u64 {
    proxy.totals().clusters[name].connections_open
}

#[tokio::test]
async fn without_a_descriptor_left_an_idle_connection_to_another_cluster_makes_way() {
    for (idle, needed) in [(Http1, Http1), (Http1, Http2), (Http2, Http1), (Http2, Http2)] {
        // The client's connection, and one to an endpoint.
        let budget = ConnectionBudget::new(1, 2);
        let ((one, _app), (two, _other)) = (application(idle).await, application(needed).await);
        let clusters = [("one", one), ("two", two)];
        let proxy = world(&clusters, &budget).start();
        let mut client = Client::connect(proxy.address(0)).await;
        for _ in 0..3 {
            served(&mut client, "one").await;
            assert_eq!(open(&proxy, "one"), 1);
            served(&mut client, "two").await;
            assert_eq!((open(&proxy, "one"), open(&proxy, "two")), (0, 1), "{idle:?} {needed:?}");
        }
        assert_eq!(proxy.totals().clusters["two"].overflow, 0);
    }
}

#[tokio::test]
async fn an_idle_connection_of_another_worker_makes_way_too() {
    for protocol in [Http1, Http2] {
        // Both clients' connections, and one to an endpoint.
        let budget = ConnectionBudget::new(2, 3);
        let ((one, _app), (two, _other)) = (application(protocol).await, application(protocol).await);
        let clusters = [("one", one), ("two", two)];
        let first = world(&clusters, &budget).start();
        let second = world(&clusters, &budget).start_beside(&first);
        let mut holder = Client::connect(first.address(0)).await;
        let mut client = Client::connect(second.address(0)).await;
        for _ in 0..3 {
            served(&mut holder, "one").await;
            served(&mut client, "two").await;
            assert_eq!((open(&first, "one"), open(&second, "two")), (0, 1));
        }
    }
}

#[tokio::test]
async fn where_a_cluster_has_all_its_connections_one_that_is_idle_on_another_worker_makes_way() {
    let max_connections = Some(protobuf::UInt32Value { value: 1 });
    let thresholds = vec![wire::circuit_breakers::Thresholds { max_connections, ..Default::default() }];
    let breakers = wire::CircuitBreakers { thresholds, ..Default::default() };
    let breakers = CircuitBreakers::decode(Some(breakers)).unwrap();
    for protocol in [Http1, Http2] {
        let budget = ConnectionBudget::new(100, 200);
        let (app, _application) = application(protocol).await;
        let clusters = [("one", Cluster { breakers: breakers.clone(), ..app })];
        let first = world(&clusters, &budget).start();
        let second = world(&clusters, &budget).start_beside(&first);
        let mut of_first = Client::connect(first.address(0)).await;
        let mut of_second = Client::connect(second.address(0)).await;
        for _ in 0..3 {
            served(&mut of_first, "one").await;
            served(&mut of_second, "one").await;
            assert_eq!((open(&first, "one"), open(&second, "one")), (0, 1));
        }
    }
}
