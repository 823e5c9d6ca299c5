mod slow_start;

use std::time::Duration;

use super::load::Load;
use super::*;

/// An old latency has no weight any more after this.
const FORGOTTEN: Duration = Duration::from_secs(18);

fn loads(count: usize) -> Vec<Load> {
    (0..count).map(|_| Load::new(1, Instant::now())).collect()
}

/// Hosts that do not fail.
fn well(cost: &dyn Fn(usize) -> Option<f64>) -> Comparison<'_> {
    Comparison { cost, failing: &|_| 0.0 }
}

/// The usable ones of a group of so many.
fn alike<'a>(hosts: &'a [usize], usable: &'a dyn Fn(usize) -> bool) -> Candidates<'a> {
    Candidates { group: 0, hosts, weight_sums: None, usable, part: None }
}

/// How often of a thousand `pick` chooses each of so many.
fn counts(count: usize, mut pick: impl FnMut(&mut Rng) -> Option<usize>) -> Vec<usize> {
    let mut rng = Rng::with_seed(7);
    let mut counts = vec![0; count];
    (0..1000).for_each(|_| counts[pick(&mut rng).unwrap()] += 1);
    counts
}

/// The same of peak EWMA among hosts that are alike.
fn picks(loads: &[Load], usable: &dyn Fn(usize) -> bool, now: Instant) -> Vec<usize> {
    let (cost, failing) = (|at: usize| loads[at].cost(now), |at: usize| loads[at].failing.at(now));
    let hosts: Vec<_> = (0..loads.len()).collect();
    let candidates = alike(&hosts, usable);
    counts(loads.len(), |rng| p2c::pick(&candidates, Comparison { cost: &cost, failing: &failing }, rng))
}

#[test]
fn a_slow_host_is_avoided_at_once_and_probed_later() {
    let (loads, now) = (loads(3), Instant::now());
    loads[0].answered(Duration::from_millis(200), now);
    loads[1].answered(Duration::from_millis(2), now);
    loads[2].answered(Duration::from_millis(2), now);
    assert_eq!(picks(&loads, &|_| true, now)[0], 0);
    for load in &loads[1..] {
        load.answered(Duration::from_millis(2), now + FORGOTTEN);
    }
    assert!(picks(&loads, &|_| true, now + FORGOTTEN)[0] > 200);
}

#[test]
fn a_host_that_fails_at_once_gets_no_more_than_its_share_however_busy_the_others_are() {
    for hosts in [2, 3, 10] {
        for balancer in [
            Balancer::PeakEwma,
            Balancer::LeastRequest { choices: 2 },
            Balancer::LeastRequest { choices: u32::MAX },
            Balancer::RoundRobin(RoundRobin::default()),
            Balancer::Random,
        ] {
            let (loads, now) = (loads(hosts), Instant::now());
            for load in &loads {
                load.answered(Duration::from_millis(40), now);
                (0..10).for_each(|_| load.begin());
            }
            (0..10).for_each(|_| loads[0].end());
            for at in 0..100 {
                if at % 5 == 0 { loads[0].failing.succeeded(now) } else { loads[0].failed(now) }
            }
            let all: Vec<_> = (0..hosts).collect();
            let candidates = alike(&all, &|_| true);
            let counts = counts(hosts, |rng| {
                balancer.pick(|at| loads[at].cost(now), |at| &loads[at], &candidates, now, rng)
            });
            assert!((1..=1000 / hosts).contains(&counts[0]), "{counts:?} by {balancer:?}");
        }
    }
}

#[test]
fn one_failure_leaves_a_host_most_of_its_share() {
    for known in [true, false] {
        let (loads, now) = (loads(2), Instant::now());
        for load in loads.iter().skip(usize::from(!known)) {
            load.answered(Duration::from_millis(2), now);
        }
        loads[0].failed(now);
        let cost = |at: usize| if known { Some(0.0) } else { loads[at].cost(now) };
        let failing = |at: usize| loads[at].failing.at(now);
        let by = Comparison { cost: &cost, failing: &failing };
        let candidates = alike(&[0, 1], &|_| true);
        let first = counts(2, |rng| p2c::pick(&candidates, by, rng))[0];
        assert!((400..500).contains(&first), "{first} of 1000");
    }
}

