//! An index from an address to everybody who claims it.
//!
//! Which claimant is first does not depend on the order of arrival. An address has one claimant or two, as a
//! rule; that thousands claim one makes neither a change nor a look-up cost thousands.

use std::hash::Hash;
use std::sync::Arc;

use super::shared_map::SharedMap;

/// Claimants by address. Cheap to clone, and cheap to change after a clone.
#[derive(Debug, Clone)]
pub(super) struct Owners<A, O>(SharedMap<A, Claims<O>>);

/// So many claimants are a list.
const FEW: usize = 16;

#[derive(Debug, Clone)]
enum Claims<O> {
    /// In order.
    Few(Arc<[O]>),
    Many(SharedMap<O, ()>),
}

impl<A, O> Default for Owners<A, O> {
    fn default() -> Self {
        Self(SharedMap::default())
    }
}

impl<A: Ord + Hash + Clone, O: Ord + Hash + Clone> Owners<A, O> {
    /// Enters a claim.
    pub(super) fn own(&mut self, address: A, owner: O) {
        // Taken out, so that what nobody else holds is changed in its place.
        let claims = match self.0.remove(&address) {
            None => Claims::Few([owner].into()),
            Some(Claims::Many(mut all)) => {
                all.insert(owner, ());
                Claims::Many(all)
            }
            Some(Claims::Few(few)) => match few.binary_search(&owner) {
                Ok(_) => Claims::Few(few),
                Err(_) if few.len() >= FEW => {
                    Claims::Many(few.iter().cloned().chain([owner]).map(|owner| (owner, ())).collect())
                }
                Err(at) => {
                    let mut all = few.to_vec();
                    all.insert(at, owner);
                    Claims::Few(all.into())
                }
            },
        };
        self.0.insert(address, claims);
    }

    /// Takes a claim out.
    pub(super) fn disown(&mut self, address: &A, owner: &O) {
        let claims = match self.0.remove(address) {
            None => return,
            Some(Claims::Few(few)) => {
                Claims::Few(few.iter().filter(|other| *other != owner).cloned().collect())
            }
            Some(Claims::Many(mut all)) => {
                all.remove(owner);
                match all.len() > FEW / 2 {
                    true => Claims::Many(all),
                    false => Claims::Few(sorted(&all).into()),
                }
            }
        };
        if !matches!(&claims, Claims::Few(few) if few.is_empty()) {
            self.0.insert(address.clone(), claims);
        }
    }

    /// The first claimant in order.
    pub(super) fn first(&self, address: &A) -> Option<&O> {
        match self.0.get(address)? {
            Claims::Few(few) => few.first(),
            Claims::Many(all) => all.first_key(),
        }
    }

    /// Whether this one claims it.
    pub(super) fn contains(&self, address: &A, owner: &O) -> bool {
        match self.0.get(address) {
            None => false,
            Some(Claims::Few(few)) => few.binary_search(owner).is_ok(),
            Some(Claims::Many(all)) => all.get(owner).is_some(),
        }
    }

    /// How many parts were copied since the two were one.
    #[cfg(test)]
    pub(super) fn copied_since(&self, old: &Self) -> usize {
        self.0.copied_since(&old.0)
    }

    /// Every claimant, in order.
    pub(super) fn all(&self, address: &A) -> Vec<O> {
        match self.0.get(address) {
            None => Vec::new(),
            Some(Claims::Few(few)) => few.to_vec(),
            Some(Claims::Many(all)) => sorted(all),
        }
    }
}

fn sorted<O: Ord + Hash + Clone>(all: &SharedMap<O, ()>) -> Vec<O> {
    let mut all: Vec<_> = all.iter().map(|(owner, ())| owner.clone()).collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn claims_are_a_set_in_order_however_many(
            steps in proptest::collection::vec((any::<bool>(), 0..40_u8), 0..200),
        ) {
            let (mut owners, mut expected) = (Owners::default(), BTreeSet::new());
            for (comes, owner) in steps {
                match comes {
                    true => {
                        owners.own("a", owner);
                        expected.insert(owner);
                    }
                    false => {
                        owners.disown(&"a", &owner);
                        expected.remove(&owner);
                    }
                }
                prop_assert_eq!(owners.first(&"a"), expected.first());
                prop_assert_eq!(owners.contains(&"a", &owner), expected.contains(&owner));
            }
            prop_assert_eq!(owners.all(&"a"), expected.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(owners.0.len(), usize::from(!expected.is_empty()), "nothing stays of nobody");
        }
    }

    /// A claimant that counts its copies.
    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    struct Counted(u32);

    thread_local! {
        static COPIES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    impl Clone for Counted {
        fn clone(&self) -> Self {
            COPIES.with(|copies| copies.set(copies.get() + 1));
            Self(self.0)
        }
    }

    /// The copies that it takes to enter so many claims of one address and to take them out again, published after each
    /// `batch` of them.
    fn copies(claims: u32, batch: u32) -> usize {
        COPIES.with(|copies| copies.set(0));
        let (mut owners, mut published) = (Owners::default(), Vec::new());
        for n in 0..claims {
            owners.own("a", Counted(n));
            if n % batch == 0 {
                published = vec![owners.clone()];
            }
        }
        drop(published);
        (0..claims).for_each(|n| owners.disown(&"a", &Counted(n)));
        COPIES.with(std::cell::Cell::get)
    }

    #[test]
    fn ten_times_the_claims_of_one_address_cost_ten_times_the_copies() {
        let (few, many) = (copies(1_000, 1_000), copies(10_000, 10_000));
        assert!(many < few * 20, "{few} copies of 1,000 and {many} of 10,000");
    }

    #[test]
    fn a_change_of_an_address_of_thousands_copies_few_of_them() {
        let each = copies(10_000, 1) / 10_000;
        assert!(each < 100, "{each} copies a change");
    }
}
