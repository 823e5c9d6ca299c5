//! What the fuzz targets (`fuzz/`) call: each panics if a property that must hold for all bytes does not.

use crate::{credential, ext_authz, jose};

/// A signed token (JWT).
pub fn token(bytes: &[u8]) {
    jose::properties::token(bytes);
}

/// A genuine token of which bytes are replaced: each two bytes are a position and a value.
pub fn changed_token(bytes: &[u8]) {
    jose::properties::changed_token(bytes);
}

/// A key set (JWKS).
pub fn key_set(bytes: &[u8]) {
    jose::properties::key_set(bytes);
}

/// The path and the cookies of a request, a line each.
pub fn credentials(bytes: &[u8]) {
    credential::properties::credentials(bytes);
}

/// The answer of an authorization service (`envoy.service.auth.v3.CheckResponse`).
pub fn authorization_answer(bytes: &[u8]) {
    ext_authz::properties::answer(bytes);
}