#[test]
fn where_all_fail_alike_each_keeps_its_share() {
    let (loads, now) = (loads(3), Instant::now());
    for load in &loads {
        (0..50).for_each(|_| load.failed(now));
    }
    assert!(picks(&loads, &|_| true, now).iter().all(|count| (250..420).contains(count)));
}

#[test]
fn a_failing_host_is_still_probed_and_gets_its_share_when_it_recovers() {
    let (loads, now) = (loads(2), Instant::now());
    let asked = || {
        let failing = |at: usize| loads[at].failing.at(now);
        let by = Comparison { cost: &|_| Some(0.0), failing: &failing };
        counts(2, |rng| p2c::pick(&alike(&[0, 1], &|_| true), by, rng))[0]
    };
    (0..1000).for_each(|_| loads[0].failed(now));
    assert!((10..100).contains(&asked()), "{}", asked());
    (0..100).for_each(|_| loads[0].answered(Duration::from_millis(1), now));
    assert!((400..600).contains(&asked()), "{}", asked());
}

#[test]
fn a_busy_host_gets_less_and_a_heavier_one_more() {
    let now = Instant::now();
    let loads = loads(2);
    for load in &loads {
        load.answered(Duration::from_millis(5), now);
    }
    loads[0].begin();
    assert_eq!(picks(&loads, &|_| true, now), [0, 1000]);
    let heavy = [Load::new(3, now), Load::new(1, now)];
    for load in &heavy {
        load.answered(Duration::from_millis(5), now);
        load.begin();
    }
    assert_eq!(picks(&heavy, &|_| true, now), [1000, 0]);
}

#[test]
fn only_candidates_are_picked() {
    let (loads, now) = (loads(5), Instant::now());
    assert_eq!(picks(&loads, &|at| at == 3, now)[3], 1000);
    for balancer in [
        Balancer::PeakEwma,
        Balancer::LeastRequest { choices: 9 },
        Balancer::RoundRobin(RoundRobin::default()),
        Balancer::Random,
    ] {
        for candidates in [
            alike(&[0, 1, 2, 3, 4], &|_| false),
            alike(&[], &|_| true),
            Candidates { weight_sums: Some(&[3, 4]), ..alike(&[0, 1], &|_| false) },
            Candidates { weight_sums: Some(&[]), ..alike(&[], &|_| true) },
        ] {
            let picked = balancer.pick(
                |at| loads[at].cost(now),
                |at| &loads[at],
                &candidates,
                now,
                &mut Rng::with_seed(7),
            );
            assert_eq!(picked, None, "{balancer:?}");
        }
        let candidates = alike(&[3], &|_| true);
        let picked = balancer.pick(
            |at| loads[at].cost(now),
            |at| &loads[at],
            &candidates,
            now,
            &mut Rng::with_seed(7),
        );
        assert_eq!(picked, Some(3), "{balancer:?}");
    }
}

#[test]
fn least_request_compares_as_many_hosts_as_configured() {
    let queue = |at: usize| Some([5.0, 4.0, 3.0, 2.0, 1.0, 0.0][at]);
    let candidates = alike(&[0, 1, 2, 3, 4, 5], &|at| at != 5);
    let best_of = |choices| counts(6, |rng| least_request::pick(&candidates, choices, well(&queue), rng))[4];
    let (two, four, all) = (best_of(2), best_of(4), best_of(u32::MAX));
    assert!(two < 500 && two < four && four < 1000 && all == 1000, "{two} {four} {all}");
}

#[test]
fn where_one_host_is_usable_no_other_is_looked_for_again() {
    let (hosts, visits): (Vec<_>, _) = ((0..1000).collect(), std::cell::Cell::new(0));
    let usable = |at: usize| {
        visits.set(visits.get() + 1);
        at == 500
    };
    let candidates = alike(&hosts, &usable);
    let picked = least_request::pick(&candidates, 100, well(&|_| Some(0.0)), &mut Rng::with_seed(7));
    assert!(picked == Some(500) && visits.get() <= 2100, "{picked:?} after {} visits", visits.get());
}

