//! Compares two hosts.

use fastrand::Rng;

use super::failing::passed_over;

/// The criteria of a comparison.
#[derive(Clone, Copy)]
pub(super) struct Comparison<'a> {
    /// Returns the cost of one more request; `None` if it is unknown.
    pub(super) cost: &'a dyn Fn(usize) -> Option<f64>,
    /// Returns the failure rate of the host, from 0 to 1.
    pub(super) failing: &'a dyn Fn(usize) -> f64,
}

impl Comparison<'_> {
    /// Returns the better of two hosts. The one that fails more is passed over in proportion; otherwise the cheaper one is
    /// returned, and `best` if they are equal.
    pub(super) fn better(&self, best: usize, other: usize, rng: &mut Rng) -> usize {
        let (of_best, of_other) = ((self.failing)(best), (self.failing)(other));
        let (worse, rest, by) = if of_best > of_other {
            (best, other, passed_over(of_best, of_other))
        } else {
            (other, best, passed_over(of_other, of_best))
        };
        if worse != rest && by > 0.0 && rng.f64() < by {
            return rest;
        }
        match ((self.cost)(other), (self.cost)(best)) {
            (Some(of_other), Some(of_best)) if of_other < of_best => other,
            _ => best,
        }
    }

    /// Returns `picked`, or a host that `draw` returns, in proportion to how much more `picked` fails. For policies that
    /// compare nothing else.
    pub(super) fn unless_failing(
        &self,
        picked: usize,
        draw: impl FnOnce(&mut Rng) -> Option<usize>,
        rng: &mut Rng,
    ) -> usize {
        if (self.failing)(picked) == 0.0 {
            return picked;
        }
        draw(rng).map_or(picked, |other| self.better(picked, other, rng))
    }
}
