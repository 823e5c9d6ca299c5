//! Load balancing among the candidates of an attempt: one file per policy.
//!
//! Per worker, without locks. Every policy passes over a host that fails more than the one it is compared with (`failing`).
//! Candidates are selected by health, priority and locality before (`cluster::pick`).

#[cfg(feature = "stages")]
mod stage;
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
#[cfg(feature = "stages")]
pub use self::stage::Picks;

/// The load balancing policy of a cluster and its state.
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
            // A table of the endpoints is asked instead (`Endpoints::of_hash`).
            Balancing::Random | Balancing::Hashing(_) => Self::Random,
        }
    }

    /// Returns the index of the candidate for the next attempt, or `None` if there is no candidate. For the host of an index,
    /// `latency` returns the cost of one more request in seconds of waiting, and `load` its load.
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