#[test]
fn unequal_hosts_get_shares_by_weight_and_less_when_they_are_slow_or_busy() {
    let candidates = Candidates { weight_sums: Some(&[3, 4, 4]), ..alike(&[0, 1, 2], &|_| true) };
    let share = |cost: fn(usize) -> f64| {
        let cost = |at| Some(cost(at));
        counts(3, |rng| p2c::pick(&candidates, well(&cost), rng))[0]
    };
    assert!((700..800).contains(&share(|_| 0.0)), "{}", share(|_| 0.0));
    assert!(share(|at| [1.0, 0.0, 0.0][at]) < 600);
    assert!(share(|at| [0.0, 1.0, 0.0][at]) > 900);
    let usable = |at: usize| at >= 8;
    let (hosts, sums): (Vec<_>, Vec<_>) = ((0..10).collect(), (0..9).chain([11]).collect());
    let few = Candidates { weight_sums: Some(&sums), ..alike(&hosts, &usable) };
    let drawn = counts(10, |rng| few.draw(None, rng));
    assert!(drawn[8] + drawn[9] == 1000 && (200..300).contains(&drawn[8]), "{drawn:?}");
}

#[test]
fn equal_hosts_share_equally() {
    let (loads, now) = (loads(4), Instant::now());
    for count in picks(&loads, &|_| true, now) {
        assert!((150..350).contains(&count), "{count} of 1000");
    }
}

#[test]
fn round_robin_takes_each_in_turn_and_skips_those_that_are_no_candidates() {
    let (turns, free) = (RoundRobin::default(), |_: usize| Some(0.0));
    let mut rng = Rng::with_seed(7);
    let usable = |at: usize| at != 1;
    let all = alike(&[0, 1, 2, 3], &usable);
    let picked: Vec<_> = (0..4).filter_map(|_| turns.pick(&all, well(&free), &mut rng)).collect();
    assert_eq!(picked, [0, 2, 3, 0]);
    let fewer = alike(&[0, 3], &usable);
    let picked: Vec<_> = (0..3).filter_map(|_| turns.pick(&fewer, well(&free), &mut rng)).collect();
    assert_eq!(picked, [3, 0, 3]);
}

#[test]
fn round_robin_takes_each_host_of_a_group_in_turn_whatever_other_groups_get() {
    let (turns, free, mut rng) = (RoundRobin::default(), |_: usize| Some(0.0), Rng::with_seed(7));
    let groups = [alike(&[0, 1], &|_| true), Candidates { group: 1, ..alike(&[2, 3], &|_| true) }];
    let picked: Vec<_> = (0..8).filter_map(|at| turns.pick(&groups[at % 2], well(&free), &mut rng)).collect();
    assert_eq!(picked, [0, 2, 1, 3, 0, 2, 1, 3]);
}

#[test]
fn of_ten_thousand_hosts_a_pick_visits_few() {
    let (hosts, sums): (Vec<_>, Vec<_>) = ((0..10_000).collect(), (1..=10_000).collect());
    let visits = std::cell::Cell::new(0);
    let usable = |at: usize| {
        visits.set(visits.get() + 1);
        at.is_multiple_of(2)
    };
    let (all, loads, now) = (alike(&hosts, &usable), loads(10_000), Instant::now());
    for balancer in [
        Balancer::PeakEwma,
        Balancer::LeastRequest { choices: 2 },
        Balancer::RoundRobin(RoundRobin::default()),
        Balancer::Random,
    ] {
        for candidates in [all, Candidates { weight_sums: Some(&sums), ..all }] {
            visits.set(0);
            for _ in 0..10 {
                let cost = |at: usize| loads[at].cost(now);
                balancer.pick(cost, |at| &loads[at], &candidates, now, &mut Rng::with_seed(7)).unwrap();
            }
            assert!(visits.get() < 200, "{} by {balancer:?}", visits.get());
        }
    }
}
