//! Names that were asked for and that nobody has said anything of yet, by who asked.
//!
//! Only these can be invented, and so these alone give way: at the bound, the client with most of them gives up
//! their oldest. What is known to exist never does.

use std::collections::BTreeMap;

use foldhash::HashMap;
use outrigger_core::Name;
use outrigger_core::peer::PeerKey;

/// The unanswered names.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// The oldest first.
    askers: HashMap<PeerKey, BTreeMap<u64, Name>>,
    len: usize,
    next: u64,
}

/// Where a name stands among them.
#[derive(Debug)]
pub(super) struct Asked {
    by: PeerKey,
    number: u64,
}

impl Unanswered {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Enters a name.
    pub(super) fn enter(&mut self, by: &PeerKey, name: Name) -> Asked {
        self.next += 1;
        self.len += 1;
        self.askers.entry(by.clone()).or_default().insert(self.next, name);
        Asked { by: by.clone(), number: self.next }
    }

    /// Takes a name out: it was answered, or is not waited for any more.
    pub(super) fn leave(&mut self, Asked { by, number }: &Asked) {
        let Some(names) = self.askers.get_mut(by) else { return };
        self.len -= usize::from(names.remove(number).is_some());
        if names.is_empty() {
            self.askers.remove(by);
        }
    }

    /// Takes out the oldest name of who has most, and among equals the oldest of all.
    pub(super) fn evict(&mut self) -> Option<Name> {
        let rank = |names: &BTreeMap<u64, Name>| {
            (names.len(), std::cmp::Reverse(names.first_key_value().map(|(number, _)| *number)))
        };
        let (by, names) = self.askers.iter().max_by_key(|(_, names)| rank(names))?;
        let (number, name) = names.first_key_value().map(|(number, name)| (*number, name.clone()))?;
        let asked = Asked { by: by.clone(), number };
        self.leave(&asked);
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
    fn who_has_most_gives_up_their_oldest_and_among_equals_the_oldest_goes() {
        let mut unanswered = Unanswered::default();
        unanswered.enter(&peer(1), "a".into());
        for name in ["b", "c", "d"] {
            unanswered.enter(&peer(2), name.into());
        }
        let evicted: Vec<_> = std::iter::from_fn(|| unanswered.evict()).collect();
        assert_eq!(evicted.iter().map(|name| &**name).collect::<Vec<_>>(), ["b", "c", "a", "d"]);
        assert!(unanswered.len() == 0 && unanswered.askers.is_empty());
    }

    #[test]
    fn what_is_answered_leaves_once() {
        let mut unanswered = Unanswered::default();
        let (a, b) = (unanswered.enter(&peer(1), "a".into()), unanswered.enter(&peer(1), "b".into()));
        unanswered.leave(&a);
        unanswered.leave(&a);
        assert_eq!(unanswered.len(), 1);
        unanswered.leave(&b);
        assert!(unanswered.len() == 0 && unanswered.evict().is_none());
    }
}
