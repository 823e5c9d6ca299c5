//! Power of two random choices (`outrigger.lb.v1.PeakEwma`).
//!
//! Two random choices avoid the herd that follows a single best host (Mitzenmacher, "The Power of Two Choices in Randomized
//! Load Balancing"). The cost is the peak EWMA of latency times requests in flight.

use fastrand::Rng;

use super::candidates::Candidates;
use super::comparison::Comparison;

pub(super) fn pick(candidates: &Candidates<'_>, by: Comparison<'_>, rng: &mut Rng) -> Option<usize> {
    best_drawn(candidates, 2, by, rng)
}

/// Returns the best of `choices` randomly drawn candidates.
pub(super) fn best_drawn(
    candidates: &Candidates<'_>,
    choices: u32,
    by: Comparison<'_>,
    rng: &mut Rng,
) -> Option<usize> {
    let mut best = candidates.draw(None, rng)?;
    for _ in 1..choices {
        match candidates.draw(Some(best), rng) {
            Some(other) => best = by.better(best, other, rng),
            // There is no other one. With slow start there may be one, which was too new.
            None if candidates.part.is_none() => break,
            None => {}
        }
    }
    Some(best)
}
