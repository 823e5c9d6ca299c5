//! Which of two hosts is the better one.

use fastrand::Rng;

use super::failing::passed_over;

/// What is compared between hosts that were drawn.
#[derive(Clone, Copy)]
pub(super) struct Comparison<'a> {
    /// What one more request would cost; None if nobody knows.
    pub(super) cost: &'a dyn Fn(usize) -> Option<f64>,
    /// How often the host fails, from 0 to 1.
    pub(super) failing: &'a dyn Fn(usize) -> f64,
}

impl Comparison<'_> {
    /// The better of two: one that fails more is passed over as often as it does; else the cheaper, `best` of equals.
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

    /// `picked`; or another that `draw` returns, as often as `picked` fails more. For balancing that compares nothing else.
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
