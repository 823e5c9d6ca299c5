use outrigger_policy::health_check::Checked;
use outrigger_policy::slow_start::SlowStart;
use outrigger_proto::xds::{lb_common, protobuf};

use super::*;

const WINDOW: Duration = Duration::from_secs(100);

/// A cluster of the endpoints 1 and 2 with slow start.
fn slow(balancing: Balancing) -> (Rc<Cluster>, EndpointsHandle) {
    let wire = lb_common::SlowStartConfig {
        slow_start_window: Some(protobuf::Duration { seconds: WINDOW.as_secs() as i64, nanos: 0 }),
        ..Default::default()
    };
    let slow_start = SlowStart::decode(Some(wire)).unwrap();
    let (cluster, endpoints) = cluster([endpoint(1, 0), endpoint(2, 0)]);
    let config = Config { balancing, slow_start, ..Config::clone(&cluster.config.borrow()) };
    cluster.follow(&Arc::new(config));
    (cluster, endpoints)
}

/// How many of ten thousand picks are endpoint 3.
fn of_third(cluster: &Cluster) -> usize {
    (0..10).map(|_| share(cluster, |number| number == 3)).sum()
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_begins_with_a_small_share_which_grows() {
    let all = u32::MAX;
    for balancing in [
        Balancing::PeakEwma,
        Balancing::RoundRobin,
        Balancing::LeastRequest { choices: 2 },
        Balancing::LeastRequest { choices: all },
    ] {
        let (cluster, endpoints) = slow(balancing);
        let first = share(&cluster, |number| number == 1);
        assert!(
            (400..600).contains(&first),
            "those that were there at first have their full weight: {first}"
        );
        store(&endpoints, [endpoint(1, 0), endpoint(2, 0), endpoint(3, 0)]);
        // A weight of 0.1 beside two of 1, of 0.5, and of 1.
        for (expected, elapsed) in [(476, WINDOW / 2), (2000, WINDOW / 2), (3333, WINDOW)] {
            let picked = of_third(&cluster);
            assert!(picked.abs_diff(expected) < 300, "{picked}, not {expected}, by {balancing:?}");
            tokio::time::advance(elapsed).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_passes_its_checks_again_starts_slowly() {
    let (cluster, endpoints) = slow(Balancing::RoundRobin);
    store(&endpoints, []);
    assert!(cluster.pick(&[], PickBy::default(), Probing::Never).is_err());
    store(&endpoints, [endpoint(1, 0), endpoint(2, 0), endpoint(3, 0)]);
    assert!(of_third(&cluster).abs_diff(3333) < 300, "filled at once");
    let checked = Arc::new(Checked::new(Arc::default()));
    checked.assume_healthy();
    cluster.members.borrow().hosts()[2].checked.replace(Some(Arc::clone(&checked)));
    assert!(of_third(&cluster).abs_diff(3333) < 300, "it has never failed");
    checked.recovers(cluster.shared.now());
    assert!(of_third(&cluster).abs_diff(476) < 300);
    tokio::time::advance(WINDOW).await;
    assert!(of_third(&cluster).abs_diff(3333) < 300);
}

#[tokio::test(start_paused = true)]
async fn if_all_endpoints_are_new_each_gets_its_share() {
    let (cluster, endpoints) = slow(Balancing::RoundRobin);
    share(&cluster, |_| true);
    store(&endpoints, [endpoint(3, 0), endpoint(4, 0)]);
    assert!(of_third(&cluster).abs_diff(5000) < 400);
}
