//! One after another; by chance and weight where weights differ
//! (`envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin`).

use std::cell::Cell;

use fastrand::Rng;

use super::candidates::Candidates;
use super::comparison::Comparison;

/// Whose turn it is: the host of this index, or the next one that is a candidate.
#[derive(Debug, Default)]
pub(in crate::upstream) struct RoundRobin(Cell<usize>);

impl RoundRobin {
    pub(super) fn pick(
        &self,
        candidates: &Candidates<'_>,
        by: Comparison<'_>,
        rng: &mut Rng,
    ) -> Option<usize> {
        let next = if candidates.weigh() {
            candidates.draw(None, rng)?
        } else {
            let next = candidates.next(self.0.get())?;
            self.0.set(next + 1);
            next
        };
        Some(by.unless_failing(next, |rng| candidates.draw(Some(next), rng), rng))
    }
}
