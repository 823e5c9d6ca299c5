//! The one with the fewest requests in flight for its weight, of some that are drawn
//! (`envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest`).

use fastrand::Rng;

use super::candidates::Candidates;
use super::comparison::Comparison;
use super::p2c::best_drawn;

/// Returns the best of `choices` drawn candidates; of all candidates if there are no more (`FULL_SCAN`).
pub(super) fn pick(
    candidates: &Candidates<'_>,
    choices: u32,
    by: Comparison<'_>,
    rng: &mut Rng,
) -> Option<usize> {
    if choices > 2 && candidates.hosts.len() <= choices as usize {
        let all = candidates.old_enough(candidates.all(rng), rng);
        return all.into_iter().reduce(|best, other| by.better(best, other, rng));
    }
    best_drawn(candidates, choices, by, rng)
}
