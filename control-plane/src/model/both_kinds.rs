//! What a BackendTrafficPolicy sets, an XBackendTrafficPolicy with the same target does not: it is conflicted.

use super::gateway_traffic::GatewayTraffic;
use super::resource::policy::{PolicyRules, TargetRef};
use super::resource::{Metadata, ResourceId};

/// The targets of the BackendTrafficPolicies of a namespace that set what an XBackendTrafficPolicy can set.
#[derive(Debug, Default)]
pub(super) struct OfBothKinds(Vec<Set>);

#[derive(Debug)]
struct Set {
    target: Option<TargetRef>,
    by: ResourceId,
    retries: bool,
    sessions: bool,
}

impl OfBothKinds {
    /// Remembers what a BackendTrafficPolicy sets for a target. Returns why an XBackendTrafficPolicy does not apply to it, if one of those sets
    /// the same.
    pub(super) fn judge(
        &mut self,
        metadata: &Metadata,
        rules: &PolicyRules,
        target: Option<&TargetRef>,
    ) -> Option<String> {
        match rules {
            PolicyRules::BackendTraffic(of) => {
                self.0.push(Set {
                    target: target.cloned(),
                    by: metadata.id.clone(),
                    retries: of.retries.is_some(),
                    sessions: of.session_persistence.is_some(),
                });
                None
            }
            PolicyRules::GatewayTraffic(of) => self.conflict(target, of),
            _ => None,
        }
    }

    fn conflict(&self, target: Option<&TargetRef>, of: &GatewayTraffic) -> Option<String> {
        let Set { by: ResourceId { kind, name, .. }, retries, .. } = self.0.iter().find(|set| {
            set.target.as_ref() == target
                && (set.retries && of.retry_budget.is_some()
                    || set.sessions && of.session_persistence.is_some())
        })?;
        let what = match *retries && of.retry_budget.is_some() {
            true => "limits its retries",
            false => "keeps its sessions",
        };
        Some(format!("{kind} {name} has the same target and {what}"))
    }
}
