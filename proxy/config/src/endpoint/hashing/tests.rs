use outrigger_core::Name;

use super::super::Transport;
use super::*;

const RING: Hashing = Hashing::Ring { min: 1024, max: 8 << 20, function: HashFunction::XxHash };
const MAGLEV: Hashing = Hashing::Maglev { size: 65_537 };

fn endpoint(number: usize, weight: u32) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        address: ([10, 0, (number / 256) as u8, (number % 256) as u8], 80).into(),
        health: HealthStatus::Healthy,
        weight,
        locality_weight: None,
        locality: Default::default(),
        priority: 0,
        transport: Transport::Plain,
        identity: None,
        instance: None,
        workload_version: None,
        hash_key: None,
        health_check: Default::default(),
    })
}

fn list(count: usize) -> Vec<Arc<Endpoint>> {
    (0..count).map(|number| endpoint(number, 1)).collect()
}

fn table(hashing: Hashing, list: &[Arc<Endpoint>]) -> Table {
    Table::new(hashing, list, (0..list.len()).collect())
}

/// Some hashes, spread over all.
fn hashes() -> impl Iterator<Item = u64> {
    (0u64..5000).map(|number| twox_hash::XxHash64::oneshot(7, &number.to_le_bytes()))
}

fn picks(table: &Table, usable: impl Fn(usize) -> bool) -> Vec<usize> {
    hashes().map(|hash| table.find(hash, &usable).unwrap()).collect()
}

fn share(picks: &[usize], of: usize) -> usize {
    picks.iter().filter(|pick| **pick == of).count()
}

#[test]
fn the_keys_of_an_endpoint_that_cannot_be_used_spread_over_the_others_and_no_other_key_moves() {
    for hashing in [RING, MAGLEV] {
        let table = table(hashing, &list(10));
        let (before, after) = (picks(&table, |_| true), picks(&table, |at| at != 3));
        let moved: Vec<_> = before.iter().zip(&after).filter(|(old, new)| old != new).collect();
        assert!(moved.iter().all(|(old, _)| **old == 3), "{hashing:?}");
        assert_eq!(moved.len(), share(&before, 3));
        let took: std::collections::BTreeSet<_> = moved.iter().map(|(_, new)| **new).collect();
        assert!(took.len() >= 8, "{hashing:?} {took:?}");
    }
}

#[test]
fn one_endpoint_more_takes_keys_from_the_others_and_moves_few_between_them() {
    for hashing in [RING, MAGLEV] {
        let (ten, eleven) = (list(10), list(11));
        let (before, after) =
            (picks(&table(hashing, &ten), |_| true), picks(&table(hashing, &eleven), |_| true));
        let between = before.iter().zip(&after).filter(|(old, new)| old != new && **new != 10).count();
        let taken = share(&after, 10);
        assert!((250..750).contains(&taken) && between < 400, "{hashing:?}: {taken}, {between}");
    }
}

#[test]
fn weights_are_shares() {
    for hashing in [RING, MAGLEV] {
        let weighted = [endpoint(0, 1), endpoint(1, 3)];
        let share = share(&picks(&table(hashing, &weighted), |_| true), 1);
        assert!((3500..4000).contains(&share), "{hashing:?}: {share} of 5000");
    }
}

#[test]
fn the_order_of_the_list_does_not_matter_to_maglev() {
    let (forth, mut back) = (list(7), list(7));
    back.reverse();
    let picked = picks(&table(MAGLEV, &back), |_| true).into_iter().map(|at| 6 - at);
    assert!(picks(&table(MAGLEV, &forth), |_| true).into_iter().eq(picked));
}

#[test]
fn an_endpoint_is_found_whatever_the_others_are_and_none_if_none_can_be_used() {
    for hashing in [RING, MAGLEV, Hashing::Maglev { size: 3 }] {
        let all = list(500);
        let table = table(hashing, &all);
        assert!(picks(&table, |at| at == 499).iter().all(|pick| *pick == 499), "{hashing:?}");
        assert_eq!(table.find(7, |_| false), None);
        assert_eq!(Table::new(hashing, &all, vec![]).find(7, |_| true), None, "{hashing:?}");
        let visits = std::cell::Cell::new(0);
        table.find(7, |_| {
            visits.set(visits.get() + 1);
            false
        });
        assert!(visits.get() <= 500 + ATTEMPTS, "a pick visits each endpoint once at most, and few twice");
    }
}

#[test]
fn endpoints_that_take_no_requests_and_localities_without_a_weight_are_in_no_table() {
    let with = |change: fn(&mut Endpoint)| {
        let mut changed = Endpoint::clone(&endpoint(1, 1));
        change(&mut changed);
        [endpoint(0, 1), Arc::new(changed)]
    };
    let weighted = |endpoint: &mut Endpoint| {
        endpoint.locality = super::super::Locality { zone: Name::from("b"), ..Default::default() };
        endpoint.locality_weight = Some(0);
    };
    for hashing in [RING, MAGLEV] {
        for mut list in [
            with(|of| of.health = HealthStatus::Draining),
            with(|of| of.health = HealthStatus::Unhealthy),
            with(weighted),
        ] {
            if list[1].locality_weight.is_some() {
                let first = Endpoint { locality_weight: Some(2), ..Endpoint::clone(&list[0]) };
                list[0] = Arc::new(first);
            }
            assert!(picks(&table(hashing, &list), |_| true).iter().all(|at| *at == 0));
        }
    }
}
