//! Two sidecars whose endpoints and certificates change while requests run.

#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_config::cluster::Cluster;
use outrigger_test_support::application::Application;
use outrigger_test_support::client::Client;
use outrigger_test_support::http1::ok;
use support::sidecar::{self, inbound, inbound_listener, outbound};
use support::tls::Authority;
use support::{Proxy, World, cluster, forward};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

#[tokio::test]
async fn renewed_certificates_cost_no_request() {
    let (authority, echo) = (Authority::new(), Application::http(|_| ok("ok")).await);
    let server_world = World::new().own(inbound_listener()).cluster("app", &[echo.address]);
    let secrets = server_world.secrets.clone();
    secrets.publish(authority.secrets("cart"));
    let server = server_world.start();
    let client = outbound(&authority, vec![sidecar::endpoint(server.address(0), &["cart"])]);
    let mut user = Client::connect(client.address(0)).await;
    for round in 0..30 {
        if round % 3 == 0 {
            secrets.publish(authority.secrets("cart"));
        }
        assert_eq!(user.post("app", "/", "order").await.status, 200);
    }
}

/// A rollout of a service: one instance after another leaves discovery, drains and ends, and new ones start.
#[tokio::test]
async fn a_rollout_under_load_loses_nothing() {
    let (authority, echo) = (Authority::new(), Application::http(|_| ok("ok")).await);
    let mut servers: Vec<_> = (0..3).map(|_| inbound(&authority, "cart", echo.address)).collect();
    let over = |server: &Proxy| sidecar::endpoint(server.address(0), &["cart"]);
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
                        user.get("app", "/").await
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
        let new = inbound(&authority, "cart", echo.address);
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

/// A relay to `to` that can be cut: connections are then still accepted and stay open, but no bytes pass.
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

/// POSTs may not be sent twice, so any POST that is written to the silent sidecar waits; none is written to it after that.
#[tokio::test]
async fn posts_find_a_silent_sidecar_out_without_being_written_to_it() {
    let authority = Authority::new();
    let applications = [Application::echo("app").await, Application::echo("app").await];
    let servers = [0, 1].map(|at: usize| inbound(&authority, "cart", applications[at].address));
    // Both have one: the balancer would hardly choose an endpoint that is always the slower one.
    let cables = [cable(servers[0].address(0)).await, cable(servers[1].address(0)).await];
    let endpoints = [0, 1].map(|at: usize| sidecar::endpoint(cables[at].0, &["cart"]));
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
    // The endpoint that the balancer prefers is cut, so that the next POST is written to it.
    let before = applications[0].requests();
    assert_eq!(users[0].post("app", "/", "order").await.status, 200);
    let cut = &cables[usize::from(applications[0].requests() == before)].1;
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
