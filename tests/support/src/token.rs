//! Signed tokens (JWS, compact form) and the JSON Web Keys that verify them.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A key that signs tokens with one algorithm.
pub struct TokenSigner {
    algorithm: &'static str,
    id: &'static str,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair, &'static dyn signature::RsaEncoding),
    Ecdsa(EcdsaKeyPair, &'static str, usize),
    Edwards(Ed25519KeyPair),
    Secret(Vec<u8>, hmac::Algorithm),
}

impl TokenSigner {
    /// A new key with the `kid` `id` for an algorithm of RFC 7518 or RFC 8037.
    pub fn new(algorithm: &'static str, id: &'static str) -> Self {
        let rsa = |encoding| Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap(), encoding);
        let ecdsa = |of: &'static signature::EcdsaSigningAlgorithm, curve, length| {
            Key::Ecdsa(EcdsaKeyPair::generate(of).unwrap(), curve, length)
        };
        let secret = |of: hmac::Algorithm| {
            let mut secret = vec![0; of.digest_algorithm().output_len()];
            aws_lc_rs::rand::fill(&mut secret).unwrap();
            Key::Secret(secret, of)
        };
        let key = match algorithm {
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "RS384" => rsa(&signature::RSA_PKCS1_SHA384),
            "RS512" => rsa(&signature::RSA_PKCS1_SHA512),
            "PS256" => rsa(&signature::RSA_PSS_SHA256),
            "PS384" => rsa(&signature::RSA_PSS_SHA384),
            "PS512" => rsa(&signature::RSA_PSS_SHA512),
            "ES256" => ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256", 32),
            "ES384" => ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384", 48),
            "ES512" => ecdsa(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521", 66),
            "EdDSA" => Key::Edwards(Ed25519KeyPair::generate().unwrap()),
            "HS256" => secret(hmac::HMAC_SHA256),
            "HS384" => secret(hmac::HMAC_SHA384),
            "HS512" => secret(hmac::HMAC_SHA512),
            other => panic!("no algorithm {other}"),
        };
        Self { algorithm, id, key }
    }

    /// The key that verifies, as a JSON Web Key with `kid` and without `alg`.
    pub fn jwk(&self) -> String {
        format!(r#"{{"kid":"{}",{}}}"#, self.id, self.members())
    }

    /// The members of the JSON Web Key that hold the key.
    pub fn members(&self) -> String {
        match &self.key {
            Key::Rsa(pair, _) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                format!(r#""kty":"RSA","n":"{}","e":"{}""#, encoded(&public.n), encoded(&public.e))
            }
            Key::Ecdsa(pair, curve, length) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(*length);
                format!(r#""kty":"EC","crv":"{curve}","x":"{}","y":"{}""#, encoded(x), encoded(y))
            }
            Key::Edwards(pair) => {
                format!(r#""kty":"OKP","crv":"Ed25519","x":"{}""#, encoded(pair.public_key().as_ref()))
            }
            Key::Secret(secret, _) => format!(r#""kty":"oct","k":"{}""#, encoded(secret)),
        }
    }

    /// A token with these claims, whose header has `alg` and `kid`.
    pub fn token(&self, claims: &str) -> String {
        self.sign(&format!(r#"{{"alg":"{}","kid":"{}"}}"#, self.algorithm, self.id), claims)
    }

    /// A token with this header and payload, whatever they say, and a valid signature.
    pub fn sign(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", encoded(header.as_bytes()), encoded(payload.as_bytes()));
        let (random, message) = (SystemRandom::new(), signed.as_bytes());
        let signature = match &self.key {
            Key::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Key::Ecdsa(pair, ..) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Edwards(pair) => pair.sign(message).as_ref().to_vec(),
            Key::Secret(secret, of) => hmac::sign(&hmac::Key::new(*of, secret), message).as_ref().to_vec(),
        };
        format!("{signed}.{}", encoded(&signature))
    }
}

/// A JSON Web Key Set.
pub fn key_set<'a>(keys: impl IntoIterator<Item = &'a TokenSigner>) -> String {
    let keys: Vec<_> = keys.into_iter().map(TokenSigner::jwk).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

/// Base64url without padding.
pub fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
