//! Applications of several kinds under too much load, and under loads that are healthy but uneven. Time is simulated.

mod simulation;

use outrigger_test_support::limits::{Algorithm, Limit};
use simulation::{Arrival, Random, Simulation, at_rate};

use super::*;

const MILLISECOND: u64 = 1000;
const SECOND: u64 = 1000 * MILLISECOND;

/// Numbers that differ with `seed`.
fn seeded(seed: usize) -> Random {
    let mut random = Random::default();
    (0..7 * seed).for_each(|_| _ = random.below(10));
    random
}

/// Ten times as much as the application can process, for ten seconds, and then three quarters of it.
fn overload(seed: usize, per_second: u64, request: impl Fn(&mut Random) -> (u64, u64)) -> Vec<Arrival> {
    let mut random = seeded(seed);
    let mut all = at_rate(10 * per_second, 0..10 * SECOND, &mut random, &request);
    all.extend(at_rate(per_second * 3 / 4, 10 * SECOND..20 * SECOND, &mut random, &request));
    all.iter_mut().for_each(|arrival| arrival.patience = SECOND);
    all
}

#[test]
fn an_overloaded_application_answers_in_time_what_it_can_and_recovers_at_once() {
    type Request = fn(&mut Random) -> (u64, u64);
    let kinds: [(&str, usize, usize, u64, f64, Request); 5] = [
        ("one thread", 1, 1, 133, 0.95, |_| (7500, 0)),
        ("one thread, uneven work", 8, 1, 133, 0.8, |random| (random.exponential(7500), 0)),
        ("eight threads, uneven work", 4, 8, 400, 0.65, |random| (random.exponential(20_000), 0)),
        ("sixty-four threads", 1, 64, 4000, 0.85, |random| (8000 + random.exponential(8000), 0)),
        ("fans out", 1, 1, 500, 0.7, |_| (2000, 20_000)),
    ];
    for (name, seeds, threads, per_second, share, request) in kinds {
        for notices in [true, false] {
            let one = |seed: usize| {
                let outcome = Simulation { threads, notices, ..Simulation::default() }
                    .run(overload(seed, per_second, request), 20 * SECOND);
                assert_eq!(outcome.refused(12 * SECOND..20 * SECOND), 0, "{name}, {seed}");
                let useful = outcome.useful(0..10 * SECOND, 100 * MILLISECOND);
                useful as f64 / 10.0 / per_second as f64
            };
            let each: Vec<_> = (0..seeds).map(one).collect();
            let useful = each.iter().sum::<f64>() / seeds as f64;
            println!("{name}, notices {notices}: {useful:.2} of the capacity in time, {each:.2?}");
            assert!(useful >= share, "{name}, notices {notices}: {each:.2?}");
        }
    }
}

#[test]
fn a_limit_is_found_whatever_the_order_of_the_first_requests() {
    for (threads, work, share) in [(1, 7500, 0.95), (6, 45_000, 0.82), (1, 30_000, 0.2)] {
        for skipped in 0..10 {
            let mut random = seeded(skipped);
            let mut load = at_rate(66, 0..3 * SECOND, &mut random, |_| (work, 0));
            load.extend(at_rate(1330, 3 * SECOND..13 * SECOND, &mut random, |_| (work, 0)));
            load.iter_mut().for_each(|arrival| arrival.patience = SECOND);
            let outcome =
                Simulation { threads, notices: true, ..Simulation::default() }.run(load, 13 * SECOND);
            let useful = outcome.useful(3 * SECOND..13 * SECOND, 100 * MILLISECOND) as f64 / 1330.0;
            assert!(
                useful >= share,
                "{threads} threads of {work} us, {skipped} skipped: {useful:.2} of 133/s in time"
            );
            // The others learn it soon, instead of waiting for as long as they can.
            let refused = outcome.refused(8 * SECOND..13 * SECOND);
            assert!(refused > 5000, "{threads} threads of {work} us, {skipped} skipped: {refused} refused");
        }
    }
}

#[test]
fn an_application_that_becomes_slow_answers_in_time_what_it_still_can() {
    let useful = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(|seed| {
        let mut load = at_rate(100, 0..13 * SECOND, &mut seeded(seed), |_| (7500, 0));
        load.iter_mut().for_each(|arrival| arrival.patience = SECOND);
        let slow = vec![(3 * SECOND..13 * SECOND, 4)];
        let outcome = Simulation { threads: 1, notices: true, slow }.run(load, 13 * SECOND);
        outcome.useful(5 * SECOND..13 * SECOND, 100 * MILLISECOND) / 8
    });
    println!("four times slower: {useful:?} of 33/s in time, after two seconds");
    assert!(useful.iter().sum::<usize>() >= 220 && useful.iter().all(|useful| *useful >= 15), "{useful:?}");
}

