//! A map of which two versions share what did not change.
//!
//! The mesh is published as a whole after every change, so a copy must cost the change and not the mesh: 256 shards
//! behind `Arc`s, of which a write copies one. With 10,000 services that is some 40 entries a write, and comparing
//! two versions costs 256 pointer comparisons plus the shards that differ.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

/// Shards of every map: a power of two, so that the shard is the low bits of the hash.
const SHARDS: usize = 256;

/// A map that is cheap to clone, and cheap to change after a clone.
#[derive(Debug, Clone)]
pub struct SharedMap<K, V> {
    shards: Arc<[Shard<K, V>]>,
    len: usize,
}

type Shard<K, V> = Arc<BTreeMap<K, V>>;

impl<K: Ord + Hash + Clone, V: Clone> SharedMap<K, V> {
    /// Finds the value of `key`.
    pub fn get<Q: Ord + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards[shard(key)].get(key)
    }

    /// Puts a value in, and gives back the one it replaces.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let old = self.shard_mut(shard(&key)).insert(key, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes a value out.
    pub fn remove<Q: Ord + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = shard(key);
        if !self.shards[at].contains_key(key) {
            return None;
        }
        self.len -= 1;
        self.shard_mut(at).remove(key)
    }

    /// The first key in order. Looks at every shard.
    pub fn first_key(&self) -> Option<&K> {
        self.shards.iter().filter_map(|shard| shard.first_key_value()).map(|(key, _)| key).min()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every entry, in an order that is the same for the same keys but otherwise means nothing.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// The keys whose values differ between the two versions, came or went, in order. `same` is asked only about
    /// entries of shards that were copied between the two.
    pub fn changed_keys(&self, old: &Self, same: impl Fn(&V, &V) -> bool) -> Vec<K> {
        let mut changed = Vec::new();
        for (new, old) in self.shards.iter().zip(old.shards.iter()) {
            if Arc::ptr_eq(new, old) {
                continue;
            }
            let differs = |(key, value): &(&K, &V)| old.get(*key).is_none_or(|was| !same(value, was));
            changed.extend(new.iter().filter(differs).map(|(key, _)| key.clone()));
            changed.extend(old.keys().filter(|key| !new.contains_key(*key)).cloned());
        }
        changed.sort_unstable();
        changed
    }

    /// How many shards were copied since the two were one.
    #[cfg(test)]
    pub(crate) fn copied_since(&self, old: &Self) -> usize {
        self.shards.iter().zip(old.shards.iter()).filter(|(a, b)| !Arc::ptr_eq(a, b)).count()
    }

    fn shard_mut(&mut self, at: usize) -> &mut BTreeMap<K, V> {
        Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[at])
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        let empty = Arc::new(BTreeMap::new());
        Self { shards: std::iter::repeat_n(empty, SHARDS).collect(), len: 0 }
    }
}

impl<K: Ord + Hash + Clone, V: Clone + PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let same = |(a, b): (&Shard<K, V>, &Shard<K, V>)| Arc::ptr_eq(a, b) || a == b;
        self.len == other.len && self.shards.iter().zip(other.shards.iter()).all(same)
    }
}

impl<K: Ord + Hash + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

/// The seed is fixed, since the shards of two versions are compared one to one. Nobody gains by colliding: keys are
/// names that operators and authenticated workloads chose, and a full shard only costs a larger copy.
fn shard<Q: Hash + ?Sized>(key: &Q) -> usize {
    foldhash::fast::FixedState::default().hash_one(key) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &u32, b: &u32) -> bool {
        a == b
    }

    #[test]
    fn a_change_names_the_keys_that_came_went_or_differ() {
        let old: SharedMap<String, u32> = (0..1000).map(|n| (format!("k{n}"), n)).collect();
        let mut new = old.clone();
        assert!(new.changed_keys(&old, same).is_empty() && new == old);
        new.insert("k1".into(), 7);
        new.insert("new".into(), 1);
        new.remove("k2");
        new.remove("never there");
        new.insert("k3".into(), 3);
        assert_eq!(new.changed_keys(&old, same), ["k1", "k2", "new"]);
        assert_eq!((new.len(), old.len()), (1000, 1000));
        assert_eq!((new.get("k1"), old.get("k1"), new.get("k2")), (Some(&7), Some(&1), None));
    }

    #[test]
    fn a_write_copies_one_shard() {
        let old: SharedMap<u32, u32> = (0..10_000).map(|n| (n, n)).collect();
        let mut new = old.clone();
        new.insert(1, 2);
        assert_eq!(new.copied_since(&old), 1);
    }
}
