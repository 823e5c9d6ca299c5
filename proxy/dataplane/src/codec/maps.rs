//! The field maps of a worker, which are lent to its messages: a map allocates twice, the larger part above what allocators serve fast.
//!
//! A codec takes one when it reads a head or trailers. Who drops the last use of a message on the way that most take gives it back;
//! elsewhere it is freed.

use std::cell::RefCell;

use http::HeaderMap;

/// The largest map that is kept, in fields.
const LARGEST: usize = 48;
/// How many are kept for the next messages.
const KEPT: usize = 128;

thread_local! {
    static FREE: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// Returns an empty map. A new one has capacity for `fields`.
pub(crate) fn take(fields: usize) -> HeaderMap {
    let kept = FREE.try_with(|free| free.borrow_mut().pop()).ok().flatten();
    kept.unwrap_or_else(|| HeaderMap::with_capacity(fields))
}

/// Takes back a map, whose fields are dropped.
pub(crate) fn give(mut map: HeaderMap) {
    if map.capacity() == 0 || map.capacity() > LARGEST {
        return;
    }
    map.clear();
    // Fails at the end of the thread, where it is freed.
    let _ = FREE.try_with(|free| {
        let free = &mut *free.borrow_mut();
        if free.len() < KEPT {
            free.push(map);
        }
    });
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_map_is_lent_again_without_its_fields() {
        let mut map = take(8);
        let capacity = map.capacity();
        map.insert("a", HeaderValue::from_static("1"));
        map.append("a", HeaderValue::from_static("2"));
        give(map);
        let again = take(0);
        assert_eq!((again.len(), again.keys_len(), again.capacity()), (0, 0, capacity));
        assert!(again.get("a").is_none());
    }

    #[test]
    fn few_are_kept_and_none_that_is_large_or_empty() {
        give(HeaderMap::new());
        give(HeaderMap::with_capacity(2 * LARGEST));
        FREE.with_borrow(|free| assert!(free.is_empty()));
        (0..2 * KEPT).for_each(|_| give(HeaderMap::with_capacity(4)));
        FREE.with_borrow(|free| assert_eq!(free.len(), KEPT));
    }
}
