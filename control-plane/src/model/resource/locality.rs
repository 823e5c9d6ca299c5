//! The field `locality` of a BackendTrafficPolicy.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;

use super::bounded::number;
use super::strict::at;
use super::value::{Integer, List, Text};
use crate::model::locality::{Failover, Locality, Preference};

/// The length of a zone's name: that of a label's value.
const ZONE: usize = 63;

/// Which endpoints callers prefer by where both run.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct WireLocality {
    preference: WirePreference,
    failover: Option<List<WireFailover, 1, 64>>,
    min_endpoints: Option<Integer<1, 100_000>>,
    overprovisioning_percent: Option<Integer<100, 10_000>>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
enum WirePreference {
    None,
    SameZone,
    SameNode,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WireFailover {
    from: Text<ZONE>,
    to: List<Text<ZONE>, 1, 16>,
}

impl WireLocality {
    /// Returns the settings. Returns the error of a field of `locality`.
    pub(super) fn decode(self) -> Result<Locality, String> {
        let Self { preference, failover, min_endpoints, overprovisioning_percent } = self;
        if let WirePreference::None = preference {
            for (field, is_set) in [
                ("locality.failover", failover.is_some()),
                ("locality.minEndpoints", min_endpoints.is_some()),
                ("locality.overprovisioningPercent", overprovisioning_percent.is_some()),
            ] {
                if is_set {
                    return Err(at(field, "has no effect with preference None"));
                }
            }
        }
        let preference = match preference {
            WirePreference::None => Preference::None,
            WirePreference::SameZone => Preference::SameZone,
            WirePreference::SameNode => Preference::SameNode,
        };
        let orders = failover.map_or(Vec::new(), |List(all)| all);
        let (mut failover, mut zones) = (Vec::new(), BTreeSet::new());
        for (index, order) in orders.into_iter().enumerate() {
            let order = order.decode(index)?;
            if !zones.insert(order.from.clone()) {
                let field = format!("locality.failover[{index}].from");
                return Err(at(&field, format_args!("{:?} has an order already", order.from)));
            }
            failover.push(order);
        }
        Ok(Locality {
            preference,
            failover,
            min_endpoints: number(min_endpoints),
            overprovisioning_percent: number(overprovisioning_percent),
        })
    }
}

impl WireFailover {
    fn decode(self, index: usize) -> Result<Failover, String> {
        let Self { from: Text(from), to: List(to) } = self;
        let mut zones = BTreeSet::from([from.clone()]);
        let to: Vec<_> = to.into_iter().map(|Text(zone)| zone).collect();
        for (place, zone) in to.iter().enumerate() {
            if !zones.insert(zone.clone()) {
                let field = format!("locality.failover[{index}].to[{place}]");
                return Err(at(&field, format_args!("{zone:?} is the zone itself, or named twice")));
            }
        }
        Ok(Failover { from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_table;

    #[test]
    fn a_preference_is_required_and_an_order_names_each_zone_once() {
        check_table(
            "{apiVersion: outrigger.dev/v1alpha1, kind: BackendTrafficPolicy, metadata: {name: a}, \
              spec: {targetRefs: [{group: '', kind: Service, name: b}], locality: {@}}}",
            &[
                "preference: None",
                "preference: SameNode",
                "preference: SameZone, failover: [{from: x, to: [y, z]}, {from: y, to: [x]}], minEndpoints: 2,
                   overprovisioningPercent: 100",
            ],
            &[
                ("", "spec.locality", "missing field `preference`"),
                ("preference: Zone", "spec.locality.preference", "unknown value"),
                ("preference: None, minEndpoints: 2", "spec.locality.minEndpoints", "no effect"),
                (
                    "preference: None, failover: [{from: x, to: [y]}]",
                    "spec.locality.failover",
                    "no effect with preference None",
                ),
                (
                    "preference: None, overprovisioningPercent: 100",
                    "spec.locality.overprovisioningPercent",
                    "no effect",
                ),
                (
                    "preference: SameZone, overprovisioningPercent: 99",
                    "spec.locality.overprovisioningPercent",
                    "not between",
                ),
                ("preference: SameZone, failover: []", "spec.locality.failover", "0 items"),
                (
                    "preference: SameZone, failover: [{from: x, to: [y, x]}]",
                    "spec.locality.failover[0].to[1]",
                    "the zone itself",
                ),
                (
                    "preference: SameZone, failover: [{from: x, to: [y, y]}]",
                    "spec.locality.failover[0].to[1]",
                    "named twice",
                ),
                (
                    "preference: SameZone, failover: [{from: x, to: [y]}, {from: x, to: [z]}]",
                    "spec.locality.failover[1].from",
                    "has an order already",
                ),
            ],
        );
    }
}
