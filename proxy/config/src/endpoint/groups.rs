//! Selects the group of hosts for an attempt in a cluster with several priorities, localities or degraded endpoints.
//!
//! Built once for each endpoint list, outside the workers, so that a pick costs no walk over the hosts: a worker draws a group
//! by the numbers of its available hosts, and a host in it. Load is distributed as in Envoy: a priority gets the load that
//! earlier priorities cannot take, degraded endpoints the load that the healthy ones of all priorities cannot take, and a
//! locality its weight. Each share is reduced in proportion if too few of the group's hosts are available.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::{Endpoint, HealthStatus, Locality};

/// The groups of a cluster's hosts: by priority, by whether they are degraded and, if localities are weighted, by locality.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    /// The index of each host's group.
    of: Box<[usize]>,
    all: Box<[Group]>,
    /// In the order in which they are used.
    tiers: Box<[Tier]>,
    /// See [`super::Endpoints::overprovisioning`]; 1.0 is no overprovisioning.
    overprovisioning: f64,
}

/// A group of hosts among which only weights differ.
#[derive(Debug, Clone)]
pub struct Group {
    key: Key,
    /// The indexes of its hosts, in ascending order.
    pub hosts: Box<[usize]>,
    /// For each of `hosts`, the sum of the weights up to and including it. `None` if all weights are equal.
    pub weight_sums: Option<Box<[u64]>>,
    /// The number of hosts in its locality, healthy and degraded.
    of_locality: usize,
}

/// What the hosts of a group have in common, in the order in which groups are used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    tier: TierKey,
    /// The locality and its weight, if localities are weighted.
    locality: Option<(Locality, u32)>,
}

/// All healthy groups come before all degraded ones, and lower priority numbers before higher ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TierKey {
    degraded: bool,
    priority: u32,
}

/// The healthy or the degraded hosts of a priority.
#[derive(Debug, Clone)]
struct Tier {
    /// The indexes of its groups.
    groups: Range<usize>,
    /// The number of hosts of its priority, healthy and degraded.
    of_priority: usize,
}

impl Groups {
    /// Groups these endpoints. Hosts are in the same order.
    pub(super) fn new(list: &[Arc<Endpoint>], overprovisioning: u32) -> Self {
        let mut hosts = BTreeMap::<Key, Vec<usize>>::new();
        for (at, endpoint) in list.iter().enumerate() {
            hosts.entry(Key::of(endpoint)).or_default().push(at);
        }
        let count = |same: &dyn Fn(&Key) -> bool| -> usize {
            hosts.iter().filter(|(key, _)| same(key)).map(|(_, hosts)| hosts.len()).sum()
        };
        let group = |(key, of): (&Key, &Vec<usize>)| Group {
            key: key.clone(),
            hosts: of.as_slice().into(),
            weight_sums: weight_sums(of.iter().map(|at| list[*at].weight)),
            of_locality: count(&|other| {
                other.tier.priority == key.tier.priority && other.locality == key.locality
            }),
        };
        let all: Box<[Group]> = hosts.iter().map(group).collect();
        let mut first = 0;
        let tier = |groups: &[Group]| {
            let (start, tier) = (first, groups[0].key.tier);
            first += groups.len();
            Tier { groups: start..first, of_priority: count(&|key| key.tier.priority == tier.priority) }
        };
        let tiers = all.chunk_by(|one, next| one.key.tier == next.key.tier).map(tier).collect();
        let mut of = vec![0; list.len()].into_boxed_slice();
        for (at, group) in all.iter().enumerate() {
            group.hosts.iter().for_each(|host| of[*host] = at);
        }
        Self { of, all, tiers, overprovisioning: f64::from(overprovisioning) / 100.0 }
    }

    /// Returns all groups. Their indexes stay the same for as long as [`Self::are_those_of`] returns true.
    pub fn all(&self) -> &[Group] {
        &self.all
    }

    /// Returns the indexes of the hosts of each tier: the healthy ones of each priority, and then the degraded ones.
    pub(super) fn tiers(&self) -> impl Iterator<Item = Vec<usize>> {
        let hosts = |tier: &Tier| self.all[tier.groups.clone()].iter().flat_map(|group| group.hosts.clone());
        self.tiers.iter().map(move |tier| hosts(tier).collect())
    }

    /// Returns the index of a host's group.
    pub fn of(&self, host: usize) -> usize {
        self.of[host]
    }

    /// Returns whether the groups are the same as those of `other`, whatever hosts are in them.
    pub fn are_those_of(&self, other: &Self) -> bool {
        self.all.iter().map(|group| &group.key).eq(other.all.iter().map(|group| &group.key))
    }

