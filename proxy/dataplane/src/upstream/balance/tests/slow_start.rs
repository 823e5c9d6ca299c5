//! Hosts that start slowly, whose parts of their weights the tests choose. The first host is the new one.

use super::*;

/// How many of twenty thousand picks of peak EWMA go to host 0, which has `part` of its weight, among hosts that answered after these
/// milliseconds. A request of each pick is in flight while the next `in_flight` are picked.
fn picked_new(part: f64, millis: &[u64], weight_sums: Option<&[u64]>, in_flight: usize) -> usize {
    let now = Instant::now();
    let loads: Vec<_> = millis.iter().map(|_| Load::new(1, now)).collect();
    for (load, millis) in loads.iter().zip(millis) {
        load.answered(Duration::from_millis(*millis), now);
    }
    let hosts: Vec<_> = (0..millis.len()).collect();
    let parts = |at: usize| if at == 0 { part } else { 1.0 };
    let candidates = Candidates { weight_sums, part: Some(&parts), ..alike(&hosts, &|_| true) };
    let (mut rng, mut under_way) = (Rng::with_seed(7), std::collections::VecDeque::new());
    let mut of_new = 0;
    for _ in 0..20_000 {
        let balancer = Balancer::PeakEwma;
        let cost = |at: usize| loads[at].cost(now);
        let picked = balancer.pick(cost, |at| &loads[at], &candidates, now, &mut rng).unwrap();
        loads[picked].begin();
        under_way.push_back(picked);
        if under_way.len() > in_flight {
            under_way.pop_front().iter().for_each(|done: &usize| loads[*done].end());
        }
        of_new += usize::from(picked == 0);
    }
    of_new
}

#[test]
fn of_equal_hosts_each_gets_the_share_of_its_part() {
    for hosts in [2, 3, 10] {
        for part in [0.1, 0.5, 1.0] {
            let expected = 20_000.0 * part / (hosts as f64 - 1.0 + part);
            let picked = picked_new(part, &vec![5; hosts], None, 0) as f64;
            let off = (picked - expected).abs();
            assert!(off < 0.1 * expected + 30.0, "{picked}, not {expected}: a part of {part} among {hosts}");
        }
    }
}

#[test]
fn a_weight_and_a_part_of_it_multiply() {
    // Half of 2 beside 1 and 3.
    let picked = picked_new(0.5, &[5, 5, 5], Some(&[2, 3, 6]), 0);
    assert!(picked.abs_diff(4000) < 400, "{picked}");
}

#[test]
fn the_cheapest_host_gets_twice_the_share_of_its_part_and_a_slow_one_nothing() {
    for hosts in [2_u32, 3, 10] {
        let mut millis = vec![5; hosts as usize];
        let share = 20_000.0 * 0.1 / (f64::from(hosts) - 0.9);
        millis[0] = 1;
        let cheapest = picked_new(0.1, &millis, None, 0) as f64;
        assert!((1.7 * share..2.3 * share).contains(&cheapest), "{cheapest} of {hosts}, not twice {share}");
        millis[0] = 500;
        let slow = picked_new(0.1, &millis, None, 0) as f64;
        assert!(slow < 0.05 * share, "{slow} of {hosts}");
    }
}

#[test]
fn under_load_a_new_host_has_less_in_flight_than_the_others() {
    // Without a part, a third is 6667.
    let picked = picked_new(0.1, &[5, 5, 5], None, 30);
    assert!((800..2000).contains(&picked), "{picked}");
    let full = picked_new(1.0, &[5, 5, 5], None, 30);
    assert!(full.abs_diff(6667) < 300, "{full}");
}

#[test]
fn a_full_scan_passes_over_a_new_host_and_still_chooses_by_load() {
    let parts = |at: usize| if at == 0 { 0.1 } else { 1.0 };
    let candidates = Candidates { part: Some(&parts), ..alike(&[0, 1, 2], &|_| true) };
    let queue = |at: usize| Some([0.0, 1.0, 2.0][at]);
    let counts = counts(3, |rng| least_request::pick(&candidates, u32::MAX, well(&queue), rng));
    assert!((50..200).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
}

#[test]
fn a_host_without_a_weight_is_still_picked_where_it_is_the_only_one() {
    assert_eq!(picked_new(0.0, &[5], None, 0), 20_000);
    for balancer in [
        Balancer::PeakEwma,
        Balancer::LeastRequest { choices: 9 },
        Balancer::RoundRobin(RoundRobin::default()),
        Balancer::Random,
    ] {
        let (loads, now) = (loads(2), Instant::now());
        let candidates = Candidates { part: Some(&|_| 0.0), ..alike(&[0, 1], &|at| at == 1) };
        let mut rng = Rng::with_seed(7);
        let picked = balancer.pick(|at| loads[at].cost(now), |at| &loads[at], &candidates, now, &mut rng);
        assert_eq!(picked, Some(1), "{balancer:?}");
    }
}
