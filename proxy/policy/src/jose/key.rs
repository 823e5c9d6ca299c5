//! One key of a set (JWK, RFC 7517): the algorithms that it verifies, each ready for use.

use std::fmt;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::algorithm::Algorithm;

/// The fewest bytes of an RSA modulus: 2048 bits (RFC 7518 section 3.3).
const SHORTEST_MODULUS: usize = 256;

/// A key.
pub(super) struct Key {
    /// `kid`.
    pub(super) id: Option<Box<str>>,
    verifiers: Box<[(Algorithm, Verifier)]>,
    /// For the debug output, which shows no key.
    fingerprint: [u8; 8],
}

enum Verifier {
    Public(ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

impl Key {
    /// Reads a key. `secret` permits keys for HMAC. Returns an error, as a clause, for a key that cannot verify signatures.
    pub(super) fn read(jwk: &Map<String, Value>, secret: bool) -> Result<Self, String> {
        let id = text(jwk, "kid")?.map(Into::into);
        // `use` and `key_ops` say what a key is for (RFC 7517 sections 4.2 and 4.3).
        if text(jwk, "use")?.is_some_and(|purpose| purpose != "sig") {
            return Err("is not for signatures (use)".into());
        }
        if let Some(operations) = jwk.get("key_ops") {
            let verifies = operations.as_array().is_some_and(|all| all.iter().any(|one| one == "verify"));
            if !verifies {
                return Err("is not for verification (key_ops)".into());
            }
        }
        let only = match text(jwk, "alg")? {
            None => None,
            Some(name) => {
                Some(Algorithm::named(name).ok_or_else(|| format!("has the unknown algorithm {name:?}"))?)
            }
        };
        let kind = text(jwk, "kty")?.ok_or("has no kty")?;
        let mut verifiers = match kind {
            "RSA" => rsa(jwk, only)?,
            "EC" => vec![elliptic(jwk)?],
            "OKP" => vec![edwards(jwk)?],
            "oct" if secret => hmac(jwk, only)?,
            "oct" => return Err("is a secret, which a set from a URI cannot have".into()),
            other => return Err(format!("has the unknown type {other:?}")),
        };
        verifiers.retain(|(algorithm, _)| only.is_none_or(|only| only == *algorithm));
        if verifiers.is_empty() {
            return Err("is of another type than its algorithm, or too short for it".into());
        }
        let hash = digest::digest(&digest::SHA256, Value::Object(jwk.clone()).to_string().as_bytes());
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(&hash.as_ref()[..8]);
        Ok(Self { id, verifiers: verifiers.into(), fingerprint })
    }

    /// Returns whether the signature is valid, or `None` if the key does not verify `algorithm`.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Option<bool> {
        let (_, verifier) = self.verifiers.iter().find(|(own, _)| *own == algorithm)?;
        Some(match verifier {
            Verifier::Public(key) => key.verify_sig(message, signature).is_ok(),
            Verifier::Secret(key) => hmac::verify(key, message, signature).is_ok(),
        })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithms: Vec<_> = self.verifiers.iter().map(|(algorithm, _)| algorithm).collect();
        let fingerprint = u64::from_be_bytes(self.fingerprint);
        write!(f, "Key({:?}, {algorithms:?}, {fingerprint:016x})", self.id)
    }
}

/// RFC 7518 section 6.3.1.
fn rsa(jwk: &Map<String, Value>, only: Option<Algorithm>) -> Result<Vec<(Algorithm, Verifier)>, String> {
    let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    if n.len() < SHORTEST_MODULUS {
        return Err("is shorter than 2048 bits".into());
    }
    let components = RsaPublicKeyComponents { n, e };
    let algorithms = Algorithm::RSA.into_iter().filter(|one| only.is_none_or(|only| only == *one));
    algorithms
        .filter_map(|algorithm| algorithm.rsa().map(|parameters| (algorithm, parameters)))
        .map(|(algorithm, parameters)| match components.to_parsed_public_key(parameters) {
            Ok(key) => Ok((algorithm, Verifier::Public(key))),
            Err(_) => Err("is not a valid RSA key".into()),
        })
        .collect()
}

/// RFC 7518 section 6.2.1: both coordinates have the full length of the field.
fn elliptic(jwk: &Map<String, Value>) -> Result<(Algorithm, Verifier), String> {
    let (algorithm, verification, length): (_, &'static signature::EcdsaVerificationAlgorithm, _) =
        match text(jwk, "crv")? {
            Some("P-256") => (Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED, 32),
            Some("P-384") => (Algorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED, 48),
            Some("P-521") => (Algorithm::Es512, &signature::ECDSA_P521_SHA512_FIXED, 66),
            other => return Err(format!("has the unknown curve {other:?}")),
        };
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != length || y.len() != length {
        return Err("has a coordinate of the wrong length".into());
    }
    // SEC 1 section 2.3.3, uncompressed.
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    let key = ParsedPublicKey::new(verification, point).map_err(|_| "is not a point of its curve")?;
    Ok((algorithm, Verifier::Public(key)))
}

/// RFC 8037 section 2.
fn edwards(jwk: &Map<String, Value>) -> Result<(Algorithm, Verifier), String> {
    match text(jwk, "crv")? {
        Some("Ed25519") => {}
        other => return Err(format!("has the unknown curve {other:?}")),
    }
    let x = bytes(jwk, "x")?;
    if x.len() != 32 {
        return Err("has a coordinate of the wrong length".into());
    }
    let key = ParsedPublicKey::new(&signature::ED25519, x).map_err(|_| "is not a valid key of its curve")?;
    Ok((Algorithm::EdDsa, Verifier::Public(key)))
}

/// RFC 7518 sections 3.2 and 6.4.1: a secret is at least as long as the hash.
fn hmac(jwk: &Map<String, Value>, only: Option<Algorithm>) -> Result<Vec<(Algorithm, Verifier)>, String> {
    let secret = bytes(jwk, "k")?;
    let fits = |of: hmac::Algorithm| secret.len() >= of.digest_algorithm().output_len();
    let algorithms = Algorithm::HMAC.into_iter().filter(|one| only.is_none_or(|only| only == *one));
    Ok(algorithms
        .filter_map(|algorithm| algorithm.hmac().filter(|of| fits(*of)).map(|of| (algorithm, of)))
        .map(|(algorithm, of)| (algorithm, Verifier::Secret(Box::new(hmac::Key::new(of, &secret)))))
        .collect())
}

/// Returns the value of a member that must be text.
fn text<'a>(jwk: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, String> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("has a {name} that is not text")),
    }
}

/// Returns the bytes of a member that must be base64url text.
fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let text = text(jwk, name)?.ok_or_else(|| format!("has no {name}"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("has a {name} that is not base64url"))
}
