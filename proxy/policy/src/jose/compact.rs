//! A signed token in compact form: `header.payload.signature`, each in base64url without padding (RFC 7515 section 7.1).
//!
//! Nothing is verified here. Encrypted tokens have five parts and are refused, and so are unsecured ones (`none`), tokens in tokens,
//! and tokens with extensions that must be understood.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::json;

/// The longest token, in bytes.
const LONGEST: usize = 16 * 1024;

/// A token whose parts are decoded.
#[derive(Debug)]
pub(crate) struct Compact<'a> {
    header: Map<String, Value>,
    algorithm: Algorithm,
    /// Header and payload, as they were signed.
    signed: &'a str,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// Why a token cannot be verified by any key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// It is longer than the limit.
    TooLong,
    /// It does not have the form.
    Form,
    /// Its algorithm is unknown, or is `none`.
    Algorithm,
    /// It has extensions that must be understood (`crit`, RFC 7515 section 4.1.11). None is.
    Critical,
    /// Its payload is a token (RFC 7519 section 5.2).
    Nested,
}

impl<'a> Compact<'a> {
    /// Decodes a token.
    pub(crate) fn read(token: &'a str) -> Result<Self, Malformed> {
        if token.len() > LONGEST {
            return Err(Malformed::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Malformed::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(Malformed::Form)?;
        if payload.contains('.') {
            return Err(Malformed::Form);
        }
        let header = json::object(&decode(header)?).map_err(|_| Malformed::Form)?;
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Malformed::Form)?;
        let algorithm = Algorithm::named(algorithm).ok_or(Malformed::Algorithm)?;
        if header.contains_key("crit") {
            return Err(Malformed::Critical);
        }
        if header.get("kid").is_some_and(|id| !id.is_string()) {
            return Err(Malformed::Form);
        }
        let content = header.get("cty").and_then(Value::as_str);
        if content.is_some_and(|of| of.eq_ignore_ascii_case("JWT")) {
            return Err(Malformed::Nested);
        }
        let payload = decode(payload)?;
        Ok(Self { header, algorithm, signed, payload, signature: decode(signature)? })
    }

    /// Returns `kid`.
    pub(super) fn key_id(&self) -> Option<&str> {
        self.header.get("kid").and_then(Value::as_str)
    }

    /// Returns the algorithm that its header names (`alg`).
    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn signed(&self) -> &[u8] {
        self.signed.as_bytes()
    }

    pub(super) fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// Reads the payload as an object: the claims (RFC 7519 section 7.2).
    pub(crate) fn claims(&self) -> Result<Map<String, Value>, Malformed> {
        json::object(&self.payload).map_err(|_| Malformed::Form)
    }

    /// Returns the header and the payload.
    pub(crate) fn into_parts(self) -> (Map<String, Value>, Vec<u8>) {
        (self.header, self.payload)
    }
}

/// Decodes base64url. Padding, other characters and bits that are not used are refused: each part has one form.
fn decode(text: &str) -> Result<Vec<u8>, Malformed> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Malformed::Form)
}
