//! The buffers of a worker, which are lent to its connections while bytes move.
//!
//! A connection takes one when it reads or writes, and returns it when it waits with nothing in it: idle connections hold none. A
//! returned buffer of which a head or a piece of a body still uses a part is lent again as far as it is free.

use std::cell::RefCell;

use bytes::BytesMut;

/// The size of a buffer; enough for nearly every head.
pub(crate) const SIZE: usize = 8 * 1024;
/// Less is not worth a read.
const LEAST: usize = SIZE / 4;
/// The largest buffer that is kept. Larger ones are made for bulk.
const LARGEST: usize = 2 * SIZE;
/// How many are kept for the next connections.
const KEPT: usize = 32;

thread_local! {
    static FREE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Returns an empty buffer with a capacity of at least a quarter of [`SIZE`].
pub(crate) fn take() -> BytesMut {
    let kept = FREE.try_with(|free| {
        let free = &mut *free.borrow_mut();
        std::iter::from_fn(|| free.pop())
            .find_map(|mut buffer| (buffer.capacity() >= LEAST || buffer.try_reclaim(SIZE)).then_some(buffer))
    });
    kept.ok().flatten().unwrap_or_else(|| BytesMut::with_capacity(SIZE))
}

/// Takes back a buffer. What is in it is discarded.
pub(crate) fn give(mut buffer: BytesMut) {
    if buffer.capacity() == 0 {
        return;
    }
    buffer.clear();
    // The whole of it, if nothing else uses a part.
    let whole = buffer.try_reclaim(SIZE);
    if buffer.capacity() > LARGEST || !whole && buffer.capacity() < LEAST {
        return;
    }
    // Fails at the end of the thread, where it is freed.
    let _ = FREE.try_with(|free| {
        let free = &mut *free.borrow_mut();
        if free.len() < KEPT {
            free.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_lent_again_whole_once_nothing_uses_a_part_of_it() {
        let mut buffer = take();
        let memory = buffer.as_ptr();
        buffer.extend_from_slice(b"a head and more");
        let head = buffer.split_to(6).freeze();
        give(buffer);
        let again = take();
        assert_eq!(again.as_ptr(), memory.wrapping_add(6), "the rest of it is lent");
        assert!(again.is_empty() && again.capacity() < SIZE);
        give(again);
        assert_eq!(&head[..], b"a head and more"[..6].as_ref());
        drop(head);
        let mut again = take();
        assert!(again.try_reclaim(SIZE));
        assert_eq!((again.as_ptr(), again.capacity()), (memory, SIZE));
    }

    #[test]
    fn a_buffer_that_is_nearly_used_up_or_large_is_not_kept() {
        let mut used_up = BytesMut::with_capacity(SIZE);
        used_up.resize(SIZE - 8, 0);
        let _part = used_up.split().freeze();
        give(used_up);
        give(BytesMut::with_capacity(LARGEST + 1));
        give(BytesMut::new());
        FREE.with_borrow(|free| assert!(free.is_empty()));
    }

    #[test]
    fn few_are_kept() {
        (0..2 * KEPT).for_each(|_| give(BytesMut::with_capacity(SIZE)));
        FREE.with_borrow(|free| assert_eq!(free.len(), KEPT));
    }
}
