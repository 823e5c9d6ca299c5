//! Failure percentage and success rate.

use super::*;

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
    assert_eq!(ejected.map(|ejected| ejected.kind), Some(EjectionKind::FailurePercentage));
    // Over the whole interval, the same failures are a small share.
    let mut world = World::new(defaults(), 3);
    for host in 0..3 {
        world.many(host, Outcome::Success, 400);
    }
    assert_eq!(world.many(0, Outcome::ServerError, 20), None);
    world.now = at(3);
    assert_eq!(world.many(0, Outcome::ServerError, 20), None, "no other endpoint serves just now");
}

#[test]
fn an_endpoint_that_fails_four_times_of_five_is_ejected_soon_after_its_twentieth_request() {
    for hosts in [2, 3, 10] {
        let world = World::new(defaults(), hosts);
        (1..hosts).for_each(|host| assert_eq!(world.many(host, Outcome::Success, 30), None));
        let at = (0..40).position(|at| {
            let outcome = if at % 5 == 0 { Outcome::Success } else { Outcome::ServerError };
            let ejected = world.observe(0, outcome);
            assert!(ejected.is_none_or(|ejected| ejected.kind == EjectionKind::FailurePercentage));
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
    assert_eq!(ejected.unwrap().kind, EjectionKind::FailurePercentage);
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
    assert_eq!(broken(19).unwrap().kind, EjectionKind::FailurePercentageLocalOrigin);
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
fn no_endpoint_is_ejected_without_enough_requests_elsewhere() {
    let world = World::new(defaults(), 2);
    world.many(1, Outcome::Success, 19);
    assert_eq!(world.many(0, Outcome::ServerError, 100), None);
    world.many(1, Outcome::Success, 1);
    assert!(world.many(0, Outcome::ServerError, 1).is_some());
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
    assert_eq!(world.compare(), [(0, EjectionKind::SuccessRate)]);
    assert_eq!(world.ejections.now(), 1);
}

#[test]
fn a_success_rate_that_chance_explains_ejects_no_endpoint() {
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
    assert_eq!(world.compare(), [(0, EjectionKind::SuccessRateLocalOrigin)]);
}
