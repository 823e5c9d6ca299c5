//! An index from an address to all that claim it.
//!
//! Which claimant is first does not depend on the order of arrival. An address usually has one claimant or two; a change
//! and a look-up stay cheap if thousands claim it.

use std::cmp::Ordering;

use equivalent::{Comparable, Equivalent};
use imbl::OrdSet;
use imbl::ordset::DiffItem;

/// Claimants by address. Cheap to clone, and cheap to change after a clone.
#[derive(Debug, Clone)]
pub(super) struct AddressIndex<A: Ord, O: Ord>(OrdSet<(A, O)>);

impl<A: Ord, O: Ord> Default for AddressIndex<A, O> {
    fn default() -> Self {
        Self(OrdSet::default())
    }
}

impl<A: Ord + Clone, O: Ord + Clone> AddressIndex<A, O> {
    /// Adds a claim.
    pub(super) fn insert(&mut self, address: A, owner: O) {
        self.0.insert((address, owner));
    }

    /// Removes a claim.
    pub(super) fn remove(&mut self, address: &A, owner: &O) {
        self.0.remove(&(address.clone(), owner.clone()));
    }

    /// Returns every claimant of an address, in order.
    pub(super) fn of(&self, address: &A) -> impl Iterator<Item = &O> {
        let claims = self.0.range(FirstOf(address)..);
        claims.take_while(move |(other, _)| other == address).map(|(_, owner)| owner)
    }

    /// Returns every claimant of the addresses from `first` on, in order, with the address.
    pub(super) fn from<'a>(&'a self, first: &A) -> impl Iterator<Item = &'a (A, O)> + use<'a, A, O> {
        self.0.range(FirstOf(first)..)
    }

    /// Returns the addresses whose claimants differ from those of an older version, possibly with duplicates. The cost depends on
    /// the difference only.
    pub(super) fn changes<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = &'a A> {
        old.0.diff(&self.0).map(|difference| match difference {
            DiffItem::Add((address, _)) | DiffItem::Remove((address, _)) => address,
        })
    }

    /// Returns true if this owner claims the address.
    pub(super) fn contains(&self, address: &A, owner: &O) -> bool {
        self.0.contains(&(address.clone(), owner.clone()))
    }
}

/// The position just before the first claim of an address.
struct FirstOf<'a, A>(&'a A);

impl<A: Ord, O> Comparable<(A, O)> for FirstOf<'_, A> {
    fn compare(&self, (address, _): &(A, O)) -> Ordering {
        self.0.cmp(address).then(Ordering::Less)
    }
}

impl<A: Ord, O> Equivalent<(A, O)> for FirstOf<'_, A> {
    fn equivalent(&self, _: &(A, O)) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn claims_are_a_set_in_order_however_many(
            steps in proptest::collection::vec((any::<bool>(), 0..4_u8, 0..40_u8), 0..200),
        ) {
            let (mut index, mut expected) = (AddressIndex::default(), BTreeMap::<u8, BTreeSet<u8>>::new());
            for (added, address, owner) in steps {
                let all = expected.entry(address).or_default();
                if added {
                    index.insert(address, owner);
                    all.insert(owner);
                } else {
                    index.remove(&address, &owner);
                    all.remove(&owner);
                }
                prop_assert_eq!(index.contains(&address, &owner), all.contains(&owner));
                for (address, all) in &expected {
                    prop_assert!(index.of(address).eq(all));
                }
            }
        }
    }

    /// A claimant that counts its copies.
    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
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

    /// Returns the number of copies made by adding that many claims of one address and removing them again, with a publication
    /// after each `batch`.
    fn copies(claims: u32, batch: u32) -> usize {
        COPIES.with(|copies| copies.set(0));
        let (mut index, mut published) = (AddressIndex::default(), Vec::new());
        for n in 0..claims {
            index.insert("a", Counted(n));
            if n % batch == 0 {
                published = vec![index.clone()];
            }
        }
        drop(published);
        (0..claims).for_each(|n| index.remove(&"a", &Counted(n)));
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
