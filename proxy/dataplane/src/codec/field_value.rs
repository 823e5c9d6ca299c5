//! Values of fields that the proxy itself adds to each request, in memory that belongs to the worker.
//!
//! A value of its own would be an allocation each. Called by the stages that write such fields.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

/// The memory that is allocated at once, for about ten values. A value keeps all of it, so that it is small.
const BLOCK: usize = 1024;

thread_local! {
    static BLOCK_IN_USE: RefCell<BytesMut> = RefCell::default();
}

/// Returns a value with a copy of `bytes`. Returns None if a field value must not contain them (RFC 9110 section 5.5).
pub(crate) fn copied(bytes: &[u8]) -> Option<HeaderValue> {
    let copy = BLOCK_IN_USE.with_borrow_mut(|block| {
        if block.capacity() - block.len() < bytes.len() {
            *block = BytesMut::with_capacity(BLOCK.max(bytes.len()));
        }
        block.extend_from_slice(bytes);
        block.split().freeze()
    });
    HeaderValue::from_maybe_shared::<Bytes>(copy).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_apart_although_they_share_memory() {
        let values: Vec<_> =
            (0..100).map(|number| copied(format!("{number:050}").as_bytes()).unwrap()).collect();
        for (number, value) in values.iter().enumerate() {
            assert_eq!(value, format!("{number:050}").as_str());
        }
        let next_to_each_other = values
            .windows(2)
            .filter(|pair| pair[0].as_bytes().as_ptr_range().end == pair[1].as_bytes().as_ptr());
        assert!(next_to_each_other.count() > 80);
    }

    #[test]
    fn a_value_may_be_long_but_not_break_the_line() {
        assert_eq!(copied(&[b'a'; 3 * BLOCK]).unwrap().len(), 3 * BLOCK);
        assert_eq!(copied(b"a\r\nb: c"), None);
        assert_eq!(copied(b"").unwrap(), "");
    }
}
