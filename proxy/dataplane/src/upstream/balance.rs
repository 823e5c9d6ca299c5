//! Which host gets the next try: the cheapest of some (two) drawn at random, by peak EWMA of latency times requests in
//! flight, or by the latter alone.
//!
//! Per worker, without locks. Two random choices avoid the herd that follows a single best (Mitzenmacher, "The Power of
//! Two Choices"). The average jumps up to a slow answer at once and sinks with time, so that a host in trouble is left
//! within one round trip and asked again after some seconds. A failed answer is no sample of latency: it makes a host
//! neither cheaper nor dearer, but is a reason to pass it over (`failing`).

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::failing::{FailureRate, passed_over};

/// Time in which an old latency loses all but 1/e of its weight: a host that was a hundred times slower than its
/// neighbours, once, is asked again after some 14 s.
const DECAY: Duration = Duration::from_secs(3);

/// What a host costs that is still working on its first request, in seconds, so that an unknown host is first asked once.
const UNKNOWN_SECONDS: f64 = 1.0;

/// How loaded one host is, as one worker sees it.
#[derive(Debug)]
pub(super) struct Load {
    average_seconds: Cell<f64>,
    updated: Cell<Instant>,
    pub(super) failing: FailureRate,
    in_flight: Cell<u32>,
    weight: f64,
}

impl Load {
    /// A host that was never asked. `weight` is its share relative to other hosts (`load_balancing_weight`).
    pub(super) fn new(weight: u32, now: Instant) -> Self {
        Self {
            average_seconds: Cell::new(0.0),
            updated: Cell::new(now),
            failing: FailureRate::new(now),
            in_flight: Cell::new(0),
            weight: f64::from(weight.max(1)),
        }
    }

    /// A try begins.
    pub(super) fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// A try is over, in whatever way.
    pub(super) fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// The head of an answer that is no failure came after `latency`.
    pub(super) fn answered(&self, latency: Duration, now: Instant) {
        let seconds = latency.as_secs_f64();
        let average = self.average_seconds.get();
        let keep = self.decay(now);
        let next = if seconds > average { seconds } else { average * keep + seconds * (1.0 - keep) };
        self.average_seconds.set(next);
        self.updated.set(now);
        self.failing.succeeded(now);
    }

    /// The attempt failed, or its answer says that the request did.
    pub(super) fn failed(&self, now: Instant) {
        self.failing.failed(now);
    }

    /// What was known of its latency is out of date.
    pub(super) fn forget(&self) {
        self.average_seconds.set(0.0);
    }

    /// Tries under way.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// The average as it is by now, to be shown; `None` of a host that never answered.
    pub(super) fn latency(&self, now: Instant) -> Option<Duration> {
        let average = self.average_seconds.get();
        (average > 0.0).then(|| Duration::from_secs_f64(average * self.decay(now)))
    }

    /// Tries under way for what the host is worth.
    pub(super) fn queue(&self) -> f64 {
        f64::from(self.in_flight.get()) / self.weight
    }

    /// What one more request would cost, in seconds of waiting. None of a host that only ever failed: it is neither cheaper nor
    /// dearer than any other.
    pub(super) fn cost(&self, now: Instant) -> Option<f64> {
        let in_flight = f64::from(self.in_flight.get());
        let average = self.average_seconds.get();
        let seconds = match average == 0.0 {
            true if in_flight > 0.0 => UNKNOWN_SECONDS,
            true if self.failing.at(now) > 0.0 => return None,
            _ => average * self.decay(now),
        };
        // One more request weighs the same wherever it goes, so that two idle hosts differ by their latency alone: that the
        // heavier one gets more is for the draw (`pick_by_weight`).
        Some(seconds * (in_flight / self.weight + 1.0))
    }

