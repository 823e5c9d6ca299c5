use super::*;

const USUAL: Duration = Duration::from_millis(2);

struct World {
    answers: Rc<Answers>,
    host: Silence,
    now: Instant,
}

fn world() -> World {
    let (answers, now) = (Rc::new(Answers::default()), Instant::now());
    World { host: Silence::new(Rc::clone(&answers), now), answers, now }
}

impl World {
    fn later(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    /// Begins `times` attempts at the host, a millisecond apart.
    fn begin(&mut self, times: u32) {
        for _ in 0..times {
            self.host.begin(self.now);
            self.later(1);
        }
    }

    /// Records that another host answers a request that begins now.
    fn other_answers(&mut self) {
        let began = self.now;
        self.later(2);
        self.answers.note(began, USUAL);
    }

    fn doubt(&self) -> Option<bool> {
        self.host.doubt(self.now, || USUAL).map(|doubt| doubt.avoided)
    }
}

#[test]
fn a_host_that_answers_nothing_while_others_do_is_avoided_after_a_quarter_of_a_second() {
    let mut world = world();
    world.begin(3);
    world.other_answers();
    world.later(200);
    assert_eq!(world.doubt(), None, "not yet");
    world.later(100);
    assert_eq!(world.doubt(), Some(true));
    world.host.heard(world.now);
    assert_eq!(world.doubt(), Some(false), "a sign of life is enough, though its average is out of date");
    world.later(1);
    assert!(world.host.is_first(world.now) && !world.host.is_first(world.now));
    assert_eq!(world.doubt(), None);
}

#[test]
fn no_host_is_doubted_where_none_answers() {
    let mut world = world();
    world.other_answers();
    world.begin(30);
    world.later(30_000);
    assert_eq!(world.doubt(), None, "what was answered began before");
}

#[test]
fn what_began_before_a_sign_of_life_never_counts() {
    let mut world = world();
    world.begin(50);
    world.host.heard(world.now);
    world.other_answers();
    world.later(30_000);
    assert_eq!((world.doubt(), world.host.bound(world.now)), (None, Duration::ZERO));
}

#[test]
fn frames_of_a_response_are_signs_of_life() {
    let mut world = world();
    world.begin(5);
    world.other_answers();
    world.later(1000);
    let frames = world.host.frames();
    frames.set(frames.get() + 1);
    assert_eq!((world.doubt(), world.host.bound(world.now)), (Some(false), Duration::ZERO));
    world.begin(3);
    world.other_answers();
    world.later(1000);
    assert_eq!(world.doubt(), Some(true), "a frame before the attempt says nothing of it");
}

#[test]
fn a_slow_host_has_three_times_its_usual_time() {
    let mut world = world();
    world.begin(9);
    world.other_answers();
    world.later(2_000);
    assert_eq!(world.host.doubt(world.now, || Duration::from_secs(1)), None);
    world.later(1_000);
    assert!(world.host.doubt(world.now, || Duration::from_secs(1)).is_some());
}

#[test]
fn silence_never_makes_a_host_cheaper() {
    let mut world = world();
    world.begin(3);
    let mut before = Duration::ZERO;
    for _ in 0..100 {
        world.later(100);
        let bound = world.host.bound(world.now);
        assert!(bound > before, "{bound:?}");
        before = bound;
    }
}

#[test]
fn a_long_poll_or_two_cost_a_host_no_more_than_all_but_one_request_a_second() {
    let mut world = world();
    world.begin(2);
    world.other_answers();
    world.later(900);
    assert!(world.host.bound(world.now) >= Duration::from_millis(900));
    assert_eq!(world.doubt(), Some(false), "doubted, so that the next one is covered, and not avoided");
    world.later(100);
    assert_eq!(world.host.bound(world.now), Duration::ZERO);
}

#[test]
fn a_pair_is_due_every_second_and_a_test_at_growing_intervals() {
    let mut world = world();
    world.begin(3);
    let mut tests = Vec::new();
    for second in 0..200 {
        if world.host.is_test_due(world.now, false) {
            world.host.test_begins(world.now);
            world.host.begin(world.now);
            tests.push(second);
        }
        world.later(1000);
    }
    assert_eq!(tests, [1, 3, 7, 15, 31, 63, 123, 183]);
    assert!(world.host.is_pair_due(world.now));
    world.host.pair_begins(world.now);
    world.later(999);
    assert!(!world.host.is_pair_due(world.now) && !world.host.is_test_due(world.now, false));
}

#[test]
fn an_ejection_takes_five_seconds_of_silence_and_two_failed_pairs() {
    let mut world = world();
    world.begin(3);
    world.other_answers();
    for seconds in 1..=5 {
        world.later(1000);
        assert_eq!(world.host.is_proven(world.now, 0, false), seconds == 5);
        world.host.pair_failed();
    }
    assert!(world.host.heard(world.now), "it had been found silent");
    assert!(!world.host.is_proven(world.now, 0, false));
}

/// Half of the requests take 30 s, and none may be sent twice. A healthy host may well receive three slow ones in a row.
#[test]
fn without_pairs_slow_requests_eject_no_host_and_one_that_fails_every_test_is_ejected() {
    for (slow_elsewhere, ejected) in [(200, false), (2, true)] {
        let mut world = world();
        world.begin(3);
        for _ in 0..200 {
            world.other_answers();
        }
        for _ in 0..3 {
            world.later(2000);
            assert!(!world.host.is_proven(world.now, slow_elsewhere, false));
            world.host.test_begins(world.now);
            world.begin(1);
        }
        assert_eq!(world.host.is_proven(world.now, slow_elsewhere, false), ejected);
    }
}

#[test]
fn a_host_whose_pings_are_unanswered_too_needs_no_further_proof() {
    let mut world = world();
    world.begin(3);
    (0..20).for_each(|_| world.other_answers());
    world.later(6000);
    assert!(world.host.is_proven(world.now, 200, true) && !world.host.is_proven(world.now, 200, false));
}

#[tokio::test]
async fn waiters_are_notified_of_each_failed_pair() {
    let world = world();
    let (first, second) = (world.host.found(), world.host.found());
    world.host.pair_failed();
    tokio::join!(first, second);
    let third = world.host.found();
    world.host.pair_failed();
    third.await;
}
