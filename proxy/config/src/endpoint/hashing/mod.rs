//! Tables from which a hash picks an endpoint: Envoy's ring (ketama) and Maglev.
//!
//! Built once for each endpoint list, outside the workers, which share them: a pick costs one look-up. They are the tables that Envoy
//! builds of the same endpoints, so that both proxies pick the same one. They hold the endpoints that take requests according to the
//! control plane; which of these are ejected or fail health checks changes no table. The keys of such an endpoint, and no others,
//! are picked elsewhere meanwhile: from the next points of the ring, or by changed hashes from a Maglev table.

mod maglev;
mod ring;
mod murmur;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{Endpoint, HealthStatus};

/// A balancing policy that picks endpoints by hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hashing {
    /// A ring of hashes of each endpoint (`RingHash`).
    Ring {
        /// The least number of points. Each endpoint has one at least, and the number is rounded up so that all have as many.
        min: u64,
        /// The greatest number of points.
        max: u64,
        /// The hash function for points.
        function: HashFunction,
    },
    /// Maglev's table (`Maglev`).
    Maglev {
        /// The number of its entries, a prime.
        size: u64,
    },
}

/// A hash function for the points of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashFunction {
    /// xxHash64 with seed 0.
    XxHash,
    /// MurmurHash64A, as in libstdc++.
    Murmur2,
}

/// How many entries are looked at for an endpoint that can be used, before the list is.
const ATTEMPTS: u64 = 64;

/// The tables of an endpoint list: one for each priority, and one for the degraded endpoints of each.
#[derive(Clone)]
pub(super) struct Tables(Box<[Table]>);

#[derive(Clone)]
struct Table {
    /// The indexes of its endpoints in the list.
    hosts: Box<[u32]>,
    entries: Entries,
}

#[derive(Clone)]
enum Entries {
    Ring(ring::Ring),
    Maglev(Box<[u32]>),
}

/// An endpoint, as tables are built of it.
struct Entry<'a> {
    /// Its index in the list.
    at: u32,
    /// What is hashed.
    key: &'a str,
    /// Its part of all weights: the sum over a table is 1.
    share: f64,
}

impl Tables {
    /// Builds a table for each of `tiers`, which are the indexes of endpoints in `list`.
    pub(super) fn new<'a>(
        hashing: Hashing,
        list: &[Arc<Endpoint>],
        tiers: impl Iterator<Item = Vec<usize>> + 'a,
    ) -> Self {
        Self(tiers.map(|hosts| Table::new(hashing, list, hosts)).collect())
    }

    /// Returns the endpoint of a hash in a tier, or the next one for which `usable` holds.
    pub(super) fn find(&self, tier: usize, hash: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        self.0.get(tier)?.find(hash, usable)
    }
}

impl Table {
    fn new(hashing: Hashing, list: &[Arc<Endpoint>], mut hosts: Vec<usize>) -> Self {
        hosts.retain(|at| matches!(list[*at].health, HealthStatus::Healthy | HealthStatus::Degraded));
        // Where weights differ, the order decides about fractions of points. As in Envoy, weighted localities are in order.
        let locality = |at: usize| list[at].locality_weight.map(|_| &list[at].locality);
        hosts.sort_unstable_by_key(|at| (locality(*at), *at));
        let keys: Vec<_> = hosts.iter().map(|at| list[*at].hash_key()).collect();
        let shares = shares(hosts.iter().map(|at| &*list[*at]));
        let entries = hosts.iter().zip(&keys).zip(shares);
        // A weighted locality without a weight gets no requests.
        let entries = entries.filter(|(_, share)| *share > 0.0);
        // An index fits: a list that long would not.
        let entries: Vec<_> = entries
            .map(|((at, key), share)| Entry { at: u32::try_from(*at).unwrap_or(u32::MAX), key, share })
            .collect();
        let hosts = entries.iter().map(|entry| entry.at).collect();
        let entries = match hashing {
            Hashing::Ring { min, max, function } => {
                Entries::Ring(ring::Ring::new(&entries, min, max, function))
            }
            Hashing::Maglev { size } => Entries::Maglev(maglev::table(entries, size)),
        };
        Self { hosts, entries }
    }

    fn find(&self, hash: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let found = |host: u32| Some(host as usize).filter(|host| usable(*host));
        let tried = match &self.entries {
            Entries::Ring(ring) => ring.from(hash).take(ATTEMPTS as usize).find_map(found),
            Entries::Maglev(table) if table.is_empty() => None,
            // Of an endpoint that cannot be used, Envoy's hash for another attempt at the same request is taken.
            Entries::Maglev(table) => (0..ATTEMPTS)
                .map(|attempt| if attempt == 0 { hash } else { hash ^ attempt.wrapping_neg() })
                .find_map(|hash| found(table[(hash % table.len() as u64) as usize])),
        };
        tried.or_else(|| {
            // Few can be used. Each hash begins at a place of its own.
            let start = (hash % self.hosts.len().max(1) as u64) as usize;
            let (before, from) = self.hosts.split_at(start);
            from.iter().chain(before).find_map(|host| found(*host))
        })
    }
}

/// Returns the endpoints' parts of all weights: by their weight in their locality and, if localities are weighted, by that of
/// the locality.
fn shares<'a>(endpoints: impl Iterator<Item = &'a Endpoint> + Clone) -> Vec<f64> {
    let mut localities = BTreeMap::new();
    for endpoint in endpoints.clone() {
        let locality = endpoint.locality_weight.map(|_| &endpoint.locality);
        let of = localities.entry(locality).or_insert((endpoint.locality_weight, 0u64));
        of.1 += u64::from(endpoint.weight);
    }
    let all: u64 = localities.values().map(|(weight, _)| u64::from(weight.unwrap_or(1))).sum();
    let share = |endpoint: &Endpoint| {
        let locality = endpoint.locality_weight.map(|_| &endpoint.locality);
        let (weight, sum) = localities[&locality];
        let of_locality = match all {
            0 => 0.0,
            all => f64::from(weight.unwrap_or(1)) / all as f64,
        };
        f64::from(endpoint.weight) * of_locality / sum.max(1) as f64
    };
    endpoints.map(share).collect()
}

/// Thousands of entries would tell a reader nothing.
impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.0.iter().map(|table| match &table.entries {
            Entries::Ring(ring) => ring.len(),
            Entries::Maglev(table) => table.len(),
        });
        f.debug_tuple("Tables").field(&entries.collect::<Vec<_>>()).finish()
    }
}

#[cfg(test)]
mod tests;