    fn decay(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.updated.get());
        (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

/// What is compared between hosts that were drawn.
#[derive(Clone, Copy)]
pub(super) struct Comparison<'a> {
    /// What one more request would cost; None if nobody knows.
    pub(super) cost: &'a dyn Fn(usize) -> Option<f64>,
    /// How often the host fails, from 0 to 1.
    pub(super) failing: &'a dyn Fn(usize) -> f64,
    /// A uniform number from 0, without 1.
    pub(super) chance: &'a dyn Fn() -> f64,
}

impl Comparison<'_> {
    /// The better of two: one that fails more is passed over as often as it does; else the cheaper, `best` of equals.
    pub(super) fn better(&self, best: usize, other: usize) -> usize {
        let (of_best, of_other) = ((self.failing)(best), (self.failing)(other));
        let (worse, rest, by) = if of_best > of_other {
            (best, other, passed_over(of_best, of_other))
        } else {
            (other, best, passed_over(of_other, of_best))
        };
        if worse != rest && by > 0.0 && (self.chance)() < by {
            return rest;
        }
        match ((self.cost)(other), (self.cost)(best)) {
            (Some(of_other), Some(of_best)) if of_other < of_best => other,
            _ => best,
        }
    }

    /// `picked`, or where it fails another that `draw` gives, as often as it fails more. For balancing that compares
    /// nothing else.
    pub(super) fn unless_failing(&self, picked: usize, draw: impl FnOnce() -> Option<usize>) -> usize {
        if (self.failing)(picked) == 0.0 {
            return picked;
        }
        draw().map_or(picked, |other| self.better(picked, other))
    }
}

/// The index of the host that gets the next attempt: the best of `choices` drawn among those `usable`, or of all where
/// there are no more; `None` when there is none.
///
/// `draw` gives a uniform number below its argument.
pub(super) fn pick(
    count: usize,
    choices: u32,
    by: Comparison<'_>,
    usable: impl Fn(usize) -> bool,
    mut draw: impl FnMut(usize) -> usize,
) -> Option<usize> {
    if choices > 2 && choices as usize >= count && count > 0 {
        let start = draw(count);
        let all = (0..count).map(|step| (start + step) % count).filter(|index| usable(*index));
        return all.reduce(|best, other| by.better(best, other));
    }
    let mut best = draw_usable(count, &usable, None, &mut draw)?;
    for _ in 1..choices {
        let Some(other) = draw_usable(count, &usable, Some(best), &mut draw) else { break };
        best = by.better(best, other);
    }
    if choices == 1 {
        best = by.unless_failing(best, || draw_usable(count, &usable, Some(best), &mut draw));
    }
    Some(best)
}

/// As [`pick`], among `candidates` that are drawn by their weight: equal costs give each its share.
///
/// A host may be drawn twice: were it not, of two hosts both would always be drawn, and their weights have no say.
pub(super) fn pick_by_weight(
    candidates: &[usize],
    choices: u32,
    weight: impl Fn(usize) -> u32,
    by: Comparison<'_>,
    mut draw: impl FnMut(u64) -> u64,
) -> Option<usize> {
    let total: u64 = candidates.iter().map(|index| u64::from(weight(*index))).sum();
    if total == 0 {
        return None;
    }
    let mut drawn = || {
        let mut point = draw(total);
        let holds = |index: &usize| {
            let weight = u64::from(weight(*index));
            let here = point < weight;
            point = point.saturating_sub(weight);
            here
        };
        candidates.iter().copied().find(holds)
    };
    let better = |best, other| by.better(best, other);
    if choices as usize > 2 && choices as usize >= candidates.len() {
        return candidates.iter().copied().reduce(better);
    }
    let best = (0..choices.max(1)).filter_map(|_| drawn()).reduce(better)?;
    Some(if choices > 1 { best } else { by.unless_failing(best, drawn) })
}

