//! Refusals of authorization policies, enforced and audited: by policy, caller and route.
//!
//! They are rare next to requests, and audited ones for a time only, so that they cost a lock.

use std::sync::Mutex;

use foldhash::HashMap;
use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_core::record::{Direction, RequestRecord};

use super::{OTHER, locked};

/// How many series one worker keeps before further label values are folded into [`OTHER`].
const MAX_DENIALS: usize = 1024;

/// The labels of refusals.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DenialLabels {
    /// The listener's direction.
    pub direction: Direction,
    /// Whether the policy is enforced; else it is audited only.
    pub enforced: bool,
    /// The policy, or `none` if no policy allows what was refused.
    pub policy: Name,
    /// The client's verified identity.
    pub source: Option<SpiffeId>,
    /// The destination's canonical name.
    pub destination: Option<Name>,
    /// The route.
    pub route: Option<Name>,
}

/// The refusals of one worker.
#[derive(Debug, Default)]
pub(super) struct Denials(Mutex<HashMap<DenialLabels, u64>>);

impl Denials {
    /// Counts what policies refused, or would have, of a request.
    pub(super) fn count(&self, record: &RequestRecord) {
        let Some(authorization) = &record.authorization else { return };
        let of = [(true, &authorization.denied_by), (false, &authorization.audit_denied_by)];
        for (enforced, policy) in of {
            let Some(policy) = policy else { continue };
            let labels = DenialLabels {
                direction: record.direction,
                enforced,
                policy: policy.clone(),
                source: record.source.clone(),
                destination: record.destination.clone(),
                route: record.route.clone(),
            };
            let mut counts = locked(&self.0);
            let labels = if counts.len() < MAX_DENIALS || counts.contains_key(&labels) {
                labels
            } else {
                labels.folded()
            };
            *counts.entry(labels).or_default() += 1;
        }
    }

    pub(super) fn add_to(&self, totals: &mut std::collections::BTreeMap<DenialLabels, u64>) {
        for (labels, count) in locked(&self.0).iter() {
            *totals.entry(labels.clone()).or_default() += count;
        }
    }
}

impl DenialLabels {
    fn folded(self) -> Self {
        Self { policy: OTHER.into(), source: None, destination: None, route: None, ..self }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use outrigger_core::record::Authorization;

    use super::*;

    fn denied(policy: &str, audited: Option<&str>) -> RequestRecord {
        let authorization =
            Authorization { denied_by: Some(policy.into()), audit_denied_by: audited.map(Name::from) };
        RequestRecord { authorization: Some(Box::new(authorization)), ..crate::record::testing::record() }
    }

    #[test]
    fn enforced_and_audited_refusals_are_counted_apart_and_their_number_of_series_is_bounded() {
        let denials = Denials::default();
        denials.count(&crate::record::testing::record());
        for at in 0..MAX_DENIALS + 100 {
            denials.count(&denied(&format!("policy-{at}"), None));
        }
        denials.count(&denied("policy-0", Some("audited")));
        let mut totals = BTreeMap::new();
        denials.add_to(&mut totals);
        let count = |policy: &str| {
            let of = totals.iter().filter(|(labels, _)| *labels.policy == *policy);
            of.map(|(labels, count)| (labels.enforced, *count)).collect::<Vec<_>>()
        };
        assert_eq!((totals.len(), count("policy-0")), (MAX_DENIALS + 2, vec![(true, 2)]));
        assert_eq!(count(OTHER), [(false, 1), (true, 100)]);
    }
}
