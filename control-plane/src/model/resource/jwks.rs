//! The keys of an issuer that a policy holds itself: a JSON Web Key Set (RFC 7517).
//!
//! It is checked as the data plane checks it, which would refuse a whole listener because of a set without a usable key. Errors show no key.

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outrigger_core::Name;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::value::Text;

/// The most keys of a set.
const MOST_KEYS: usize = 256;

/// The fewest bytes of an RSA modulus: 2048 bits (RFC 7518 section 3.3).
const SHORTEST_MODULUS: usize = 256;

/// The algorithms by type of key: RSA, then HMAC with the length of its hash in bytes.
const RSA: [&str; 6] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
const HMAC: [(&str, usize); 3] = [("HS256", 32), ("HS384", 48), ("HS512", 64)];

/// A set with a usable key, as JSON in which no name occurs twice.
#[derive(Deserialize, JsonSchema)]
#[serde(try_from = "Text<65536>")]
#[schemars(with = "Text<65536>")]
pub(super) struct InlineKeys {
    /// The set as JSON.
    pub(super) text: Name,
    /// The keys that verify signatures, with the algorithms that each is for.
    usable: Vec<(Map<String, Value>, Vec<&'static str>)>,
}

impl TryFrom<Text<65536>> for InlineKeys {
    type Error = String;

    fn try_from(Text(text): Text<65536>) -> Result<Self, String> {
        let set: Value = serde_json::from_str(&text)
            .map_err(|bad| format!("is not a JSON Web Key Set: it is not JSON, line {}", bad.line()))?;
        let keys = match set.get("keys") {
            Some(Value::Array(keys)) => keys,
            _ => return Err("is not a JSON Web Key Set: it has no list \"keys\"".into()),
        };
        if keys.is_empty() || keys.len() > MOST_KEYS {
            return Err(format!("has {} keys, not 1 to {MOST_KEYS}", keys.len()));
        }
        let (mut usable, mut unusable) = (Vec::new(), None);
        for (at, jwk) in keys.iter().enumerate() {
            let jwk =
                jwk.as_object().ok_or_else(|| format!("has a key that is not an object, keys[{at}]"))?;
            match algorithms(jwk) {
                Ok(algorithms) => usable.push((jwk.clone(), algorithms)),
                Err(why) => unusable = unusable.or(Some((at, why))),
            }
        }
        match unusable {
            // Keys that cannot verify signatures are skipped, as RFC 7517 section 5 asks.
            Some((at, why)) if usable.is_empty() => Err(format!("has no usable key: keys[{at}] {why}")),
            _ => Ok(Self { text: set.to_string().into(), usable }),
        }
    }
}

impl InlineKeys {
    /// Returns the set in which each key is for one of `allowed` algorithms (`alg`, RFC 7517 section 4.4): one for several of them is there once
    /// for each. Returns an error, as a clause, if no key is left.
    pub(super) fn only_for(&self, allowed: &[&str]) -> Result<Name, String> {
        let with = |jwk: &Map<String, Value>, algorithm: &str| {
            let mut jwk = jwk.clone();
            jwk.insert("alg".into(), algorithm.into());
            Value::Object(jwk)
        };
        let of_key = |(jwk, own): &(Map<String, Value>, Vec<&'static str>)| {
            let left = own.iter().filter(|name| allowed.contains(*name));
            left.map(|name| with(jwk, name)).collect::<Vec<_>>()
        };
        let keys: Vec<_> = self.usable.iter().flat_map(of_key).collect();
        match keys.len() {
            0 => Err("has no algorithm of the keys".into()),
            1..=MOST_KEYS => Ok(json!({"keys": keys}).to_string().into()),
            _ => Err(format!("makes more than {MOST_KEYS} keys, one for each key and algorithm")),
        }
    }
}

/// Returns the algorithms that a key is for, or why it cannot verify signatures, as a clause.
fn algorithms(jwk: &Map<String, Value>) -> Result<Vec<&'static str>, String> {
    text(jwk, "kid")?;
    if text(jwk, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err("is not for signatures (use)".into());
    }
    if let Some(operations) = jwk.get("key_ops") {
        let verifies = operations.as_array().is_some_and(|all| all.iter().any(|one| one == "verify"));
        if !verifies {
            return Err("is not for verification (key_ops)".into());
        }
    }
    let mut algorithms: Vec<&str> = match text(jwk, "kty")?.ok_or("has no kty")? {
        "RSA" => rsa(jwk)?,
        "EC" => vec![elliptic(jwk)?],
        "OKP" => vec![edwards(jwk)?],
        "oct" => {
            let secret = bytes(jwk, "k")?.len();
            HMAC.into_iter().filter(|(_, length)| secret >= *length).map(|(name, _)| name).collect()
        }
        other => return Err(format!("has the unknown type {other:?}")),
    };
    if let Some(only) = text(jwk, "alg")? {
        algorithms.retain(|one| *one == only);
    }
    match algorithms.is_empty() {
        true => Err("is of another type than its algorithm, or too short for it".into()),
        false => Ok(algorithms),
    }
}

/// RFC 7518 section 6.3.1.
fn rsa(jwk: &Map<String, Value>) -> Result<Vec<&'static str>, String> {
    let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    if n.len() < SHORTEST_MODULUS {
        return Err("is shorter than 2048 bits".into());
    }
    match (RsaPublicKeyComponents { n, e }).to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256) {
        Ok(_) => Ok(RSA.to_vec()),
        Err(_) => Err("is not a valid RSA key".into()),
    }
}

