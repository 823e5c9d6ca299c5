//! Decoding of the policies that pick endpoints by hashes: ring hash and Maglev, in the policy list and in the older fields.
//!
//! The defaults and limits are Envoy's, so that both build the same tables.

use outrigger_policy::field::{Unusable, number, unsupported};
use outrigger_policy::hash_policy::HashPolicies;
use outrigger_proto::xds::protobuf::UInt64Value;
use outrigger_proto::xds::{cluster as wire_cluster, lb_common, maglev, ring_hash};
use wire_cluster::cluster::common_lb_config::ConsistentHashingLbConfig as OlderCommon;
use wire_cluster::cluster::{MaglevLbConfig, RingHashLbConfig};

use super::Balancing;
use super::picking::Picking;
use crate::endpoint::hashing::{HashFunction, Hashing};

/// The greatest number of points of a ring.
const MOST_POINTS: u64 = 8 << 20;

/// The greatest size of a Maglev table.
const MOST_ENTRIES: u64 = 5_000_011;

/// Decodes ring hash in the policy list.
#[allow(deprecated)] // the older form of the common settings
pub(super) fn ring(wire: ring_hash::RingHash) -> Result<Picking, Unusable> {
    use ring_hash::ring_hash::HashFunction as Wire;
    let ring_hash::RingHash {
        hash_function,
        minimum_ring_size,
        maximum_ring_size,
        use_hostname_for_hashing,
        hash_balance_factor,
        consistent_hashing_lb_config,
        locality_weighted_lb_config,
    } = wire;
    let function = match Wire::try_from(hash_function) {
        Ok(Wire::DefaultHash | Wire::XxHash) => HashFunction::XxHash,
        Ok(Wire::MurmurHash2) => HashFunction::Murmur2,
        Err(_) => return Err(Unusable::new("hash_function", "is unknown")),
    };
    let picking = Picking::new(
        sized_ring(minimum_ring_size, maximum_ring_size, function)?,
        locality_weighted_lb_config.is_some(),
    );
    match consistent_hashing_lb_config {
        // Then the older fields are not read, as in Envoy.
        Some(wire) => common(picking, wire),
        None => {
            unsupported("hash_balance_factor", number(hash_balance_factor).unwrap_or(0) != 0)?;
            Ok(Picking { hashes_names: use_hostname_for_hashing, ..picking })
        }
    }
}

/// Decodes Maglev in the policy list.
pub(super) fn maglev(wire: maglev::Maglev) -> Result<Picking, Unusable> {
    let maglev::Maglev { table_size, consistent_hashing_lb_config, locality_weighted_lb_config } = wire;
    let picking = Picking::new(sized_table(table_size)?, locality_weighted_lb_config.is_some());
    common(picking, consistent_hashing_lb_config.unwrap_or_default())
}

/// Decodes ring hash in the older fields.
pub(super) fn older_ring(config: Option<RingHashLbConfig>) -> Result<Balancing, Unusable> {
    use wire_cluster::cluster::ring_hash_lb_config::HashFunction as Wire;
    let RingHashLbConfig { minimum_ring_size, hash_function, maximum_ring_size } = config.unwrap_or_default();
    let function = match Wire::try_from(hash_function) {
        Ok(Wire::XxHash) => Ok(HashFunction::XxHash),
        Ok(Wire::MurmurHash2) => Ok(HashFunction::Murmur2),
        Err(_) => Err(Unusable::new("hash_function", "is unknown")),
    };
    function
        .and_then(|function| sized_ring(minimum_ring_size, maximum_ring_size, function))
        .map_err(|bad| bad.within("ring_hash_lb_config"))
}

/// Decodes Maglev in the older fields.
pub(super) fn older_maglev(config: Option<MaglevLbConfig>) -> Result<Balancing, Unusable> {
    let MaglevLbConfig { table_size } = config.unwrap_or_default();
    sized_table(table_size).map_err(|bad| bad.within("maglev_lb_config"))
}

/// Decodes the settings of both that are common to all clusters with the older fields. Returns whether names are hashed.
pub(super) fn older_common(wire: Option<OlderCommon>) -> Result<bool, Unusable> {
    let OlderCommon { use_hostname_for_hashing, hash_balance_factor } = wire.unwrap_or_default();
    unsupported("hash_balance_factor", number(hash_balance_factor).unwrap_or(0) != 0)
        .map_err(|bad| bad.within("common_lb_config.consistent_hashing_lb_config"))?;
    Ok(use_hostname_for_hashing)
}

fn common(picking: Picking, wire: lb_common::ConsistentHashingLbConfig) -> Result<Picking, Unusable> {
    let lb_common::ConsistentHashingLbConfig { use_hostname_for_hashing, hash_balance_factor, hash_policy } =
        wire;
    // Bounded loads need the requests in flight of all workers at each pick.
    let hash_policies = unsupported("hash_balance_factor", number(hash_balance_factor).unwrap_or(0) != 0)
        .and_then(|()| HashPolicies::decode(hash_policy))
        .map_err(|bad| bad.within("consistent_hashing_lb_config"))?;
    Ok(Picking { hashes_names: use_hostname_for_hashing, hash_policies, ..picking })
}

fn sized_ring(
    min: Option<UInt64Value>,
    max: Option<UInt64Value>,
    function: HashFunction,
) -> Result<Balancing, Unusable> {
    let size = |field, wire: Option<UInt64Value>, default| match wire.map_or(default, |wire| wire.value) {
        size @ 1..=MOST_POINTS => Ok(size),
        _ => Err(Unusable::new(field, format_args!("must be from 1 to {MOST_POINTS}"))),
    };
    let min = size("minimum_ring_size", min, 1024)?;
    let max = size("maximum_ring_size", max, MOST_POINTS)?;
    if min > max {
        return Err(Unusable::new("minimum_ring_size", "is more than maximum_ring_size"));
    }
    Ok(Balancing::Hashing(Hashing::Ring { min, max, function }))
}

fn sized_table(size: Option<UInt64Value>) -> Result<Balancing, Unusable> {
    let size = size.map_or(65_537, |wire| wire.value);
    if size > MOST_ENTRIES || !is_prime(size) {
        return Err(Unusable::new("table_size", format_args!("must be a prime of {MOST_ENTRIES} at most")));
    }
    Ok(Balancing::Hashing(Hashing::Maglev { size }))
}

fn is_prime(number: u64) -> bool {
    number > 1
        && (2..).take_while(|factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor))
}
