//! The difference between two versions of a map.

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

/// Returns the keys that were added or removed, or whose values differ, in order. The cost depends on
/// the difference only: nodes that the versions share are not visited.
pub(super) fn changed_keys<K: Ord + Clone, V: Eq>(
    old: &OrdMap<K, V>,
    new: &OrdMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
) -> Vec<K> {
    let changed = |difference| match difference {
        DiffItem::Update { old: (_, old), new: (_, new) } if same(old, new) => None,
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { old: (key, _), .. } => {
            Some(key)
        }
    };
    old.diff(new).filter_map(changed).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_removed_and_different_keys_are_returned_in_order() {
        let old: OrdMap<_, _> = (0..1000).map(|n| (n, n % 7)).collect();
        assert_eq!(changed_keys(&old, &old.clone(), PartialEq::eq), [0; 0]);
        let mut new = old.clone();
        new.insert(600, 50);
        new.insert(1000, 1);
        new.remove(&2);
        new.remove(&5000);
        new.insert(3, 3);
        assert_eq!(changed_keys(&old, &new, PartialEq::eq), [2, 600, 1000]);
        assert_eq!(changed_keys(&old, &new, |_, new| *new == 50), [2, 1000]);
    }
}
