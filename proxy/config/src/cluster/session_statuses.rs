//! Which endpoints sessions may stay with, by their health (`CommonLbConfig.override_host_status`).

use outrigger_policy::field::Unusable;
use outrigger_proto::xds::core;

use crate::endpoint::HealthStatus;

/// A set of statuses. By default, those of endpoints that receive new requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionStatuses(u8);

impl Default for SessionStatuses {
    fn default() -> Self {
        Self(bit(HealthStatus::Healthy) | bit(HealthStatus::Degraded))
    }
}

impl SessionStatuses {
    /// Decodes the set; `None` is the default. `UNKNOWN` is `HEALTHY`, and `TIMEOUT` is `UNHEALTHY`, as for endpoints. Returns an error for a
    /// status that is unknown.
    pub fn decode(wire: Option<core::HealthStatusSet>) -> Result<Self, Unusable> {
        use core::HealthStatus as Wire;
        let Some(core::HealthStatusSet { statuses }) = wire else { return Ok(Self::default()) };
        let mut all = 0;
        for (at, status) in statuses.into_iter().enumerate() {
            all |= bit(match Wire::try_from(status) {
                Ok(Wire::Unknown | Wire::Healthy) => HealthStatus::Healthy,
                Ok(Wire::Degraded) => HealthStatus::Degraded,
                Ok(Wire::Draining) => HealthStatus::Draining,
                Ok(Wire::Unhealthy | Wire::Timeout) => HealthStatus::Unhealthy,
                Err(_) => return Err(Unusable::new(format!("statuses[{at}]"), "is unknown")),
            });
        }
        Ok(Self(all))
    }

    /// Returns whether the set is empty: then sessions are ignored.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether sessions may stay with an endpoint of this status.
    pub fn contains(self, status: HealthStatus) -> bool {
        self.0 & bit(status) != 0
    }
}

fn bit(status: HealthStatus) -> u8 {
    match status {
        HealthStatus::Healthy => 1,
        HealthStatus::Degraded => 2,
        HealthStatus::Draining => 4,
        HealthStatus::Unhealthy => 8,
    }
}
