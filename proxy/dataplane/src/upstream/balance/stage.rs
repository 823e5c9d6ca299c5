//! A balancer with hosts of its own, for the benches of single stages.

use std::time::Duration;

use fastrand::Rng;
use outrigger_config::cluster::Balancing;
use tokio::time::Instant;

use super::load::Load;
use super::{Balancer, Candidates};

/// Latencies of the hosts: 1 ms and up to so many more.
const LATENCIES: u64 = 7;

/// A cluster with the default balancer, whose hosts have answered a request each.
pub struct Picks {
    balancer: Balancer,
    loads: Vec<Load>,
    hosts: Vec<usize>,
    rng: Rng,
    now: Instant,
}

impl Picks {
    /// Creates a cluster of that many hosts, all of them usable.
    pub fn new(hosts: usize) -> Self {
        let now = Instant::now();
        let load = |host: usize| {
            let load = Load::new(1, now);
            load.answered(Duration::from_millis(1 + host as u64 % LATENCIES), now);
            load
        };
        Self {
            balancer: Balancer::new(Balancing::PeakEwma),
            loads: (0..hosts).map(load).collect(),
            hosts: (0..hosts).collect(),
            rng: Rng::with_seed(7),
            now,
        }
    }

    /// Returns the index of the host for one more request.
    pub fn pick(&mut self) -> Option<usize> {
        let Self { balancer, loads, hosts, rng, now } = self;
        let candidates = Candidates { group: 0, hosts, weight_sums: None, usable: &|_| true, part: None };
        balancer.pick(|at| loads[at].cost(*now), |at| &loads[at], &candidates, *now, rng)
    }
}
