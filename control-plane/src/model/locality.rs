//! Which endpoints callers prefer by where both run: the field `locality` of a BackendTrafficPolicy.

use outrigger_core::Name;

/// Which endpoints are called first. It comes before `trafficDistribution` of the Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locality {
    /// Where the endpoints are that are called first.
    pub preference: Preference,
    /// The zones that follow the caller's own one; others come last. Not with [`Preference::None`].
    pub failover: Vec<Failover>,
    /// How many ready endpoints the caller's zone must have. With fewer, its rank is that of the next zones. Without it, any number is
    /// enough. Not with [`Preference::None`].
    pub min_endpoints: Option<u32>,
    /// How much load the endpoints that are left can take, in percent of their share; at least 100. Not with [`Preference::None`].
    pub overprovisioning_percent: Option<u32>,
}

/// Where the endpoints are that a caller prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// Anywhere.
    None,
    /// In its zone.
    SameZone,
    /// On its node, then in its zone.
    SameNode,
}

/// The order of the zones for the callers in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// The zone of the callers.
    pub from: Name,
    /// Other zones, the preferred one first.
    pub to: Vec<Name>,
}

impl Preference {
    /// Returns its name, as in YAML.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::SameZone => "SameZone",
            Self::SameNode => "SameNode",
        }
    }
}

impl Locality {
    /// Returns how many other zones the callers of zone `from` prefer to zone `to`.
    pub fn rank(&self, from: &Name, to: Option<&Name>) -> u32 {
        let Some(order) = self.failover.iter().find(|order| order.from == *from) else { return 0 };
        let rank = order.to.iter().position(|zone| Some(zone) == to).unwrap_or(order.to.len());
        u32::try_from(rank).unwrap_or(u32::MAX)
    }
}