    /// Calls `pick` with one group after another until it returns a host. `available` is the number of available hosts of each
    /// group, `random` returns uniform numbers in [0, 1).
    ///
    /// A group is drawn by its share, and the next one, if it has no host to pick, among the others. The shares depend on all
    /// available hosts, so that a retry, for which attempted hosts are not picked, stays in the same kind of group while
    /// another host is left there. Groups without available hosts come last.
    pub fn pick<T>(
        &self,
        available: &[usize],
        mut random: impl FnMut() -> f64,
        mut pick: impl FnMut(&Group, usize) -> Option<T>,
    ) -> Option<T> {
        if let [only] = &*self.all {
            return pick(only, 0);
        }
        let mut excluded = Vec::new();
        while excluded.len() < self.all.len() {
            let group = self.draw(available, &excluded, &mut random)?;
            if let Some(picked) = pick(&self.all[group], group) {
                return Some(picked);
            }
            excluded.push(group);
        }
        None
    }

    /// Calls `pick` with one tier after another until it returns a host. The tier of a hash is the same for as long as `available`
    /// is.
    pub(super) fn pick_tier<T>(
        &self,
        available: &[usize],
        hash: u64,
        mut pick: impl FnMut(usize) -> Option<T>,
    ) -> Option<T> {
        if self.tiers.len() == 1 {
            return pick(0);
        }
        // As in Envoy, shares are whole hundredths of all hashes.
        let share = |tier: usize| {
            let Tier { groups, of_priority } = &self.tiers[tier];
            (self.part(available[groups.clone()].iter().sum(), *of_priority) * 100.0 + 1e-6).floor()
        };
        let tiers = 0..self.tiers.len();
        let all = tiers.clone().map(share).sum::<f64>().min(100.0);
        let mut point = (hash % 100) as f64 * all / 100.0;
        let drawn = tiers.clone().find(|tier| {
            point -= share(*tier);
            point < 0.0
        });
        let others = tiers.filter(|tier| Some(*tier) != drawn);
        drawn.into_iter().chain(others).find_map(pick)
    }

    fn draw(
        &self,
        available: &[usize],
        excluded: &[usize],
        mut random: impl FnMut() -> f64,
    ) -> Option<usize> {
        let left = |group: &usize| available[*group] > 0 && !excluded.contains(group);
        let share = |tier: &Tier| {
            if !tier.groups.clone().any(|group| left(&group)) {
                return 0.0;
            }
            self.part(available[tier.groups.clone()].iter().sum(), tier.of_priority)
        };
        let tiers = 0..self.tiers.len();
        let Some(tier) = drawn(tiers.map(|tier| (tier, share(&self.tiers[tier]))), 1.0, random()) else {
            return (0..self.all.len()).find(|group| !excluded.contains(group));
        };
        let groups = || self.tiers[tier].groups.clone().filter(left);
        let weighted = groups().map(|group| {
            let Group { key, of_locality, .. } = &self.all[group];
            let weight = key.locality.as_ref().map_or(0, |(_, weight)| *weight);
            (group, f64::from(weight) * self.part(available[group], *of_locality))
        });
        // Localities are not weighted if none has a weight.
        let even = groups().map(|group| (group, available[group] as f64));
        let point = random();
        drawn(weighted, f64::INFINITY, point).or_else(|| drawn(even, f64::INFINITY, point))
    }

    /// Returns the fraction of its full load that a group with this many available hosts can take.
    fn part(&self, available: usize, hosts: usize) -> f64 {
        (available as f64 / hosts.max(1) as f64 * self.overprovisioning).min(1.0)
    }
}

impl Key {
    fn of(endpoint: &Endpoint) -> Self {
        let degraded = endpoint.health == HealthStatus::Degraded;
        Self {
            tier: TierKey { degraded, priority: endpoint.priority },
            locality: endpoint.locality_weight.map(|weight| (endpoint.locality.clone(), weight)),
        }
    }
}

fn weight_sums(weights: impl Iterator<Item = u32> + Clone) -> Option<Box<[u64]>> {
    let first = weights.clone().next()?;
    if weights.clone().all(|weight| weight == first) {
        return None;
    }
    let mut sum = 0;
    Some(
        weights
            .map(|weight| {
                sum += u64::from(weight);
                sum
            })
            .collect(),
    )
}

/// Lays the shares side by side, cut off at `end`, and returns the item at `point` in [0, 1). Returns `None` if no share is
/// positive.
fn drawn<T>(shares: impl Iterator<Item = (T, f64)> + Clone, end: f64, point: f64) -> Option<T> {
    let mut point = point * shares.clone().map(|(_, share)| share).sum::<f64>().min(end);
    let mut last = None;
    for (of, share) in shares.filter(|(_, share)| *share > 0.0) {
        last = Some(of);
        point -= share;
        if point < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests;
