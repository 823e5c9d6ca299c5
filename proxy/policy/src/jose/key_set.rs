//! A set of keys (JWKS, RFC 7517 section 5), and the choice of the key for a token.
//!
//! A key is chosen by `kid`, then by algorithm. A token without `kid`, or a key without one, leaves the choice to the algorithm.

use serde_json::Value;

use super::compact::Compact;
use super::json;
use super::key::Key;

/// The most keys that are tried for one token, so that a token without `kid` costs no more than this.
const MOST_TRIED: usize = 8;

/// The most keys of a set.
const MOST_KEYS: usize = 256;

/// The longest reason for refusing a set, in bytes: it may quote the set, and is logged.
const LONGEST_REASON: usize = 256;

/// Keys.
#[derive(Debug)]
pub(crate) struct KeySet(Box<[Key]>);

/// Where a set comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The configuration. It may contain secrets for HMAC.
    Configuration,
    /// A URI. A secret that anybody can fetch is none.
    Uri,
}

/// Why no key of a set verifies a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotVerified {
    /// The set has no key with its `kid` for its algorithm. A newer set may have it.
    NoKey,
    /// The signature is invalid.
    Signature,
}

impl KeySet {
    /// Reads a set. Keys that cannot verify signatures are skipped, as RFC 7517 section 5 asks.
    ///
    /// Returns an error, as a clause, for what is not a set, and for a set of which every key is skipped.
    pub(crate) fn read(text: &[u8], from: Trust) -> Result<Self, String> {
        Self::decode(text, from).map_err(|mut why| {
            why.truncate(why.floor_char_boundary(LONGEST_REASON));
            why
        })
    }

    fn decode(text: &[u8], from: Trust) -> Result<Self, String> {
        let set = json::object(text).map_err(|bad| format!("is not a JSON Web Key Set: {bad}"))?;
        let keys = match set.get("keys") {
            Some(Value::Array(keys)) if keys.is_empty() => return Err("has no keys".into()),
            Some(Value::Array(keys)) if keys.len() > MOST_KEYS => {
                return Err(format!("has more than {MOST_KEYS} keys"));
            }
            Some(Value::Array(keys)) => keys,
            _ => return Err("is not a JSON Web Key Set: it has no list \"keys\"".into()),
        };
        let (mut usable, mut skipped) = (Vec::new(), None);
        for (at, jwk) in keys.iter().enumerate() {
            let jwk =
                jwk.as_object().ok_or_else(|| format!("has a key that is not an object, keys[{at}]"))?;
            match Key::read(jwk, from == Trust::Configuration) {
                Ok(key) => usable.push(key),
                Err(why) => skipped = skipped.or(Some((at, why))),
            }
        }
        match skipped {
            Some((at, why)) if usable.is_empty() => Err(format!("has no usable key: keys[{at}] {why}")),
            _ => Ok(Self(usable.into())),
        }
    }

    /// Verifies the signature of a token.
    pub(crate) fn verify(&self, token: &Compact<'_>) -> Result<(), NotVerified> {
        let named = |key: &&Key| match (&key.id, token.key_id()) {
            (Some(id), Some(asked)) => **id == *asked,
            _ => true,
        };
        let tried = self
            .0
            .iter()
            .filter(named)
            .filter_map(|key| key.verifies(token.algorithm(), token.signed(), token.signature()))
            .take(MOST_TRIED);
        let mut outcome = Err(NotVerified::NoKey);
        for valid in tried {
            if valid {
                return Ok(());
            }
            outcome = Err(NotVerified::Signature);
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
