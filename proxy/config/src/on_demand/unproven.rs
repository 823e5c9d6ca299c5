//! Names that are not known to exist, by the client that requested them: there is no response yet, or the response
//! was that the name does not exist.
//!
//! Clients can invent such names, so only these are evicted. At the bound, the oldest name of the client with the most of
//! them is evicted. A name that exists, or once did, is not here and is never evicted.

use std::collections::BTreeMap;

use foldhash::HashMap;
use outrigger_core::Name;
use outrigger_core::peer::PeerKey;

/// The unproven names.
#[derive(Debug, Default)]
pub(super) struct Unproven {
    /// The names of each client, oldest first.
    clients: HashMap<PeerKey, BTreeMap<u64, Name>>,
    len: usize,
    next: u64,
}

/// The key of one name.
#[derive(Debug)]
pub(super) struct UnprovenKey {
    by: PeerKey,
    number: u64,
}

impl Unproven {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a name.
    pub(super) fn insert(&mut self, by: &PeerKey, name: Name) -> UnprovenKey {
        self.next += 1;
        self.len += 1;
        self.clients.entry(by.clone()).or_default().insert(self.next, name);
        UnprovenKey { by: by.clone(), number: self.next }
    }

    /// Removes a name: it exists, or was unsubscribed.
    pub(super) fn remove(&mut self, UnprovenKey { by, number }: &UnprovenKey) {
        let Some(names) = self.clients.get_mut(by) else { return };
        self.len -= usize::from(names.remove(number).is_some());
        if names.is_empty() {
            self.clients.remove(by);
        }
    }

    /// Removes and returns the oldest name of the client with the most names. Of clients with equally many, the one with the oldest
    /// name is selected.
    pub(super) fn evict(&mut self) -> Option<Name> {
        let rank = |names: &BTreeMap<u64, Name>| {
            (names.len(), std::cmp::Reverse(names.first_key_value().map(|(number, _)| *number)))
        };
        let (by, names) = self.clients.iter().max_by_key(|(_, names)| rank(names))?;
        let (number, name) = names.first_key_value().map(|(number, name)| (*number, name.clone()))?;
        let key = UnprovenKey { by: by.clone(), number };
        self.remove(&key);
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerKey {
        PeerKey::new(None, [10, 0, 0, n].into())
    }

    #[test]
    fn the_oldest_name_of_the_client_with_most_is_evicted_and_among_equals_the_oldest_of_all() {
        let mut unproven = Unproven::default();
        unproven.insert(&peer(1), "a".into());
        for name in ["b", "c", "d"] {
            unproven.insert(&peer(2), name.into());
        }
        let evicted: Vec<_> = std::iter::from_fn(|| unproven.evict()).collect();
        assert_eq!(evicted.iter().map(|name| &**name).collect::<Vec<_>>(), ["b", "c", "a", "d"]);
        assert!(unproven.len() == 0 && unproven.clients.is_empty());
    }

    #[test]
    fn a_name_is_removed_once() {
        let mut unproven = Unproven::default();
        let (a, b) = (unproven.insert(&peer(1), "a".into()), unproven.insert(&peer(1), "b".into()));
        unproven.remove(&a);
        unproven.remove(&a);
        assert_eq!(unproven.len(), 1);
        unproven.remove(&b);
        assert!(unproven.len() == 0 && unproven.evict().is_none());
    }
}
