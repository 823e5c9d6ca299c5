//! Consecutive failures.

use super::*;

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
fn what_is_not_answered_counts_apart_when_split() {
    let world = World::new(settings(|_| {}), 2);
    let outcomes = [Outcome::LocalOrigin, Outcome::GatewayError, Outcome::ServerError];
    assert_eq!(outcomes.map(|outcome| world.observe(0, outcome).is_some()), [false, false, true]);
    let world = World::new(defaults(), 2);
    world.many(1, Outcome::Success, 100);
    assert_eq!(world.many(0, Outcome::ServerError, 9), None);
    assert_eq!(world.many(0, Outcome::LocalOrigin, 4), None);
    let ejected = world.many(0, Outcome::LocalOrigin, 1).unwrap();
    assert_eq!(ejected, Ejected { kind: EjectionKind::ConsecutiveLocalOriginFailure, span: at(2) });
}

#[test]
fn a_dead_endpoint_is_ejected_after_five_connections_if_others_can_be_reached() {
    let world = World::new(defaults(), 2);
    assert_eq!(world.many(0, Outcome::LocalOrigin, 19), None, "whether the other one can is unknown");
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
