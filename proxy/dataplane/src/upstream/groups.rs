//! Which hosts the next try may go to where a cluster has several priorities, weighted localities or unequal endpoints.
//!
//! Most clusters have none of these, as [`Groups::is_plain`] says: their picks cost nothing here. The others' look at every
//! host, once a pick. Shares are those of Envoy: a priority gets what those before it cannot take, a locality its weight,
//! both cut in proportion when too few of their hosts serve.

use outrigger_config::endpoint::{Endpoints, Locality};

/// How a cluster's hosts are grouped: by priority and, where they are weighted, by locality.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// The group of each host.
    of: Box<[usize]>,
    all: Vec<Group>,
    /// In order, lowest first.
    priorities: Vec<u32>,
    /// Whether some endpoints are to get more than others.
    pub(super) weights_differ: bool,
    /// See [`Endpoints::overprovisioning`]; 1.0 counts endpoints as they are.
    overprovisioning: f64,
}

#[derive(Debug)]
struct Group {
    priority: u32,
    /// Where localities are weighted.
    locality: Option<(Locality, u32)>,
    hosts: usize,
}

impl Groups {
    /// The groups of these endpoints, whose hosts have the same order.
    pub(super) fn new(endpoints: &Endpoints) -> Self {
        let mut all: Vec<Group> = Vec::new();
        let of = endpoints.list.iter().map(|endpoint| {
            let locality = endpoint.locality_weight.map(|weight| (endpoint.locality.clone(), weight));
            let same = |group: &Group| group.priority == endpoint.priority && group.locality == locality;
            let at = all.iter().position(same).unwrap_or_else(|| {
                all.push(Group { priority: endpoint.priority, locality, hosts: 0 });
                all.len() - 1
            });
            all[at].hosts += 1;
            at
        });
        let of = of.collect();
        let mut priorities: Vec<_> = all.iter().map(|group| group.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        let weights_differ = endpoints.list.windows(2).any(|pair| pair[0].weight != pair[1].weight);
        let overprovisioning = f64::from(endpoints.overprovisioning) / 100.0;
        Self { of, all, priorities, weights_differ, overprovisioning }
    }

    /// Whether all hosts are alike.
    pub(super) fn is_plain(&self) -> bool {
        self.all.len() <= 1 && !self.weights_differ
    }

    /// The hosts that the next try may go to, of those that serve. Empty when none does.
    ///
    /// `draw` gives uniform numbers from 0 up to and without 1.
    pub(super) fn candidates(
        &self,
        serves: impl Fn(usize) -> bool,
        mut draw: impl FnMut() -> f64,
    ) -> Vec<usize> {
        let mut serving = vec![0; self.all.len()];
        let hosts: Vec<_> = (0..self.of.len()).filter(|host| serves(*host)).collect();
        hosts.iter().for_each(|host| serving[self.of[*host]] += 1);
        let Some(priority) = self.priority(&serving, draw()) else { return hosts };
        let of_priority = |group: &usize| self.all[*group].priority == priority;
        let weight = |group: usize| match &self.all[group].locality {
            Some((_, weight)) => f64::from(*weight) * self.available(serving[group], self.all[group].hosts),
            None => 0.0,
        };
        let weights = (0..self.all.len()).filter(of_priority).map(|group| (group, weight(group)));
        let locality = drawn(weights.collect(), f64::INFINITY, draw());
        // Without a weight anywhere nothing is weighted.
        let chosen = |group: usize| locality.map_or(of_priority(&group), |drawn| drawn == group);
        hosts.into_iter().filter(|host| chosen(self.of[*host])).collect()
    }

    fn priority(&self, serving: &[usize], point: f64) -> Option<u32> {
        let available = |priority: &u32| {
            let groups = self.all.iter().zip(serving).filter(|(group, _)| group.priority == *priority);
            let (hosts, serving) =
                groups.fold((0, 0), |(hosts, sum), (group, serving)| (hosts + group.hosts, sum + serving));
            (*priority, self.available(serving, hosts))
        };
        drawn(self.priorities.iter().map(available).collect(), 1.0, point)
    }

    /// Which part of what a group could take it can take.
    fn available(&self, serving: usize, hosts: usize) -> f64 {
        (serving as f64 / hosts.max(1) as f64 * self.overprovisioning).min(1.0)
    }
}

/// What `point` (from 0, without 1) falls on when shares lie side by side, as far as `end`. `None` where there is no share.
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
    use std::sync::Arc;

    use outrigger_config::endpoint::{Endpoint, HealthStatus, Transport};

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

    fn groups(endpoints: &[(u32, &str, Option<u32>)]) -> Groups {
        let list =
            endpoints.iter().enumerate().map(|(at, (p, zone, weight))| endpoint(at, *p, zone, *weight));
        Groups::new(&Endpoints { version: 1, list: list.collect(), ..Default::default() })
    }

    /// How often of a thousand each host is a candidate.
    fn shares(groups: &Groups, serves: impl Fn(usize) -> bool + Copy) -> Vec<usize> {
        let mut seed = fastrand::Rng::with_seed(7);
        let mut counts = vec![0; groups.of.len()];
        for _ in 0..1000 {
            groups.candidates(serves, || seed.f64()).into_iter().for_each(|host| counts[host] += 1);
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
        // 0.35 and 0.7: more than all, so that the second gets the rest.
        let shares = shares(&groups, |host| matches!(host, 0 | 4));
        assert!(about(shares[0], 350) && about(shares[4], 650), "{shares:?}");
    }
}
