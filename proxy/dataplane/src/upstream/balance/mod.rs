//! Which of the hosts that may get an attempt gets it: one file for each kind of balancing.
//!
//! Per worker, without locks. Every kind passes over a host that fails more than the one it is compared with (`failing`).
//! What may get the attempt at all, for health, priority or locality, is decided before (`cluster::pick`).

mod least_request;
mod p2c;
mod round_robin;
mod random;
mod candidates;
mod comparison;
pub(super) mod load;
mod failing;

use fastrand::Rng;
use outrigger_config::cluster::Balancing;
use tokio::time::Instant;

use self::comparison::Comparison;
use self::load::Load;
use self::round_robin::RoundRobin;

pub(super) use self::candidates::Candidates;

/// How a cluster balances, and what it remembers from pick to pick.
#[derive(Debug)]
pub(super) enum Balancer {
    /// See [`p2c`].
    PeakEwma,
    /// See [`least_request`].
    LeastRequest {
        /// How many hosts are drawn.
        choices: u32,
    },
    /// See [`round_robin`].
    RoundRobin(RoundRobin),
    /// See [`random`].
    Random,
}

impl Balancer {
    pub(super) fn new(balancing: Balancing) -> Self {
        match balancing {
            Balancing::PeakEwma => Self::PeakEwma,
            Balancing::LeastRequest { choices } => Self::LeastRequest { choices },
            Balancing::RoundRobin => Self::RoundRobin(RoundRobin::default()),
            Balancing::Random => Self::Random,
        }
    }

    /// The index of the candidate that gets the next attempt. None if there is no candidate. `latency` is what one more
    /// request would cost, in seconds of waiting, and `load` the load, of the host of an index.
    pub(super) fn pick<'a>(
        &self,
        latency: impl Fn(usize) -> Option<f64>,
        load: impl Fn(usize) -> &'a Load,
        candidates: &Candidates<'_>,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<usize> {
        let failing = |at: usize| load(at).failing.at(now);
        let queue = |at: usize| Some(load(at).queue());
        let nothing = |_: usize| Some(0.0);
        match self {
            Self::PeakEwma => p2c::pick(candidates, Comparison { cost: &latency, failing: &failing }, rng),
            Self::LeastRequest { choices } => {
                least_request::pick(candidates, *choices, Comparison { cost: &queue, failing: &failing }, rng)
            }
            Self::RoundRobin(turns) => {
                turns.pick(candidates, Comparison { cost: &nothing, failing: &failing }, rng)
            }
            Self::Random => random::pick(candidates, Comparison { cost: &nothing, failing: &failing }, rng),
        }
    }
}

#[cfg(test)]
mod tests;
