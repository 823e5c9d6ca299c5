//! Selects the candidate hosts of an attempt in a cluster with several priorities, weighted localities or unequal endpoints.
//!
//! Built once for each endpoint list, outside the workers. Most clusters have none of these ([`Groups::is_plain`]), and their
//! picks cost nothing here. In the others each pick visits every host once. Load is distributed as in Envoy: a priority gets
//! the load that earlier priorities cannot take, degraded endpoints the load that the healthy ones of all priorities cannot
//! take, and a locality its weight. Each share is reduced in proportion if too few of the group's hosts are available.

use std::sync::Arc;

use super::{Endpoint, HealthStatus, Locality};

/// The groups of a cluster's hosts: by priority, by whether they are degraded and, if localities are weighted, by locality.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    /// The index of each host's group.
    of: Box<[usize]>,
    all: Vec<Group>,
    /// The groups, in the order in which they are used.
    tiers: Vec<Tier>,
    /// Whether the endpoints' weights differ.
    pub weights_differ: bool,
    /// See [`super::Endpoints::overprovisioning`]; 1.0 is no overprovisioning.
    overprovisioning: f64,
}

/// Interchangeable hosts: the healthy or the degraded ones of a priority. All healthy groups come before all degraded ones,
/// and lower priority numbers before higher ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Tier {
    degraded: bool,
    priority: u32,
}

#[derive(Debug, Clone)]
struct Group {
    tier: Tier,
    /// The locality and its weight, if localities are weighted.
    locality: Option<(Locality, u32)>,
    hosts: usize,
}

impl Groups {
    /// Groups these endpoints. Hosts are in the same order.
    pub(super) fn new(list: &[Arc<Endpoint>], overprovisioning: u32) -> Self {
        let mut all: Vec<Group> = Vec::new();
        let of = list.iter().map(|endpoint| {
            let degraded = endpoint.health == HealthStatus::Degraded;
            let tier = Tier { degraded, priority: endpoint.priority };
            let locality = endpoint.locality_weight.map(|weight| (endpoint.locality.clone(), weight));
            let same = |group: &Group| group.tier == tier && group.locality == locality;
            let at = all.iter().position(same).unwrap_or_else(|| {
                all.push(Group { tier, locality, hosts: 0 });
                all.len() - 1
            });
            all[at].hosts += 1;
            at
        });
        let of = of.collect();
        let mut tiers: Vec<_> = all.iter().map(|group| group.tier).collect();
        tiers.sort_unstable();
        tiers.dedup();
        let weights_differ = list.windows(2).any(|pair| pair[0].weight != pair[1].weight);
        let overprovisioning = f64::from(overprovisioning) / 100.0;
        Self { of, all, tiers, weights_differ, overprovisioning }
    }

    /// Returns true if there is at most one group and all weights are equal.
    pub fn is_plain(&self) -> bool {
        self.all.len() <= 1 && !self.weights_differ
    }

    /// Returns the candidates of the next attempt: hosts that are available and `wanted`. Empty if there are none.
    ///
    /// The shares of groups depend on all available hosts, so that a retry, which excludes attempted hosts, stays in the
    /// same kind of group while another host is left there. `draw` returns uniform numbers in [0, 1).
    pub fn candidates(
        &self,
        serves: impl Fn(usize) -> bool,
        wanted: impl Fn(usize) -> bool,
        mut draw: impl FnMut() -> f64,
    ) -> Vec<usize> {
        let (mut serving, mut useful) = (vec![0; self.all.len()], vec![false; self.all.len()]);
        let mut hosts = Vec::new();
        for host in (0..self.of.len()).filter(|host| serves(*host)) {
            serving[self.of[host]] += 1;
            if wanted(host) {
                useful[self.of[host]] = true;
                hosts.push(host);
            }
        }
        let Some(tier) = self.tier(&serving, &useful, draw()) else { return hosts };
        let of_tier = |group: &usize| self.all[*group].tier == tier;
        let weight = |group: usize| match &self.all[group].locality {
            Some((_, weight)) if useful[group] => {
                f64::from(*weight) * self.available(serving[group], self.hosts_beside(group))
            }
            _ => 0.0,
        };
        let weights = (0..self.all.len()).filter(of_tier).map(|group| (group, weight(group)));
        let locality = drawn(weights.collect(), f64::INFINITY, draw());
        // Localities are not weighted if none has a weight.
        let chosen = |group: usize| locality.map_or(of_tier(&group), |drawn| drawn == group);
        hosts.into_iter().filter(|host| chosen(self.of[*host])).collect()
    }

