//! What holds for every token and every key set from outside. Property tests and fuzz targets (`fuzz/`) call these functions, which
//! panic if it does not.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::compact::Compact;
use super::key_set::{KeySet, NotVerified, Trust};

const SECRET: &[u8] = b"a secret of thirty-two bytes, ok";

/// No reason for refusing a key set is longer, in bytes: it is logged.
const LONGEST_REASON: usize = 256;

/// A token. Each has one form, and no key verifies it unless it was signed.
pub(crate) fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(read) = Compact::read(text) else { return };
    let (signed, signature) =
        (String::from_utf8_lossy(read.signed()), URL_SAFE_NO_PAD.encode(read.signature()));
    assert_eq!(format!("{signed}.{signature}"), text);
    let _ = read.claims();
    assert_eq!(keys().verify(&read).is_ok(), text == genuine());
}

/// A genuine token of which bytes are replaced: each two bytes are a position and a value.
pub(crate) fn changed_token(edits: &[u8]) {
    let mut changed = genuine().into_bytes();
    for edit in edits.chunks_exact(2) {
        let at = usize::from(edit[0]) % changed.len();
        changed[at] = edit[1];
    }
    token(&changed);
}

/// A key set. One from a URI has no secrets.
pub(crate) fn key_set(bytes: &[u8]) {
    let genuine = genuine();
    for from in [Trust::Configuration, Trust::Uri] {
        match KeySet::read(bytes, from) {
            Err(why) => assert!((1..=LONGEST_REASON).contains(&why.len()), "{why}"),
            Ok(set) => {
                let Ok(token) = Compact::read(&genuine) else { return };
                let verified = set.verify(&token);
                assert!(from == Trust::Configuration || verified == Err(NotVerified::NoKey), "{verified:?}");
            }
        }
    }
}

fn genuine() -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(r#"{"alg":"HS256","kid":"a"}"#), part(r#"{"iss":"b","sub":"c"}"#));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn keys() -> KeySet {
    let secret = URL_SAFE_NO_PAD.encode(SECRET);
    let set = format!(r#"{{"keys":[{{"kty":"oct","kid":"a","alg":"HS256","k":"{secret}"}}]}}"#);
    match KeySet::read(set.as_bytes(), Trust::Configuration) {
        Ok(keys) => keys,
        Err(why) => unreachable!("{why}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_genuine_token_is_verified() {
        let genuine = genuine();
        assert_eq!(keys().verify(&Compact::read(&genuine).unwrap()), Ok(()));
        token(genuine.as_bytes());
    }

    proptest! {
        #[test]
        fn tokens_of_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_=-]{0,40}){1,4}") {
            token(&bytes);
            token(text.as_bytes());
        }

        #[test]
        fn tokens_with_any_header(header in "\\{(\"(alg|kid|cty|crit|typ)\":(\"(HS256|none|RS256|JWT|a)\"|null|1|\\[\\]),?){0,4}\\}") {
            let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
            token(format!("{}.{}.{}", part(&header), part("{}"), part("x")).as_bytes());
        }

        #[test]
        fn changed_tokens(edits in prop::collection::vec(any::<u8>(), 0..8)) {
            changed_token(&edits);
        }

        #[test]
        fn key_sets_of_any_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            field in "(kty|alg|use|k|n|e|crv|x|y|key_ops)",
            value in "(\"(oct|RSA|EC|OKP|HS256|sig|P-256|Ed25519|AQAB|[A-Za-z0-9_-]{0,600})\"|\\[\\]|1|null)",
            secret in "[A-Za-z0-9_-]{0,64}",
        ) {
            key_set(&bytes);
            for base in [format!(r#""kty":"oct","k":"{secret}""#), r#""kty":"RSA""#.into(), r#""kty":"EC""#.into(), r#""a":1"#.into()] {
                key_set(format!(r#"{{"keys":[{{{base},"{field}":{value}}}]}}"#).as_bytes());
                key_set(format!(r#"{{"keys":[{{{base}}}]}}"#).as_bytes());
            }
        }
    }
}
