//! Picks by hashes.

use outrigger_config::endpoint::hashing::{HashFunction, Hashing};

use super::*;

const RING: Hashing = Hashing::Ring { min: 1024, max: 1 << 20, function: HashFunction::XxHash };
const MAGLEV: Hashing = Hashing::Maglev { size: 65_537 };

/// A cluster of so many endpoints that picks them by hashes.
fn hashed(hashing: Hashing, count: u8) -> (Rc<Cluster>, EndpointsHandle) {
    let (cluster, handle) = cluster([]);
    let config = Config { balancing: Balancing::Hashing(hashing), ..Config::clone(&cluster.config.borrow()) };
    cluster.follow(&Arc::new(config));
    store_hashed(&handle, hashing, count);
    (cluster, handle)
}

fn store_hashed(handle: &EndpointsHandle, hashing: Hashing, count: u8) {
    let list = (0..count).map(|number| endpoint(number, 0)).collect();
    handle.store(Endpoints::new(handle.load().version + 1, list, 140, Some(hashing)));
}

fn pick(cluster: &Cluster, hash: Option<u64>, attempted: &[SocketAddr], probing: Probing) -> SocketAddr {
    cluster.pick(attempted, PickBy { hash, ..PickBy::default() }, probing).unwrap().host.address
}

/// Some hashes, spread over all.
fn hashes() -> impl Iterator<Item = u64> {
    (0u64..500).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn all(cluster: &Cluster) -> Vec<SocketAddr> {
    hashes().map(|hash| pick(cluster, Some(hash), &[], Probing::Never)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_hash_has_one_host_and_only_the_hashes_of_an_ejected_host_move_until_it_returns() {
    for hashing in [RING, MAGLEV] {
        let (cluster, _) = hashed(hashing, 20);
        let before = all(&cluster);
        assert_eq!(all(&cluster), before);
        eject(&cluster, 3);
        let gone = endpoint(3, 0).address;
        let after = all(&cluster);
        assert!(!after.contains(&gone));
        assert!(before.iter().zip(&after).all(|(old, new)| old == new || *old == gone));
        tokio::time::advance(Duration::from_secs(60)).await;
        let hash_of = |is_own: bool| hashes().zip(&before).find(|(_, host)| (**host == gone) == is_own);
        let (own, other) = (hash_of(true).unwrap().0, hash_of(false).unwrap().0);
        let host = pick(&cluster, Some(other), &[], Probing::Covered);
        assert_ne!(host, gone, "a probe is no reason to send a hash elsewhere");
        for _ in 0..3 {
            assert_eq!(pick(&cluster, Some(own), &[], Probing::Covered), gone);
            let host = Rc::clone(&cluster.members.borrow().hosts()[3]);
            cluster.observe(&host, Outcome::Success);
        }
        assert_eq!(all(&cluster), before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_goes_to_another_host_and_always_to_the_same_one() {
    for hashing in [RING, MAGLEV] {
        let (cluster, _) = hashed(hashing, 5);
        let first = pick(&cluster, Some(99), &[], Probing::Never);
        let second = pick(&cluster, Some(99), &[first], Probing::Never);
        assert_ne!(first, second);
        assert!((0..50).all(|_| pick(&cluster, Some(99), &[first], Probing::Never) == second));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_hash_hosts_are_picked_at_random_and_an_update_of_the_endpoints_counts() {
    let (cluster, handle) = hashed(MAGLEV, 2);
    let drawn = |cluster: &Cluster| {
        let picks = (0..200).map(|_| pick(cluster, None, &[], Probing::Never));
        picks.collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(drawn(&cluster), 2);
    store_hashed(&handle, MAGLEV, 7);
    assert_eq!(drawn(&cluster), 7);
}