/// RFC 7518 section 6.2.1: both coordinates have the full length of the field.
fn elliptic(jwk: &Map<String, Value>) -> Result<&'static str, String> {
    let (algorithm, verification, length): (_, &'static signature::EcdsaVerificationAlgorithm, _) =
        match text(jwk, "crv")? {
            Some("P-256") => ("ES256", &signature::ECDSA_P256_SHA256_FIXED, 32),
            Some("P-384") => ("ES384", &signature::ECDSA_P384_SHA384_FIXED, 48),
            Some("P-521") => ("ES512", &signature::ECDSA_P521_SHA512_FIXED, 66),
            _ => return Err("has an unknown curve".into()),
        };
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != length || y.len() != length {
        return Err("has a coordinate of the wrong length".into());
    }
    // SEC 1 section 2.3.3, uncompressed.
    let point = [&[4], x.as_slice(), y.as_slice()].concat();
    ParsedPublicKey::new(verification, point).map_err(|_| "is not a point of its curve")?;
    Ok(algorithm)
}

/// RFC 8037 section 2.
fn edwards(jwk: &Map<String, Value>) -> Result<&'static str, String> {
    if text(jwk, "crv")? != Some("Ed25519") {
        return Err("has an unknown curve".into());
    }
    let x = bytes(jwk, "x")?;
    if x.len() != 32 {
        return Err("has a coordinate of the wrong length".into());
    }
    ParsedPublicKey::new(&signature::ED25519, x).map_err(|_| "is not a valid key of its curve")?;
    Ok("EdDSA")
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7515 appendix A.3, and the one of RFC 8037 appendix A.2.
    const P256: &str = r#"{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    const ED25519: &str =
        r#"{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn read(keys: &str) -> Result<Name, String> {
        InlineKeys::try_from(Text(format!("{{\"keys\": [{keys}]}}").into())).map(|keys| keys.text)
    }

    #[test]
    fn a_set_needs_one_key_that_verifies_signatures() {
        let secret = |bytes: usize, more: &str| {
            let k = URL_SAFE_NO_PAD.encode(vec![7; bytes]);
            format!("{{\"kty\": \"oct\", \"k\": \"{k}\"{more}}}")
        };
        let unknown = r#"{"kty": "LATTICE"}"#;
        for keys in [
            P256,
            ED25519,
            &secret(32, ""),
            &secret(64, ", \"alg\": \"HS512\""),
            &format!("{unknown}, {P256}"),
        ] {
            assert!(read(keys).is_ok(), "{keys}: {:?}", read(keys));
        }
        for (keys, why) in [
            ("", "has 0 keys"),
            ("7", "keys[0]"),
            (unknown, "keys[0] has the unknown type \"LATTICE\""),
            (&secret(31, ""), "too short"),
            (&secret(32, ", \"alg\": \"HS512\""), "too short"),
            (&secret(32, ", \"alg\": \"none\""), "another type"),
            (&secret(32, ", \"use\": \"enc\""), "not for signatures"),
            (&secret(32, ", \"key_ops\": [\"sign\"]"), "not for verification"),
            (&P256.replace("f83", "f84"), "not a point"),
            (&P256.replace("f83OJ3", "f83"), "wrong length"),
            (&P256.replace("P-256", "P-257"), "unknown curve"),
            (&ED25519.replace("Ed25519", "X25519"), "unknown curve"),
            (r#"{"kty": "RSA", "n": "AQAB", "e": "AQAB"}"#, "shorter than 2048 bits"),
        ] {
            let error = read(keys).unwrap_err();
            assert!(error.contains(why), "{keys}: {error}");
        }
    }

    #[test]
    fn what_is_no_set_is_refused_without_being_shown() {
        for (text, why) in [
            ("<html>secret</html>", "not JSON, line 1"),
            ("[]", "no list"),
            ("{\"keys\": {\"secret\": 1}}", "no list"),
        ] {
            let error = InlineKeys::try_from(Text(text.into())).err().unwrap();
            assert!(error.contains(why) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_set_is_narrowed_to_algorithms() {
        let secret = URL_SAFE_NO_PAD.encode([7; 64]);
        let keys = format!(
            "{{\"keys\": [{P256}, {ED25519}, {{\"kty\": \"oct\", \"k\": \"{secret}\"}}, {{\"kty\": \"LATTICE\"}}]}}"
        );
        let keys = InlineKeys::try_from(Text(keys.into())).unwrap();
        let only_for = |allowed: &[&str]| -> Result<Vec<String>, String> {
            let set: Value = serde_json::from_str(&keys.only_for(allowed)?).unwrap();
            let keys = set["keys"].as_array().unwrap().iter();
            Ok(keys.map(|key| format!("{} {}", key["kty"], key["alg"]).replace('"', "")).collect())
        };
        assert_eq!(only_for(&["ES256", "RS256"]).unwrap(), ["EC ES256"]);
        assert_eq!(only_for(&["EdDSA", "HS512", "HS256"]).unwrap(), ["OKP EdDSA", "oct HS256", "oct HS512"]);
        assert_eq!(only_for(&["RS256", "ES384"]).unwrap_err(), "has no algorithm of the keys");
    }

    #[test]
    fn of_a_name_that_occurs_twice_one_is_left() {
        let twice = ED25519.replace("\"kty\"", "\"kid\": \"a\", \"kid\": \"b\", \"kty\"");
        let set = read(&twice).unwrap();
        assert_eq!(set.matches("\"kid\"").count(), 1, "{set}");
    }
}
