use super::*;
use crate::endpoint::Transport;

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
        hash_key: None,
        health_check: Default::default(),
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
    let list = endpoints.iter().enumerate().map(|(at, (p, zone, weight))| endpoint(at, *p, zone, *weight));
    Groups::new(&list.collect::<Vec<_>>(), 140)
}

/// Counts how often of a thousand times each host is in the group that is drawn first, if it is available.
fn shares(groups: &Groups, available: impl Fn(usize) -> bool + Copy) -> Vec<usize> {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut counts = vec![0; groups.of.len()];
    for _ in 0..1000 {
        let hosts = |group: &Group| group.hosts.iter().copied().filter(|host| available(*host)).collect();
        let some = |hosts: Vec<usize>| (!hosts.is_empty()).then_some(hosts);
        let picked = groups.pick(&numbers(groups, available), || rng.f64(), |group, _| some(hosts(group)));
        picked.into_iter().flatten().for_each(|host| counts[host] += 1);
    }
    counts
}

/// Returns the number of available hosts of each group.
fn numbers(groups: &Groups, available: impl Fn(usize) -> bool) -> Vec<usize> {
    let number = |group: &Group| group.hosts.iter().filter(|host| available(**host)).count();
    groups.all().iter().map(number).collect()
}

fn about(share: usize, expected: usize) -> bool {
    share.abs_diff(expected) < 50
}

#[test]
fn endpoints_of_one_kind_are_one_group() {
    assert_eq!(groups(&[]).all().len(), 0);
    let unweighted = groups(&[(0, "a", None), (0, "b", None)]);
    assert_eq!(unweighted.all().len(), 1, "localities count only where they are weighted");
    assert_eq!(groups(&[(0, "a", Some(1)), (0, "b", Some(1))]).all().len(), 2);
    assert_eq!(groups(&[(0, "a", None), (1, "a", None)]).all().len(), 2);
}

#[test]
fn groups_stay_the_same_while_hosts_come_and_go() {
    let before = groups(&[(0, "a", None), (1, "b", None), (0, "a", None)]);
    let after = groups(&[(1, "b", None), (0, "a", None), (1, "b", None)]);
    assert!(before.are_those_of(&after));
    assert_eq!([before.of(0), after.of(0), after.of(1)], [0, 1, 0]);
    assert!(!before.are_those_of(&groups(&[(0, "a", None)])));
}

#[test]
fn weights_are_summed_up_where_they_differ() {
    let weighted = |weights: &[u32]| {
        let list = weights.iter().enumerate().map(|(at, weight)| {
            Arc::new(Endpoint { weight: *weight, ..(*endpoint(at, 0, "a", None)).clone() })
        });
        Groups::new(&list.collect::<Vec<_>>(), 140).all()[0].weight_sums.clone()
    };
    assert_eq!(weighted(&[2, 2]), None);
    assert_eq!(weighted(&[3, 1, 2]).as_deref(), Some(&[3, 4, 6][..]));
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
    let shares = shares(&groups, |_| true);
    assert!(about(shares[0], 500) && about(shares[1], 500), "{shares:?}");
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
    assert_eq!(shares(&groups, |_| true), [1000, 1000, 1000, 0], "three of four, with 140 %, are enough");
    // One healthy host of four is 35 %, one degraded host too; together they share all requests.
    let few = shares(&groups, |host| host >= 2);
    assert!(about(few[2], 500) && about(few[3], 500), "{few:?}");
    assert_eq!(shares(&groups, |host| host == 3), [0, 0, 0, 1000]);
    let half = shares(&partly_degraded(&[0, 0], 1), |_| true);
    assert!(about(half[0], 700) && about(half[1], 300), "{half:?}");
    assert_eq!(partly_degraded(&[0, 0], 2).all().len(), 1, "where all are, none is worse");
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
fn a_retry_goes_to_an_endpoint_like_the_attempted_one_while_there_is_another() {
    let retried = |groups: &Groups, attempted: usize| {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut counts = vec![0; groups.of.len()];
        for _ in 0..1000 {
            let fresh = |group: &Group, _| group.hosts.iter().copied().find(|host| *host != attempted);
            counts[groups.pick(&numbers(groups, |_| true), || rng.f64(), fresh).unwrap()] += 1;
        }
        counts
    };
    assert_eq!(retried(&partly_degraded(&[0, 0, 0, 0], 1), 0), [0, 1000, 0, 0]);
    assert_eq!(retried(&partly_degraded(&[0, 0], 1), 0), [0, 1000], "there is no other healthy one");
    assert_eq!(retried(&groups(&[(0, "a", None), (0, "a", None), (1, "b", None)]), 0), [0, 1000, 0]);
}

#[test]
fn a_group_without_available_hosts_is_the_last_resort() {
    let groups = groups(&[(0, "a", None), (1, "b", None), (2, "c", None)]);
    let mut order = Vec::new();
    let picked = groups.pick(
        &[0, 0, 1],
        || 0.5,
        |_, group| {
            order.push(group);
            None::<()>
        },
    );
    assert_eq!((picked, order), (None, vec![2, 0, 1]));
}
