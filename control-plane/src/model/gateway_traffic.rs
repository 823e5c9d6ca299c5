//! How callers treat the endpoints of a Service, as Gateway API's XBackendTrafficPolicy says.

use super::backend_traffic::RetryBudget;
use super::session_persistence::SessionPersistence;

/// The meaning of an XBackendTrafficPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayTraffic {
    /// `retryConstraint` (GEP-3388).
    pub retry_budget: Option<RetryBudget>,
    /// `sessionPersistence` (GEP-1619).
    pub session_persistence: Option<SessionPersistence>,
}

impl GatewayTraffic {
    /// Returns the names of its settings, as in YAML.
    pub fn settings(&self) -> Vec<String> {
        let retries = self.retry_budget.as_ref().map(|_| "retryConstraint".into());
        let sessions = self.session_persistence.as_ref();
        let sessions = sessions.map(|of| format!("sessionPersistence {}", of.name()));
        [retries, sessions].into_iter().flatten().collect()
    }
}