/// What shows that an application is busy: each request takes as long as all before it.
fn busy() -> Observed {
    let mut observed = Observed::default();
    for among in 1..=64 {
        observed.0.evidence.add(among, 2 * among, Duration::from_micros(7500) * among);
    }
    observed
}

#[test]
fn a_limit_that_was_stopped_begins_without_what_was_known() {
    let limiter = Limiter::default();
    let at = |seconds| Duration::from_secs(seconds);
    assert_eq!(limiter.round(at(10), 0, 0, &mut Observed::default()), Some(u32::MAX));
    assert!(limiter.round(at(11), 64, 0, &mut busy()).is_some_and(|limit| limit < 64));
    limiter.turnaround.store(500_000, Relaxed);
    limiter.stop();
    assert_eq!((limiter.turnaround(), limiter.patience(), limiter.limit()), (None, LONG, u32::MAX));
    assert!(!limiter.is_used());
    // The next round has no limit to keep.
    assert_eq!(limiter.round(at(12), 64, 0, &mut Observed::default()), Some(u32::MAX));
}

#[test]
fn a_limit_is_refuted_also_if_it_began_before_the_rate_of_answers_was_known() {
    let limiter = Limiter::default();
    let at = |milliseconds: u64| Duration::from_millis(1_000_000 + milliseconds);
    limiter.round(at(0), 0, 0, &mut Observed::default());
    assert!(limiter.round(at(50), 64, 0, &mut busy()).is_some_and(|limit| limit < 64));
    // The line predicts 60 ms.
    let mut slow = Observed::default();
    (0..8).for_each(|_| slow.0.evidence.add(8, 8, Duration::from_secs(2)));
    assert_eq!(limiter.round(at(100), 64, 0, &mut slow), Some(u32::MAX));
}

#[test]
fn other_algorithms_answer_less_in_time_or_refuse_what_is_no_overload() {
    type Make = Box<dyn Fn(usize) -> Option<Box<dyn Limit>>>;
    let ours: (&str, Make) = ("Outrigger", Box::new(|_| None));
    let others = Algorithm::ALL.map(|algorithm| -> (&str, Make) {
        (algorithm.name(), Box::new(move |threads| Some(algorithm.start(threads as u32))))
    });
    println!("| algorithm | one thread | six threads | slow | refused of a busy load | of bursts |");
    let mut all = Vec::new();
    for (name, make) in std::iter::once(ours).chain(others) {
        let useful = [(1, 7500), (6, 45_000), (1, 30_000)].map(|(threads, work)| {
            let mut random = seeded(0);
            let mut load = at_rate(66, 0..3 * SECOND, &mut random, |_| (7500.min(work), 0));
            load.extend(at_rate(1330, 3 * SECOND..13 * SECOND, &mut random, |_| (work, 0)));
            load.iter_mut().for_each(|arrival| arrival.patience = SECOND);
            let app = Simulation { threads, notices: true, ..Simulation::default() };
            let outcome = app.run_with(make(threads), load, 13 * SECOND);
            outcome.useful(3 * SECOND..13 * SECOND, 100 * MILLISECOND) / 10
        });
        let app = |threads| Simulation { threads, notices: true, ..Simulation::default() };
        let random = &mut Random::default();
        let busy = at_rate(360, 0..60 * SECOND, random, |random| (random.exponential(10_000), 0));
        let bursts = (0..30).flat_map(|burst| (0..60).map(move |number| (burst, number)));
        let bursts = bursts.map(|(burst, number)| Arrival::new(2 * SECOND * burst + 500 * number, 7500, 0));
        let refused = [(4, busy), (1, bursts.collect())].map(|(threads, load)| {
            let sent = load.len();
            app(threads).run_with(make(threads), load, 63 * SECOND).refused(0..63 * SECOND) * 1000 / sent
        });
        println!("| {name} | {useful:?} | {refused:?} per thousand");
        all.push((name, useful, refused));
    }
    let (_, ours, refused) = all.remove(0);
    assert_eq!(refused, [0, 0]);
    for (name, useful, refused) in all {
        let less = useful.iter().zip(ours).any(|(useful, ours)| *useful < ours * 9 / 10);
        assert!(less || refused != [0, 0], "{name}: {useful:?}, {ours:?}, refused {refused:?}");
    }
}

