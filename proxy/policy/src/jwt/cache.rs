//! The tokens that a worker verified recently, so that the next request with the same token costs no signature.
//!
//! An entry says that a set of keys verified a token. It is used with the same set alone: a set that was replaced verifies again. Times, issuer and
//! audience are checked for each request. The cache is a worker's own, and bounded: when the younger half is full, the older one is dropped.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use serde_json::{Map, Value};

use crate::jose::KeySet;

/// The most tokens in a half.
const TOKENS: usize = 512;
/// The most bytes of tokens in a half.
const BYTES: usize = 512 * 1024;

/// A token whose signature was verified.
#[derive(Debug, Default)]
pub(super) struct Token {
    pub(super) header: Arc<Map<String, Value>>,
    pub(super) claims: Arc<Map<String, Value>>,
    pub(super) payload: Vec<u8>,
}

thread_local! {
    static VERIFIED: RefCell<Verified> = RefCell::default();
}

#[derive(Default)]
struct Verified {
    younger: HashMap<Box<str>, Entry>,
    older: HashMap<Box<str>, Entry>,
    /// Bytes of the tokens in `younger`.
    bytes: usize,
}

struct Entry {
    /// Its address is not used again while this exists.
    keys: Weak<KeySet>,
    token: Arc<Token>,
}

/// Returns the token, if `keys` verified it before.
pub(super) fn get(text: &str, keys: &Arc<KeySet>) -> Option<Arc<Token>> {
    VERIFIED.with_borrow_mut(|verified| {
        if !verified.younger.contains_key(text) {
            let (text, entry) = verified.older.remove_entry(text)?;
            verified.put(text, entry);
        }
        let entry = verified.younger.get(text)?;
        (Weak::as_ptr(&entry.keys) == Arc::as_ptr(keys)).then(|| Arc::clone(&entry.token))
    })
}

/// Remembers that `keys` verified the token.
pub(super) fn put(text: &str, keys: &Arc<KeySet>, token: Arc<Token>) {
    VERIFIED
        .with_borrow_mut(|verified| verified.put(text.into(), Entry { keys: Arc::downgrade(keys), token }));
}

impl Verified {
    fn put(&mut self, text: Box<str>, entry: Entry) {
        if self.younger.len() >= TOKENS || self.bytes + text.len() > BYTES {
            self.older = std::mem::take(&mut self.younger);
            self.bytes = 0;
        }
        self.bytes += text.len();
        self.younger.insert(text, entry);
    }
}

#[cfg(test)]
mod tests {
    use outrigger_test_support::token::{TokenSigner, key_set};

    use super::*;
    use crate::jose::Trust;

    fn keys(of: &TokenSigner) -> Arc<KeySet> {
        Arc::new(KeySet::read(key_set([of]).as_bytes(), Trust::Configuration).unwrap())
    }

    #[test]
    fn a_token_is_known_to_the_keys_that_verified_it() {
        let signer = TokenSigner::new("HS256", "k");
        let (before, after) = (keys(&signer), keys(&signer));
        put("a", &before, Arc::default());
        assert!(get("a", &before).is_some());
        assert!(get("a", &after).is_none() && get("b", &before).is_none());
        drop(before);
        assert!(get("a", &keys(&signer)).is_none());
        put("a", &after, Arc::default());
        assert!(get("a", &after).is_some());
    }

    #[test]
    fn tokens_in_use_stay_and_the_others_make_room() {
        let keys = keys(&TokenSigner::new("HS256", "k"));
        put("used", &keys, Arc::default());
        put("unused", &keys, Arc::default());
        for at in 0..4 * TOKENS {
            put(&at.to_string(), &keys, Arc::default());
            assert!(get("used", &keys).is_some(), "{at}");
        }
        assert!(get("unused", &keys).is_none());
        put(&"x".repeat(BYTES), &keys, Arc::default());
        put("small", &keys, Arc::default());
        VERIFIED.with_borrow(|verified| {
            assert!(verified.younger.len() + verified.older.len() <= 2 * TOKENS);
            assert!(verified.bytes <= BYTES);
        });
    }
}