/// A random usable index other than `not`: a few draws, then a walk from a random start.
fn draw_usable(
    count: usize,
    usable: &impl Fn(usize) -> bool,
    not: Option<usize>,
    draw: &mut impl FnMut(usize) -> usize,
) -> Option<usize> {
    if count == 0 {
        return None;
    }
    let fits = |index: usize| Some(index) != not && usable(index);
    for _ in 0..3 {
        let index = draw(count);
        if fits(index) {
            return Some(index);
        }
    }
    let start = draw(count);
    (0..count).map(|step| (start + step) % count).find(|index| fits(*index))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn loads(count: usize) -> Vec<Load> {
        (0..count).map(|_| Load::new(1, Instant::now())).collect()
    }

    fn picks(loads: &[Load], usable: impl Fn(usize) -> bool + Copy, now: Instant) -> Vec<usize> {
        picks_of(loads, 2, |index| loads[index].cost(now), usable, now)
    }

    fn picks_of(
        loads: &[Load],
        choices: u32,
        cost: impl Fn(usize) -> Option<f64>,
        usable: impl Fn(usize) -> bool + Copy,
        now: Instant,
    ) -> Vec<usize> {
        let (mut seed, chance) = (fastrand::Rng::with_seed(7), RefCell::new(fastrand::Rng::with_seed(8)));
        let failing = |index: usize| loads[index].failing.at(now);
        let by = Comparison { cost: &cost, failing: &failing, chance: &|| chance.borrow_mut().f64() };
        let mut counts = vec![0; loads.len()];
        for _ in 0..1000 {
            let picked = pick(loads.len(), choices, by, usable, |below| seed.usize(..below));
            counts[picked.unwrap()] += 1;
        }
        counts
    }

    /// Hosts that do not fail.
    fn well(cost: &dyn Fn(usize) -> Option<f64>) -> Comparison<'_> {
        Comparison { cost, failing: &|_| 0.0, chance: &|| 0.0 }
    }

    #[test]
    fn a_slow_host_is_left_at_once_and_asked_again_after_a_while() {
        let (loads, now) = (loads(3), Instant::now());
        loads[0].answered(Duration::from_millis(200), now);
        loads[1].answered(Duration::from_millis(2), now);
        loads[2].answered(Duration::from_millis(2), now);
        assert_eq!(picks(&loads, |_| true, now)[0], 0);
        for load in &loads[1..] {
            load.answered(Duration::from_millis(2), now + DECAY * 6);
        }
        assert!(picks(&loads, |_| true, now + DECAY * 6)[0] > 200);
    }

    #[test]
    fn a_failed_answer_makes_a_host_neither_cheaper_nor_dearer() {
        let (loads, now) = (loads(3), Instant::now());
        for load in &loads {
            load.answered(Duration::from_millis(40), now);
        }
        let before = loads[0].cost(now);
        (0..100).for_each(|_| loads[0].failed(now));
        assert_eq!(loads[0].cost(now), before);
    }

    #[test]
    fn a_host_that_fails_at_once_gets_no_more_than_its_share_however_busy_the_others_are() {
        for (hosts, choices) in [(2, 2), (3, 2), (3, 1), (3, u32::MAX), (10, 2)] {
            let (loads, now) = (loads(hosts), Instant::now());
            for load in &loads {
                load.answered(Duration::from_millis(40), now);
                (0..10).for_each(|_| load.begin());
            }
            (0..10).for_each(|_| loads[0].end());
            (0..100).for_each(|at| {
                if at % 5 == 0 { loads[0].failing.succeeded(now) } else { loads[0].failed(now) }
            });
            let cost = |index: usize| if choices == 1 { Some(0.0) } else { loads[index].cost(now) };
            let counts = picks_of(&loads, choices, cost, |_| true, now);
            assert!((1..=1000 / hosts).contains(&counts[0]), "{counts:?} with {choices} choices");
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
            let cost = |index: usize| if known { Some(0.0) } else { loads[index].cost(now) };
            let first = picks_of(&loads, 2, cost, |_| true, now)[0];
            assert!((400..500).contains(&first), "{first} of 1000");
        }
    }

    #[test]
    fn where_all_fail_alike_each_keeps_its_share() {
        let (loads, now) = (loads(3), Instant::now());
        for load in &loads {
            (0..50).for_each(|_| load.failed(now));
        }
        assert!(picks(&loads, |_| true, now).iter().all(|count| (250..420).contains(count)));
    }

    #[test]
    fn a_failing_host_is_still_asked_now_and_then_and_gets_its_share_when_it_is_well() {
        let (loads, now) = (loads(2), Instant::now());
        (0..1000).for_each(|_| loads[0].failed(now));
        let asked = picks_of(&loads, 2, |_| Some(0.0), |_| true, now)[0];
        assert!((10..100).contains(&asked), "{asked}");
        (0..100).for_each(|_| loads[0].answered(Duration::from_millis(1), now));
        let asked = picks_of(&loads, 2, |_| Some(0.0), |_| true, now)[0];
        assert!((400..600).contains(&asked), "{asked}");
    }

    #[test]
    fn the_average_jumps_up_and_sinks_slowly() {
        let now = Instant::now();
        let load = Load::new(1, now);
        load.answered(Duration::from_millis(100), now);
        load.answered(Duration::from_millis(1), now + DECAY / 10);
        assert!(load.average_seconds.get() > 0.09);
    }

    #[test]
    fn a_busy_host_gets_less_and_a_heavier_one_more() {
        let now = Instant::now();
        let loads = loads(2);
        for load in &loads {
            load.answered(Duration::from_millis(5), now);
        }
        loads[0].begin();
        assert_eq!(picks(&loads, |_| true, now), [0, 1000]);
        let heavy = [Load::new(3, now), Load::new(1, now)];
        for load in &heavy {
            load.answered(Duration::from_millis(5), now);
            load.begin();
        }
        assert_eq!(picks(&heavy, |_| true, now), [1000, 0]);
    }

    #[test]
    fn only_usable_hosts_are_picked() {
        let (loads, now) = (loads(5), Instant::now());
        let counts = picks(&loads, |index| index == 3, now);
        assert_eq!(counts[3], 1000);
        let free = well(&|_| Some(0.0));
        assert_eq!(pick(loads.len(), 2, free, |_| false, |_| 0), None);
        assert_eq!(pick(0, 2, free, |_| true, |_| 0), None);
        assert_eq!(pick(0, 9, free, |_| true, |_| 0), None);
    }

    #[test]
    fn as_many_are_looked_at_as_asked_for() {
        let queue = |index: usize| Some([5.0, 4.0, 3.0, 2.0, 1.0, 0.0][index]);
        let mut seed = fastrand::Rng::with_seed(7);
        let mut best_of = |choices| {
            let queue = well(&queue);
            let mut best = || pick(6, choices, queue, |index| index != 5, |below| seed.usize(..below));
            (0..1000).filter(|_| best() == Some(4)).count()
        };
        let (two, four, all) = (best_of(2), best_of(4), best_of(u32::MAX));
        assert!(two < 500 && two < four && four < 1000 && all == 1000, "{two} {four} {all}");
    }

    #[test]
    fn unequal_hosts_get_shares_by_weight_and_less_when_they_are_slow_or_busy() {
        let weight = |index: usize| [3, 1, 0][index];
        let share = |cost: fn(usize) -> f64| {
            let mut seed = fastrand::Rng::with_seed(7);
            let cost = |index| Some(cost(index));
            let cost = well(&cost);
            let mut pick = || pick_by_weight(&[0, 1, 2], 2, weight, cost, |below| seed.u64(..below));
            (0..1000).filter(|_| pick() == Some(0)).count()
        };
        assert!((700..800).contains(&share(|_| 0.0)), "{}", share(|_| 0.0));
        assert!(share(|index| [1.0, 0.0, 0.0][index]) < 600);
        assert!(share(|index| [0.0, 1.0, 0.0][index]) > 900);
        assert_eq!(pick_by_weight(&[2], 2, weight, well(&|_| Some(0.0)), |_| 0), None);
        assert_eq!(pick_by_weight(&[], 9, weight, well(&|_| Some(0.0)), |_| 0), None);
    }

    #[test]
    fn equal_hosts_share_equally() {
        let (loads, now) = (loads(4), Instant::now());
        for count in picks(&loads, |_| true, now) {
            assert!((150..350).contains(&count), "{count} of 1000");
        }
    }
}
