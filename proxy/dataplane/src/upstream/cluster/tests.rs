mod hashing;
mod overload;
mod slow_start;

use std::net::IpAddr;

use outrigger_config::cluster::{Balancing, ConnectionSettings, Discovery, EndpointsHandle};
use outrigger_config::endpoint::Endpoints;
use outrigger_config::secrets::SecretStore;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use outrigger_policy::outlier::OutlierDetection;

use super::*;
use crate::codec::limits::Limits;
use crate::identity::Identity;
use crate::metrics::Registry;

/// An endpoint with an address of that number.
fn endpoint(number: u8, priority: u32) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        address: ([10, 0, 0, number], 80).into(),
        health: HealthStatus::Healthy,
        weight: 1,
        locality_weight: None,
        locality: Default::default(),
        priority,
        transport: Transport::Plain,
        identity: None,
        instance: None,
        workload_version: None,
        hash_key: None,
        health_check: Default::default(),
    })
}

fn store(handle: &EndpointsHandle, list: impl IntoIterator<Item = Arc<Endpoint>>) {
    handle.store(Endpoints::new(handle.load().version + 1, list.into_iter().collect(), 140, None));
}

/// A cluster of those endpoints, and where their updates go.
fn cluster(list: impl IntoIterator<Item = Arc<Endpoint>>) -> (Rc<Cluster>, EndpointsHandle) {
    let endpoints = EndpointsHandle::default();
    store(&endpoints, list);
    let config = Config {
        name: "cart".into(),
        discovery: Discovery::Static,
        endpoints: endpoints.clone(),
        connect_timeout: Duration::from_secs(1),
        breakers: CircuitBreakers::decode(None).unwrap(),
        overload: Default::default(),
        hedging: None,
        outlier: OutlierDetection::decode(Some(Default::default())).unwrap(),
        balancing: Balancing::Random,
        slow_start: None,
        hash_policies: Default::default(),
        health_check: None,
        panic: Default::default(),
        session_statuses: Default::default(),
        protocol: UpstreamProtocol::Http1,
        connections: ConnectionSettings {
            idle_timeout: None,
            max_duration: None,
            max_requests: None,
            max_concurrent_streams: 100,
            initial_stream_window: 1 << 16,
            initial_connection_window: 1 << 16,
        },
    };
    let identity = Rc::new(Identity::new(SecretStore::new()));
    let clusters = Clusters::new(
        0,
        SharedClusters::new(),
        Registry::new().worker(),
        Rc::new(Dialer::new(identity, Rc::new(Limits::default()))),
        ConnectionBudget::new(0, 1024),
    );
    (clusters.cluster(&Arc::new(config)), endpoints)
}

/// How many of a thousand requests go to endpoints whose number is `which`.
fn share(cluster: &Cluster, which: impl Fn(u8) -> bool) -> usize {
    let number = |_| match cluster.pick(&[], PickBy::default(), Probing::Never).unwrap().host.address.ip() {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(_) => 0,
    };
    (0..1000).map(number).filter(|number| which(*number)).count()
}

fn eject(cluster: &Cluster, number: u8) {
    let host = Rc::clone(&cluster.members.borrow().hosts()[usize::from(number)]);
    (0..5).for_each(|_| cluster.observe(&host, Outcome::ServerError));
    assert!(!host.health.is_serving());
}

#[tokio::test(start_paused = true)]
async fn a_priority_gets_what_the_one_before_it_cannot_take_soon_after_an_ejection() {
    let (cluster, _) = cluster((0..20).map(|number| endpoint(number, u32::from(number / 2).min(1))));
    assert_eq!(share(&cluster, |number| number < 2), 1000);
    eject(&cluster, 0);
    assert_eq!(share(&cluster, |number| number == 0), 0, "at once");
    tokio::time::advance(Duration::from_millis(100)).await;
    let first = share(&cluster, |number| number < 2);
    assert!(first.abs_diff(700) < 50, "half of the first with 140 % is 0.7 of it: {first}");
    eject(&cluster, 1);
    assert_eq!(share(&cluster, |number| number < 2), 0, "the next priority takes all at once");
}

#[tokio::test(start_paused = true)]
async fn an_update_of_the_endpoints_adjusts_the_numbers_by_what_it_replaced() {
    let list: Vec<_> = (0..10).map(|number| endpoint(number, u32::from(number / 5))).collect();
    let (cluster, endpoints) = cluster(list.clone());
    let numbers = || {
        cluster.pick(&[], PickBy::default(), Probing::Never).unwrap();
        let members = cluster.members.borrow();
        (members.availability().by_group().to_vec(), members.availability().ejected().len())
    };
    assert_eq!(numbers(), (vec![5, 5], 0));
    eject(&cluster, 0);
    tokio::time::advance(Duration::from_millis(100)).await;
    assert_eq!(numbers(), (vec![4, 5], 1));
    store(&endpoints, [&list[..9], &[endpoint(20, 1), endpoint(21, 1)]].concat());
    assert_eq!(numbers(), (vec![4, 6], 1));
    store(&endpoints, list[1..9].to_vec());
    assert_eq!(numbers(), (vec![4, 4], 0), "the ejected one is gone");
    store(&endpoints, list[5..9].to_vec());
    assert_eq!(numbers(), (vec![4], 0), "and a whole priority");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_returns_to_service_is_counted_again() {
    let (cluster, _) = cluster((0..20).map(|number| endpoint(number, u32::from(number / 2).min(1))));
    share(&cluster, |_| true);
    eject(&cluster, 0);
    tokio::time::advance(Duration::from_secs(60)).await;
    for _ in 0..3 {
        let picked = cluster.pick(&[], PickBy::default(), Probing::Covered).unwrap().host;
        assert_eq!(picked.address, ([10, 0, 0, 0], 80).into(), "a probe");
        cluster.observe(&picked, Outcome::Success);
    }
    tokio::time::advance(Duration::from_millis(100)).await;
    assert_eq!(share(&cluster, |number| number < 2), 1000);
}
