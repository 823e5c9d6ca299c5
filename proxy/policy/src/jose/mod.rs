//! Signed JSON: tokens in compact form (JWS, RFC 7515), the keys that verify them (JWK, RFC 7517), and JSON without duplicates.
//!
//! Used by [`jwt`](crate::jwt). Everything here reads bytes from outside. The arithmetic is that of `aws-lc-rs`; what is left around it is
//! the choice of the key and of the algorithm, which is where the attacks on tokens are. A key has its algorithms; a token only names one of them.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod properties;
mod key_set;
mod compact;
mod key;
mod algorithm;
mod json;

pub(crate) use compact::{Compact, Malformed};
pub(crate) use key_set::{KeySet, NotVerified, Trust};
