//! How long an ejection lasts, how it ends, and how many endpoints may be ejected.

use super::*;

#[test]
fn the_last_endpoint_is_never_ejected_unless_configured() {
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
fn a_failed_probe_ejects_again_for_longer_and_three_good_ones_in_a_row_end_it() {
    let mut world = World::new(defaults(), 3);
    (1..3).for_each(|host| assert_eq!(world.many(host, Outcome::Success, 30), None));
    assert_eq!(world.fail(20), Some(at(2)));
    world.now = at(2);
    assert_eq!(world.observe(0, Outcome::Success), None);
    let again = world.observe(0, Outcome::ServerError).unwrap();
    assert_eq!(again, Ejected { kind: EjectionKind::FailedProbe, span: at(4) });
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
fn an_endpoint_ejected_for_silence_returns_only_when_it_answers() {
    let world = World::new(settings(|_| {}), 2);
    let silent = &world.hosts[0];
    assert!(world.of.eject_silent(silent, 2) && !world.of.eject_silent(silent, 2));
    assert!(!world.of.eject_silent(&world.hosts[1], 2), "no more than half of them");
    assert!(silent.is_silent() && silent.state(at(1_000_000)) == EjectionState::Ejected);
    assert_eq!(world.fail(9), None, "failures do not shorten it");
    assert!(silent.answered() && !silent.answered());
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