#[test]
fn without_overload_nothing_is_refused() {
    let end = 120 * SECOND;
    let random = &mut Random::default();
    let periods = |length: u64| (0..end / length).map(move |number| number * length);
    let mut loads: Vec<(&str, Simulation, Vec<Arrival>)> = Vec::new();
    let app = |threads| Simulation { threads, ..Simulation::default() };

    let busy = at_rate(360, 0..end, random, |random| (random.exponential(10_000), 0));
    loads.push(("busy: nine tenths of the capacity", app(4), busy));

    let mixed = at_rate(200, 0..end, random, |random| match random.below(40) {
        0 => (2000, 2 * SECOND),
        _ => (random.exponential(2000), 0),
    });
    loads.push(("mixed: fast requests and reports", app(8), mixed));

    let mut bursts = at_rate(20, 0..end, random, |_| (7500, 0));
    for begin in periods(2 * SECOND) {
        bursts.extend((0..60).map(|number| Arrival::new(begin + 500 * number, 7500, 0)));
    }
    loads.push(("bursts of half a second's work", app(1), bursts));

    let slow_start = at_rate(50, 0..end, random, |random| (random.exponential(10_000), 0));
    let mut cold = app(4);
    cold.slow = vec![(0..3 * SECOND, 20)];
    loads.push(("slow start: twenty times slower for three seconds", cold, slow_start));

    let polls = |random: &mut Random, clients: usize| -> Vec<Arrival> {
        let mut all = Vec::new();
        for _ in 0..clients {
            let mut at = random.below(30 * SECOND);
            while at < end {
                let waits = random.below(30 * SECOND);
                all.push(Arrival::new(at, 100, waits));
                at += waits + 100 * MILLISECOND;
            }
        }
        all
    };
    let only_polls = polls(random, 500);
    loads.push(("long polls", app(100), only_polls));
    let mut among = polls(random, 100);
    among.extend(at_rate(130, 0..end, random, |random| (random.exponential(10_000), 0)));
    loads.push(("long polls among requests", app(2), among));

    let mut slower = Vec::new();
    for begin in periods(30 * SECOND) {
        let fast = begin..begin + 20 * SECOND;
        let slow = fast.end..begin + 30 * SECOND;
        slower.extend(at_rate(100, fast, random, |random| (1000, 40_000 + random.exponential(10_000))));
        slower.extend(at_rate(100, slow, random, |random| (1000, 180_000 + random.exponential(20_000))));
    }
    loads.push(("a dependency four times slower for ten seconds", app(100), slower));

    let mut batches = at_rate(2, 0..end, random, |_| (5000, 0));
    for begin in periods(10 * SECOND) {
        let report =
            |number: u64| Arrival::new(begin + 10_000 * number, 2000, 1_800_000 + random.below(400_000));
        batches.extend((0..50).map(report));
    }
    loads.push(("batches of reports", app(50), batches));

    // All of it at once, as the fault bench sends it.
    for (seed, cold) in [(1, true), (3, false), (4, true), (7, false), (8, true)] {
        let random = &mut seeded(seed);
        let minute = 0..60 * SECOND;
        let mut all: Vec<_> = (0..167 * 50).map(|at| Arrival::new(at * SECOND / 167, 5000, 0)).collect();
        all.extend(at_rate(2, 0..50 * SECOND, random, |_| (100_000, 0)));
        all.extend((0..5 * 67).map(|at| Arrival::new(at / 67 * 10 * SECOND + at % 67 * 100, 5000, 0)));
        all.extend((0..165).map(|at| Arrival::new(at * 300 * MILLISECOND, 100, 9 * SECOND)));
        let mut everything = app(4);
        everything.notices = true;
        everything.slow = if cold { vec![(20 * SECOND..23 * SECOND, 10)] } else { Vec::new() };
        assert!(all.iter().all(|arrival| minute.contains(&arrival.at)));
        loads.push(("fast requests, reports, bursts, long polls, slow starts", everything, all));
    }

    let pauses = at_rate(60, 0..end, random, |_| (7500, 0));
    let mut pausing = app(1);
    pausing.slow = periods(5 * SECOND).map(|begin| (begin + 2 * SECOND..begin + 2_700_000, 93)).collect();
    loads.push(("pauses of 0.7 seconds", pausing, pauses));

    for (name, simulation, arrivals) in loads {
        let outcome = simulation.run(arrivals, end);
        assert_eq!(outcome.refused(0..end), 0, "{name}");
        assert!(outcome.useful(0..end, 60 * SECOND) > 100, "{name}");
    }
}
