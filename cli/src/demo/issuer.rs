//! An issuer of tokens, with a key of its own: signed JSON Web Tokens (RFC 7519) with ES256 (RFC 7518 section 3.4).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// The `iss` of its tokens.
pub(super) const NAME: &str = "https://login.shop.example";

/// The issuer.
pub(super) struct Issuer(EcdsaKeyPair);

impl Issuer {
    /// Makes a key.
    pub(super) fn new() -> Result<Self, String> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        key.map(Self).map_err(|error| format!("cannot make a key for tokens: {error}"))
    }

    /// Returns its public key as a JSON Web Key Set (RFC 7517).
    pub(super) fn key_set(&self) -> Value {
        // An uncompressed point (SEC 1 section 2.3.3): 4, then both coordinates.
        let point = self.0.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at(point.len() / 2);
        let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "demo", "x": x, "y": y }] })
    }

    /// Returns a token for `shopper`, issued an hour ago, that expires at `expiry`.
    pub(super) fn token(&self, expiry: SystemTime) -> Result<String, String> {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let issued = SystemTime::now() - Duration::from_secs(3600);
        let claims = json!({ "iss": NAME, "sub": "shopper", "iat": seconds(issued), "exp": seconds(expiry) });
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(json!({ "alg": "ES256", "kid": "demo" })), part(claims));
        let signature = self
            .0
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|error| format!("cannot sign a token: {error}"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
