//! Hedging in the cluster of a service port, as metadata that our proxy reads and other clients ignore.
//!
//! Envoy's `hedge_policy` does not say the same: it also sends requests twice whose method is not idempotent.

use std::time::Duration;

use outrigger_proto::xds::cluster::Cluster;
use outrigger_proto::xds::metadata;
use outrigger_proto::xds::protobuf::{Struct, Value, value};

use super::defaults::HEDGING_MIN_DELAY;
use crate::model::hedging::Hedging;

/// Sets when requests to the cluster are hedged.
pub(super) fn apply(cluster: &mut Cluster, hedging: Hedging) {
    let Hedging { percentile_tenths, min_delay, max_delay } = hedging;
    let number = |number| Value { kind: Some(value::Kind::NumberValue(number)) };
    let millis = |delay: Duration| number(delay.as_secs_f64() * 1000.0);
    // A default does not exceed what is set.
    let min_delay = min_delay.unwrap_or_else(|| HEDGING_MIN_DELAY.min(max_delay.unwrap_or(Duration::MAX)));
    let mut fields = Struct::default().fields;
    fields.insert(metadata::PERCENTILE.into(), number(f64::from(percentile_tenths) / 10.0));
    fields.insert(metadata::MIN_DELAY_MS.into(), millis(min_delay));
    if let Some(max_delay) = max_delay {
        fields.insert(metadata::MAX_DELAY_MS.into(), millis(max_delay));
    }
    let of = cluster.metadata.get_or_insert_default();
    of.filter_metadata.insert(metadata::HEDGING.into(), Struct { fields });
}
