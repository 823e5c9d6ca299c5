//! One after another; at random, by weight, where weights differ
//! (`envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin`).

use std::cell::RefCell;

use fastrand::Rng;

use super::candidates::Candidates;
use super::comparison::Comparison;

/// For each group, the index of the host whose turn it is. If that one is no candidate, the next one gets the attempt.
#[derive(Debug, Default)]
pub(in crate::upstream) struct RoundRobin(RefCell<Vec<usize>>);

impl RoundRobin {
    pub(super) fn pick(
        &self,
        candidates: &Candidates<'_>,
        by: Comparison<'_>,
        rng: &mut Rng,
    ) -> Option<usize> {
        let next = match candidates.weight_sums {
            Some(_) => candidates.draw(None, rng)?,
            None => candidates.unless_new(self.next(candidates)?, rng),
        };
        Some(by.unless_failing(next, |rng| candidates.draw(Some(next), rng), rng))
    }

    fn next(&self, candidates: &Candidates<'_>) -> Option<usize> {
        let turns = &mut *self.0.borrow_mut();
        if turns.len() <= candidates.group {
            turns.resize(candidates.group + 1, 0);
        }
        let next = candidates.next(turns[candidates.group])?;
        turns[candidates.group] = next + 1;
        Some(next)
    }
}