    fn tier(&self, serving: &[usize], useful: &[bool], point: f64) -> Option<Tier> {
        let available = |tier: &Tier| {
            let groups = || (0..self.all.len()).filter(|group| self.all[*group].tier == *tier);
            let of_priority = self.all.iter().filter(|group| group.tier.priority == tier.priority);
            let share = self.available(
                groups().map(|group| serving[group]).sum(),
                of_priority.map(|group| group.hosts).sum(),
            );
            (*tier, if groups().any(|group| useful[group]) { share } else { 0.0 })
        };
        drawn(self.tiers.iter().map(available).collect(), 1.0, point)
    }

    /// Returns the number of hosts in the group's locality, healthy and degraded.
    fn hosts_beside(&self, group: usize) -> usize {
        let Group { tier, locality, .. } = &self.all[group];
        let same = |of: &&Group| of.tier.priority == tier.priority && of.locality == *locality;
        self.all.iter().filter(same).map(|of| of.hosts).sum()
    }

    /// Returns the fraction of a group's full load that it can take.
    fn available(&self, serving: usize, hosts: usize) -> f64 {
        (serving as f64 / hosts.max(1) as f64 * self.overprovisioning).min(1.0)
    }
}

/// Lays the shares side by side, cut off at `end`, and returns the item at `point` in [0, 1). Returns `None` if no share is
/// positive.
fn drawn<T: Copy>(shares: Vec<(T, f64)>, end: f64, point: f64) -> Option<T> {
    let mut point = point * shares.iter().map(|(_, share)| share).sum::<f64>().min(end);
    let mut last = None;
    for (of, share) in shares.into_iter().filter(|(_, share)| *share > 0.0) {
        last = Some(of);
        point -= share;
        if point < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::super::Transport;
    use super::*;

    fn endpoint(at: usize, priority: u32, zone: &str, locality_weight: Option<u32>) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            address: ([10, 0, 0, at as u8], 80).into(),
            health: HealthStatus::Healthy,
            weight: 1,
            locality_weight,
            locality: Locality { zone: zone.into(), ..Default::default() },
            priority,
            transport: Transport::Plain,
            identity: None,
            instance: None,
            workload_version: None,
        })
    }

    /// All in one zone, the last ones `degraded`.
    fn partly_degraded(priorities: &[u32], degraded: usize) -> Groups {
        let list = priorities.iter().enumerate().map(|(at, priority)| {
            let mut endpoint = (*endpoint(at, *priority, "a", None)).clone();
            if at + degraded >= priorities.len() {
                endpoint.health = HealthStatus::Degraded;
            }
            Arc::new(endpoint)
        });
        Groups::new(&list.collect::<Vec<_>>(), 140)
    }

    fn groups(endpoints: &[(u32, &str, Option<u32>)]) -> Groups {
        let list =
            endpoints.iter().enumerate().map(|(at, (p, zone, weight))| endpoint(at, *p, zone, *weight));
        Groups::new(&list.collect::<Vec<_>>(), 140)
    }

    /// Counts how often each host is a candidate in a thousand draws.
    fn shares(groups: &Groups, serves: impl Fn(usize) -> bool + Copy) -> Vec<usize> {
        let mut seed = fastrand::Rng::with_seed(7);
        let mut counts = vec![0; groups.of.len()];
        for _ in 0..1000 {
            groups.candidates(serves, |_| true, || seed.f64()).into_iter().for_each(|host| counts[host] += 1);
        }
        counts
    }

    fn about(share: usize, expected: usize) -> bool {
        share.abs_diff(expected) < 50
    }

    #[test]
    fn clusters_of_one_kind_of_endpoint_are_plain() {
        assert!(groups(&[]).is_plain());
        assert!(
            groups(&[(0, "a", None), (0, "b", None)]).is_plain(),
            "localities count only where they are weighted"
        );
        assert!(!groups(&[(0, "a", Some(1)), (0, "b", Some(1))]).is_plain());
        assert!(!groups(&[(0, "a", None), (1, "a", None)]).is_plain());
    }

    #[test]
    fn localities_get_requests_by_their_weight_however_many_endpoints_they_have() {
        let groups = groups(&[(0, "a", Some(1)), (0, "b", Some(3)), (0, "b", Some(3)), (0, "c", Some(0))]);
        let shares = shares(&groups, |_| true);
        assert!(about(shares[0], 250) && about(shares[1], 750) && shares[1] == shares[2] && shares[3] == 0);
    }

    #[test]
    fn a_locality_whose_endpoints_fail_gets_less() {
        let two = |zone| (0, zone, Some(1));
        let groups = groups(&[two("a"), two("a"), two("b"), two("b")]);
        // Half of b with 140 % is 0.7 of its weight.
        let shares = shares(&groups, |host| host != 3);
        assert!(about(shares[0], 588) && about(shares[2], 411) && shares[3] == 0, "{shares:?}");
    }

    #[test]
    fn weights_that_are_all_zero_weigh_nothing() {
        let groups = groups(&[(0, "a", Some(0)), (0, "b", Some(0))]);
        assert_eq!(shares(&groups, |_| true), [1000, 1000]);
    }

    #[test]
    fn the_next_priority_gets_what_the_first_cannot_take() {
        let groups = groups(&[(0, "a", None), (0, "a", None), (1, "b", None), (2, "c", None)]);
        assert_eq!(shares(&groups, |_| true), [1000, 1000, 0, 0]);
        let half = shares(&groups, |host| host != 0);
        assert!(about(half[1], 700) && about(half[2], 300) && half[3] == 0, "{half:?}");
        assert_eq!(shares(&groups, |host| host >= 2), [0, 0, 1000, 0]);
        assert_eq!(shares(&groups, |_| false), [0; 4]);
    }

    #[test]
    fn when_all_priorities_together_are_too_few_each_gets_its_part_of_everything() {
        let groups = groups(&[
            (0, "a", None),
            (0, "a", None),
            (0, "a", None),
            (0, "a", None),
            (1, "b", None),
            (1, "b", None),
        ]);
        // 0.35 and 0.7 exceed 1, so that the second gets the rest.
        let shares = shares(&groups, |host| matches!(host, 0 | 4));
        assert!(about(shares[0], 350) && about(shares[4], 650), "{shares:?}");
    }

    #[test]
    fn degraded_endpoints_get_what_the_healthy_ones_cannot_take() {
        let groups = partly_degraded(&[0, 0, 0, 0], 1);
        assert!(!groups.is_plain());
        assert_eq!(shares(&groups, |_| true), [1000, 1000, 1000, 0], "three of four, with 140 %, are enough");
        // One healthy host of four is 35 %, one degraded host too; together they share all requests.
        let few = shares(&groups, |host| host >= 2);
        assert!(about(few[2], 500) && about(few[3], 500), "{few:?}");
        assert_eq!(shares(&groups, |host| host == 3), [0, 0, 0, 1000]);
        let half = shares(&partly_degraded(&[0, 0], 1), |_| true);
        assert!(about(half[0], 700) && about(half[1], 300), "{half:?}");
        assert!(partly_degraded(&[0, 0], 2).is_plain(), "where all are, none is worse");
    }

    #[test]
    fn healthy_endpoints_of_the_next_priority_come_before_degraded_ones_of_the_first() {
        let list = [endpoint(0, 0, "a", None), endpoint(1, 0, "a", None), endpoint(2, 1, "a", None)];
        let mut list: Vec<_> = list.iter().map(|endpoint| (**endpoint).clone()).collect();
        list[1].health = HealthStatus::Degraded;
        let list: Vec<_> = list.into_iter().map(Arc::new).collect();
        let groups = Groups::new(&list, 140);
        let shares = shares(&groups, |_| true);
        assert!(about(shares[0], 700) && shares[1] == 0 && about(shares[2], 300), "{shares:?}");
    }

    #[test]
    fn a_retry_goes_to_an_endpoint_like_the_one_that_was_tried_while_there_is_another() {
        let wanted = |groups: &Groups, tried: usize| {
            let mut seed = fastrand::Rng::with_seed(7);
            let mut counts = vec![0; groups.of.len()];
            for _ in 0..1000 {
                let candidates = groups.candidates(|_| true, |host| host != tried, || seed.f64());
                candidates.into_iter().for_each(|host| counts[host] += 1);
            }
            counts
        };
        assert_eq!(wanted(&partly_degraded(&[0, 0, 0, 0], 1), 0), [0, 1000, 1000, 0]);
        assert_eq!(wanted(&partly_degraded(&[0, 0], 1), 0), [0, 1000], "there is no other healthy one");
        assert_eq!(wanted(&groups(&[(0, "a", None), (0, "a", None), (1, "b", None)]), 0), [0, 1000, 0]);
    }
}
