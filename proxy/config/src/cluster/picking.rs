//! How a cluster picks endpoints, as its fields and policy list say together.

use outrigger_policy::hash_policy::HashPolicies;
use outrigger_policy::slow_start::SlowStart;

use super::{Balancing, PanicThreshold, SessionStatuses};

/// A decoded load balancing policy.
#[derive(Debug, Clone)]
pub(super) struct Picking {
    pub(super) policy: Balancing,
    /// Whether a locality is first picked by its weight.
    pub(super) locality_weighted: bool,
    /// Whether endpoints are hashed by their names.
    pub(super) hashes_names: bool,
    /// The hashes of requests, if they are not those of routes.
    pub(super) hash_policies: HashPolicies,
    pub(super) panic: PanicThreshold,
    pub(super) session_statuses: SessionStatuses,
    pub(super) slow_start: Option<SlowStart>,
}

impl Picking {
    /// Creates the policy with the hashes of routes and addresses.
    pub(super) fn new(policy: Balancing, locality_weighted: bool) -> Self {
        Self {
            policy,
            locality_weighted,
            hashes_names: false,
            hash_policies: HashPolicies::default(),
            panic: PanicThreshold::default(),
            session_statuses: SessionStatuses::default(),
            slow_start: None,
        }
    }
}
