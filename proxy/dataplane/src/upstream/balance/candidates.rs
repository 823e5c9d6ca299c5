//! The hosts that may get an attempt, as every kind of balancing sees them.

use fastrand::Rng;

/// How many hosts are drawn before all are visited for a usable one.
const DRAWS: usize = 3;

/// How often another host is drawn instead of one that starts slowly. Only if nearly all hosts are new, one of them gets more than its
/// part.
const REDRAWS: usize = 8;

/// The hosts that may get an attempt: the usable ones of a group. Few are visited where most are usable.
#[derive(Clone, Copy)]
pub(in crate::upstream) struct Candidates<'a> {
    /// The index of the group.
    pub(in crate::upstream) group: usize,
    /// The indexes of its hosts, in ascending order.
    pub(in crate::upstream) hosts: &'a [usize],
    /// For each of `hosts`, the sum of the weights up to and including it. `None` if all weights are equal.
    pub(in crate::upstream) weight_sums: Option<&'a [u64]>,
    /// Returns whether the host of an index is usable.
    pub(in crate::upstream) usable: &'a dyn Fn(usize) -> bool,
    /// Returns the part of its weight, from 0 to 1, that the host of an index has while it starts slowly. `None` without slow start.
    pub(in crate::upstream) part: Option<&'a dyn Fn(usize) -> f64>,
}

impl Candidates<'_> {
    /// Returns a random host, with a probability in proportion to its weight, and another than `not` if there is one.
    ///
    /// With weights, `not` may be returned again: otherwise both of two would always be drawn, and their weights would not count. A host
    /// that starts slowly is returned as often as its part of its weight says. Instead of it another one is drawn; beside `not`,
    /// none, so that a pair of hosts is drawn as often in either order, and each of equal hosts gets its share.
    pub(super) fn draw(&self, not: Option<usize>, rng: &mut Rng) -> Option<usize> {
        let once = |rng: &mut Rng| match self.weight_sums {
            Some(sums) => self.draw_by_weight(sums, rng),
            None => self.draw_evenly(not, rng),
        };
        let drawn = once(rng)?;
        if !self.is_too_new(drawn, rng) {
            return Some(drawn);
        }
        if not.is_some() {
            return None;
        }
        let redrawn = (0..REDRAWS).find_map(|_| once(rng).filter(|host| !self.is_too_new(*host, rng)));
        redrawn.or(Some(drawn))
    }

    /// Returns `picked`, which was not drawn, or another host if it starts slowly.
    pub(super) fn unless_new(&self, picked: usize, rng: &mut Rng) -> usize {
        if self.is_too_new(picked, rng) { self.draw(None, rng).unwrap_or(picked) } else { picked }
    }

    /// Returns those of `hosts`, which were not drawn, that an attempt may be for although they start slowly. If there is none, returns all.
    ///
    /// One of them is kept as often as its part, compared with the average, says: so it gets its share of the attempts if all have the
    /// same load, as one of a few new hosts.
    pub(super) fn old_enough(&self, hosts: Vec<usize>, rng: &mut Rng) -> Vec<usize> {
        let Some(part) = self.part else { return hosts };
        let average = hosts.iter().map(|host| part(*host)).sum::<f64>() / hosts.len() as f64;
        let chosen: Vec<_> = hosts.iter().copied().filter(|host| rng.f64() * average < part(*host)).collect();
        if chosen.is_empty() { hosts } else { chosen }
    }

    /// Returns whether an attempt is not for this host, because it starts slowly.
    fn is_too_new(&self, host: usize, rng: &mut Rng) -> bool {
        let part = self.part.map_or(1.0, |part| part(host));
        part < 1.0 && rng.f64() >= part
    }

    /// Returns a random host other than `not`, whatever its weight.
    pub(super) fn draw_evenly(&self, not: Option<usize>, rng: &mut Rng) -> Option<usize> {
        let count = self.hosts.len();
        if count == 0 {
            return None;
        }
        let fits = |at: usize| Some(self.hosts[at]).filter(|host| Some(*host) != not && (self.usable)(*host));
        (0..DRAWS).find_map(|_| fits(rng.usize(..count))).or_else(|| {
            let start = rng.usize(..count);
            (0..count).find_map(|step| fits((start + step) % count))
        })
    }

    fn draw_by_weight(&self, sums: &[u64], rng: &mut Rng) -> Option<usize> {
        let total = sums.last().copied().filter(|total| *total > 0)?;
        for _ in 0..DRAWS {
            let point = rng.u64(..total);
            let host = self.hosts[sums.partition_point(|sum| *sum <= point)];
            if (self.usable)(host) {
                return Some(host);
            }
        }
        let weight = |at: usize| sums[at] - at.checked_sub(1).map_or(0, |before| sums[before]);
        let usable: Vec<usize> = (0..sums.len()).filter(|at| (self.usable)(self.hosts[*at])).collect();
        let total = usable.iter().map(|at| weight(*at)).sum::<u64>();
        let mut point = if total == 0 { return None } else { rng.u64(..total) };
        let drawn = usable.into_iter().find(|at| match point.checked_sub(weight(*at)) {
            Some(rest) => {
                point = rest;
                false
            }
            None => true,
        });
        drawn.map(|at| self.hosts[at])
    }

    /// Returns the first host whose index is at least `turn`, or else the first of all.
    pub(super) fn next(&self, turn: usize) -> Option<usize> {
        let (before, from) = self.hosts.split_at(self.hosts.partition_point(|host| *host < turn));
        from.iter().chain(before).copied().find(|host| (self.usable)(*host))
    }

    /// Returns all of them, beginning anywhere, so that of equal ones none is always the first.
    pub(super) fn all(&self, rng: &mut Rng) -> Vec<usize> {
        let start = rng.usize(..self.hosts.len().max(1));
        let (before, from) = self.hosts.split_at(start);
        from.iter().chain(before).copied().filter(|host| (self.usable)(*host)).collect()
    }
}
