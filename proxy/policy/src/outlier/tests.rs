use std::sync::Arc;

use outrigger_proto::xds::{cluster, protobuf};
use proptest::prelude::*;

use super::*;

fn number(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Ejects after three consecutive failures, and never by rate.
fn settings(change: impl FnOnce(&mut cluster::OutlierDetection)) -> OutlierDetection {
    let mut wire = cluster::OutlierDetection {
        consecutive_5xx: number(3),
        max_ejection_percent: number(50),
        base_ejection_time: Some(protobuf::Duration { seconds: 5, nanos: 0 }),
        max_ejection_time: Some(protobuf::Duration { seconds: 12, nanos: 0 }),
        enforcing_success_rate: number(0),
        ..Default::default()
    };
    change(&mut wire);
    OutlierDetection::decode(Some(wire)).unwrap().unwrap()
}

/// The settings that our control plane writes (`control-plane/src/translate/defaults.rs`).
fn defaults() -> OutlierDetection {
    settings(|wire| {
        wire.enforcing_consecutive_5xx = number(0);
        wire.split_external_local_origin_errors = true;
        wire.consecutive_local_origin_failure = number(5);
        wire.enforcing_local_origin_success_rate = number(0);
        wire.failure_percentage_threshold = number(50);
        wire.failure_percentage_minimum_hosts = number(2);
        wire.failure_percentage_request_volume = number(20);
        wire.enforcing_failure_percentage = number(100);
        wire.enforcing_failure_percentage_local_origin = number(100);
        wire.base_ejection_time = Some(protobuf::Duration { seconds: 2, nanos: 0 });
        wire.max_ejection_time = Some(protobuf::Duration { seconds: 60, nanos: 0 });
    })
}

/// The endpoints of a cluster.
struct World {
    of: OutlierDetection,
    ejections: Arc<Ejections>,
    hosts: Vec<Health>,
    now: Duration,
}

impl World {
    fn new(of: OutlierDetection, hosts: usize) -> Self {
        let ejections = Arc::new(Ejections::default());
        let hosts = (0..hosts).map(|_| Health::new(ejections.clone())).collect();
        Self { of, ejections, hosts, now: at(0) }
    }

    fn observe(&self, host: usize, outcome: Outcome) -> Option<Ejected> {
        self.of.observe(&self.hosts[host], outcome, self.hosts.iter(), self.now, 0)
    }

    /// Observes `times` outcomes. Returns the last ejection.
    fn many(&self, host: usize, outcome: Outcome, times: usize) -> Option<Ejected> {
        (0..times).fold(None, |last, _| self.observe(host, outcome).or(last))
    }

    fn fail(&self, times: usize) -> Option<Duration> {
        self.many(0, Outcome::ServerError, times).map(|ejected| ejected.span)
    }

    /// Sends the three probes that return a host to service.
    fn bring_back(&self, host: usize) {
        for _ in 0..3 {
            assert!(self.hosts[host].claim_probe(self.now, true));
            self.observe(host, Outcome::Success);
        }
        assert!(self.hosts[host].is_serving());
    }

    fn compare(&self) -> Vec<(usize, Kind)> {
        let mut all = Vec::new();
        let ejected = |at, ejected: Ejected| all.push((at, ejected.kind));
        self.of.compare(&self.ejections, self.hosts.iter(), self.now, || 0, ejected);
        all
    }
}

#[test]
fn an_endpoint_that_served_well_until_just_now_is_ejected_for_what_it_does_now() {
    let mut world = World::new(defaults(), 3);
    for host in 0..3 {
        world.many(host, Outcome::Success, 400);
    }
    world.now = at(3);
    for host in 1..3 {
        world.many(host, Outcome::Success, 30);
    }
    let ejected = world.many(0, Outcome::ServerError, 20);
    assert_eq!(ejected.map(|ejected| ejected.kind), Some(Kind::FailurePercentage));
    // The same failures among those of the whole interval are few.
    let mut world = World::new(defaults(), 3);
    for host in 0..3 {
        world.many(host, Outcome::Success, 400);
    }
    assert_eq!(world.many(0, Outcome::ServerError, 20), None);
    world.now = at(3);
    assert_eq!(world.many(0, Outcome::ServerError, 20), None, "nobody serves beside it just now");
}

#[test]
fn failures_in_a_row_eject_for_a_time_that_grows() {
    let mut world = World::new(settings(|_| {}), 2);
    assert_eq!(world.fail(2), None);
    assert_eq!(world.fail(1), Some(at(5)));
    world.now = at(5);
    world.bring_back(0);
    assert_eq!(world.fail(3), Some(at(10)), "twice as long the second time");
    world.now = at(15);
    world.bring_back(0);
    assert_eq!(world.fail(3), Some(at(12)), "but never longer than the bound");
    world.now = at(27);
    world.bring_back(0);
    world.now = at(27 + 60);
    assert_eq!(world.fail(3), Some(at(5)), "serving well is remembered too");
}

#[test]
fn one_success_forgives_the_failures_before_it() {
    let world = World::new(settings(|_| {}), 2);
    for good in [Outcome::Success, Outcome::Overloaded] {
        world.fail(2);
        world.observe(0, good);
        assert_eq!(world.fail(2), None);
        world.observe(0, good);
    }
}

#[test]
fn a_limit_that_is_enforced_by_chance_has_one_chance_each_time_it_is_reached() {
    let world = World::new(settings(|wire| wire.enforcing_consecutive_5xx = number(50)), 2);
    let fail = |sample| {
        let hosts = world.hosts.iter();
        world.of.observe(&world.hosts[0], Outcome::ServerError, hosts, at(0), sample).is_some()
    };
    let (lucky, unlucky) = (u32::MAX, 0);
    assert!(![fail(unlucky), fail(unlucky), fail(lucky)].contains(&true));
    assert_eq!([fail(unlucky), fail(unlucky), fail(unlucky)], [false, false, true]);
}

#[test]
fn the_last_endpoint_is_never_ejected_unless_asked() {
    assert_eq!(World::new(settings(|_| {}), 1).fail(9), None);
    let always = settings(|wire| wire.always_eject_one_host = Some(protobuf::BoolValue { value: true }));
    assert!(World::new(always, 1).fail(9).is_some());
}

#[test]
fn the_time_of_an_ejection_is_spread_by_its_jitter() {
    let of = settings(|wire| {
        wire.max_ejection_time_jitter = Some(protobuf::Duration { seconds: 4, nanos: 0 });
    });
    let spans = [0, u32::MAX / 2 + 1].map(|sample| {
        let health = Health::new(Arc::default());
        let all = [&health, &Health::new(Arc::default())];
        let observe = |_| of.observe(&health, Outcome::ServerError, all.into_iter(), at(0), sample);
        (0..3).find_map(observe).unwrap().span
    });
    assert_eq!(spans, [at(5), at(7)]);
}

#[test]
fn what_is_not_answered_counts_apart_when_split() {
    let world = World::new(settings(|_| {}), 2);
    let outcomes = [Outcome::LocalOrigin, Outcome::GatewayError, Outcome::ServerError];
    assert_eq!(outcomes.map(|outcome| world.observe(0, outcome).is_some()), [false, false, true]);
    let world = World::new(defaults(), 2);
    world.many(1, Outcome::Success, 100);
    assert_eq!(world.many(0, Outcome::ServerError, 9), None);
    assert_eq!(world.many(0, Outcome::LocalOrigin, 4), None);
    let ejected = world.many(0, Outcome::LocalOrigin, 1).unwrap();
    assert_eq!(ejected, Ejected { kind: Kind::ConsecutiveLocalOriginFailure, span: at(2) });
}

#[test]
fn a_dead_endpoint_is_ejected_after_five_connections_if_others_can_be_reached() {
    let world = World::new(defaults(), 2);
    assert_eq!(world.many(0, Outcome::LocalOrigin, 19), None, "nobody knows whether the other one can");
    world.many(1, Outcome::Success, 2);
    assert_eq!(world.many(0, Outcome::LocalOrigin, 1), None, "two answers tell little");
    world.many(1, Outcome::Success, 18);
    assert!(world.many(0, Outcome::LocalOrigin, 1).is_some());
    let world = World::new(defaults(), 3);
    for _ in 0..100 {
        for host in 0..3 {
            assert_eq!(world.observe(host, Outcome::LocalOrigin), None, "none of them can");
        }
    }
}

#[test]
fn a_burst_of_what_every_endpoint_breaks_off_ejects_none_of_them() {
    let mut world = World::new(defaults(), 3);
    for second in 0..9 {
        world.now = at(second);
        (0..3).for_each(|host| assert_eq!(world.many(host, Outcome::Success, 400), None));
    }
    world.now = at(10);
    for _ in 0..33 {
        (0..3).for_each(|host| assert_eq!(world.observe(host, Outcome::LocalOrigin), None));
    }
}

#[test]
fn an_endpoint_that_fails_four_times_of_five_is_ejected_soon_after_its_twentieth_request() {
    for hosts in [2, 3, 10] {
        let world = World::new(defaults(), hosts);
        (1..hosts).for_each(|host| assert_eq!(world.many(host, Outcome::Success, 30), None));
        let at = (0..40).position(|at| {
            let outcome = if at % 5 == 0 { Outcome::Success } else { Outcome::ServerError };
            let ejected = world.observe(0, outcome);
            assert!(ejected.is_none_or(|ejected| ejected.kind == Kind::FailurePercentage));
            ejected.is_some()
        });
        // With few others, more requests are needed to rule out chance.
        assert!(at.is_some_and(|at| (19..25).contains(&at)), "{hosts} endpoints: {at:?}");
        assert_eq!(world.ejections.now(), 1);
    }
}

#[test]
fn failures_of_either_kind_are_one_rate_where_both_are_judged() {
    let world = World::new(defaults(), 2);
    world.many(1, Outcome::Success, 100);
    let outcomes = [Outcome::Success, Outcome::Success, Outcome::ServerError, Outcome::LocalOrigin];
    let ejected = (0..200).find_map(|at| world.observe(0, outcomes[at % 4]));
    assert_eq!(ejected.unwrap().kind, Kind::FailurePercentage);
}

#[test]
fn what_fails_after_its_head_is_one_failed_request() {
    let world = World::new(defaults(), 2);
    world.many(1, Outcome::Success, 100);
    let broken = |_| {
        world.observe(0, Outcome::Success);
        world.of.observe_late(&world.hosts[0], Outcome::LocalOrigin, world.hosts.iter(), at(0), 0)
    };
    assert_eq!((0..19).find_map(broken), None, "nineteen requests, not thirty-eight");
    assert_eq!(broken(19).unwrap().kind, Kind::FailurePercentageLocalOrigin);
}

#[test]
fn a_window_of_failures_is_over_after_ten_seconds() {
    let mut world = World::new(defaults(), 2);
    world.many(1, Outcome::Success, 100);
    world.many(0, Outcome::ServerError, 19);
    world.now = at(10);
    world.many(1, Outcome::Success, 100);
    assert_eq!(world.many(0, Outcome::ServerError, 19), None);
    assert!(world.many(0, Outcome::ServerError, 1).is_some());
}

#[test]
fn without_enough_requests_elsewhere_nobody_is_ejected() {
    let world = World::new(defaults(), 2);
    world.many(1, Outcome::Success, 19);
    assert_eq!(world.many(0, Outcome::ServerError, 100), None);
    world.many(1, Outcome::Success, 1);
    assert!(world.many(0, Outcome::ServerError, 1).is_some());
}

#[test]
fn a_failed_probe_ejects_again_for_longer_and_three_good_ones_in_a_row_end_it() {
    let mut world = World::new(defaults(), 3);
    (1..3).for_each(|host| assert_eq!(world.many(host, Outcome::Success, 30), None));
    assert_eq!(world.fail(20), Some(at(2)));
    world.now = at(2);
    assert_eq!(world.observe(0, Outcome::Success), None);
    let again = world.observe(0, Outcome::ServerError).unwrap();
    assert_eq!(again, Ejected { kind: Kind::FailedProbe, span: at(4) });
    assert_eq!((world.ejections.now(), world.ejections.total()), (1, 2));
    world.now = at(6);
    world.bring_back(0);
    assert_eq!(world.ejections.now(), 0);
    assert_eq!(world.many(0, Outcome::ServerError, 19), None, "what it was ejected for is over");
}

#[test]
fn where_all_others_fail_too_a_failed_probe_brings_back_all_the_same() {
    let mut world = World::new(defaults(), 2);
    world.many(1, Outcome::Success, 30);
    assert!(world.fail(20).is_some());
    world.now = at(20);
    world.many(1, Outcome::ServerError, 30);
    assert_eq!(world.observe(0, Outcome::ServerError), None);
    assert!(world.hosts[0].is_serving());
}

#[test]
fn failures_of_requests_that_were_under_way_do_not_lengthen_an_ejection() {
    let world = World::new(settings(|_| {}), 2);
    assert_eq!(world.fail(3), Some(at(5)));
    assert_eq!(world.fail(100), None);
    world.observe(0, Outcome::Success);
    assert!(!world.hosts[0].is_serving());
}

#[test]
fn success_rates_are_compared_once_in_every_interval_by_envoys_arithmetic() {
    let of = settings(|wire| {
        wire.enforcing_success_rate = number(100);
        wire.success_rate_minimum_hosts = number(3);
        wire.success_rate_request_volume = number(50);
        wire.success_rate_stdev_factor = number(1200);
        wire.enforcing_consecutive_5xx = number(0);
    });
    let mut world = World::new(of, 3);
    world.now = at(1);
    assert_eq!(world.compare(), [], "the first interval begins");
    world.now = at(9);
    let serve = |world: &World, host, good, bad| {
        world.many(host, Outcome::Success, good);
        world.many(host, Outcome::ServerError, bad);
    };
    serve(&world, 0, 80, 20);
    serve(&world, 1, 100, 0);
    serve(&world, 2, 49, 0);
    assert_eq!(world.compare(), [], "it is not over");
    world.now = at(11);
    assert_eq!(world.compare(), [], "two endpoints had enough requests");
    world.now = at(12);
    serve(&world, 2, 1, 0);
    assert_eq!(world.compare(), [], "another worker has compared");
    world.now = at(18);
    serve(&world, 0, 80, 20);
    (1..3).for_each(|host| serve(&world, host, 100, 0));
    world.now = at(21);
    assert_eq!(world.compare(), [(0, Kind::SuccessRate)]);
    assert_eq!(world.ejections.now(), 1);
}

#[test]
fn a_success_rate_that_chance_explains_ejects_nobody() {
    let of = settings(|wire| {
        wire.enforcing_success_rate = number(100);
        wire.enforcing_consecutive_5xx = number(0);
    });
    let mut world = World::new(of, 10);
    world.now = at(1);
    world.compare();
    world.now = at(11);
    for host in 0..10 {
        world.many(host, Outcome::Success, 999);
        world.observe(host, if host == 0 { Outcome::ServerError } else { Outcome::Success });
    }
    assert_eq!(world.compare(), [], "one of ten thousand failed");
}

#[test]
fn the_success_rate_of_being_answered_is_compared_apart() {
    let of = settings(|wire| {
        wire.split_external_local_origin_errors = true;
        wire.enforcing_consecutive_local_origin_failure = number(0);
    });
    let mut world = World::new(of, 6);
    world.now = at(1);
    world.compare();
    world.now = at(11);
    (0..6).for_each(|host| assert_eq!(world.many(host, Outcome::Success, 100), None));
    world.many(0, Outcome::LocalOrigin, 60);
    assert_eq!(world.compare(), [(0, Kind::SuccessRateLocalOrigin)]);
}

#[test]
fn an_endpoint_that_is_ejected_for_silence_comes_back_when_it_is_heard_and_not_before() {
    let world = World::new(settings(|_| {}), 2);
    let silent = &world.hosts[0];
    assert!(world.of.eject_silent(silent, 2) && !world.of.eject_silent(silent, 2));
    assert!(!world.of.eject_silent(&world.hosts[1], 2), "no more than half of them");
    assert!(silent.is_silent() && silent.standing(at(1_000_000)) == Standing::Ejected);
    assert_eq!(world.fail(9), None, "failures do not shorten it");
    assert!(silent.heard() && !silent.heard());
    assert!(silent.is_serving() && !silent.is_silent());
    assert_eq!((world.ejections.now(), world.ejections.total()), (0, 1));
}

#[test]
fn an_endpoint_that_leaves_is_no_longer_counted() {
    let mut world = World::new(settings(|_| {}), 2);
    world.fail(3);
    assert_eq!((world.ejections.now(), world.ejections.total()), (1, 1));
    world.hosts.clear();
    assert_eq!((world.ejections.now(), world.ejections.total()), (0, 1));
}

const OUTCOMES: [Outcome; 5] = [
    Outcome::Success,
    Outcome::Overloaded,
    Outcome::ServerError,
    Outcome::GatewayError,
    Outcome::LocalOrigin,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn never_more_than_the_percentage_is_ejected(
        endpoints in 1usize..12,
        most in 0u32..=100,
        split in any::<bool>(),
        steps in proptest::collection::vec((0usize..12, 0usize..5, 0u64..3), 1..300),
    ) {
        let of = settings(|wire| {
            wire.max_ejection_percent = number(most);
            wire.split_external_local_origin_errors = split;
            wire.enforcing_failure_percentage = number(100);
            wire.enforcing_success_rate = number(100);
        });
        let mut world = World::new(of, endpoints);
        for (which, outcome, forward) in steps {
            world.now += at(forward);
            world.observe(which % endpoints, OUTCOMES[outcome]);
            world.compare();
            let ejected = world.hosts.iter().filter(|host| !host.is_serving()).count();
            prop_assert!(ejected * 100 <= endpoints * most as usize);
            prop_assert_eq!(world.ejections.now() as usize, ejected);
        }
    }

    /// An outage behind all endpoints, or a path that fails on each of them, at any rate.
    #[test]
    fn where_all_fail_alike_nobody_is_ejected(
        seed in any::<u64>(),
        endpoints in 2usize..7,
        failing in 0.0f64..1.0,
        outcome in 2usize..5,
        millis in 1u64..200,
    ) {
        let mut world = World::new(defaults(), endpoints);
        let mut random = fastrand_like(seed);
        for _ in 0..2000 {
            world.now += Duration::from_millis(millis);
            let host = (random() * endpoints as f64) as usize;
            let outcome = if random() < failing { OUTCOMES[outcome] } else { Outcome::Success };
            prop_assert_eq!(world.observe(host, outcome), None);
        }
    }

    #[test]
    fn an_endpoint_that_fails_much_more_than_the_others_is_ejected(
        seed in any::<u64>(),
        endpoints in 2usize..7,
        failing in 0.7f64..1.0,
        others in 0.0f64..0.1,
        outcome in 2usize..5,
    ) {
        let mut world = World::new(defaults(), endpoints);
        let mut random = fastrand_like(seed);
        let mut ejected = None;
        for _ in 0..200 * endpoints {
            world.now += Duration::from_millis(1);
            let host = (random() * endpoints as f64) as usize;
            let failed = random() < if host == 0 { failing } else { others };
            let one = world.observe(host, if failed { OUTCOMES[outcome] } else { Outcome::Success });
            prop_assert!(one.is_none() || host == 0);
            ejected = ejected.or(one);
        }
        prop_assert!(ejected.is_some());
    }
}

/// Returns a generator of uniform numbers in `[0, 1)` (xorshift64*).
fn fastrand_like(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed | 1;
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}
