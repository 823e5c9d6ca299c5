//! A random host, whatever its weight (`envoy.extensions.load_balancing_policies.random.v3.Random`).

use fastrand::Rng;

use super::candidates::Candidates;
use super::comparison::Comparison;

pub(super) fn pick(candidates: &Candidates<'_>, by: Comparison<'_>, rng: &mut Rng) -> Option<usize> {
    let picked = candidates.draw_evenly(None, rng)?;
    Some(by.unless_failing(picked, |rng| candidates.draw_evenly(Some(picked), rng), rng))
}
