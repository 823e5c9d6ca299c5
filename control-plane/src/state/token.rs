//! Join tokens. Each proves one identity once, for getting the first certificate.
//!
//! A token has 256 random bits; only its SHA-256 is stored, which is enough for a secret that cannot be guessed. It is
//! bound to the first public key that used it. That key may use it again until it expires, so that a proxy that was
//! killed before it wrote its certificate can retry. A token starts with the name of the control plane that created it,
//! so that a token of another mesh is reported as such.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::table::{META, TOKENS, decode, encode};
use super::{StateError, Store};

const PREFIX: &str = "outrigger-join";
/// How long an expired token is kept, so that its use is reported as expired.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// The identity that a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    hash: [u8; 32],
}

/// Why a token is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TokenRefusal {
    /// The text is not a token.
    #[error("this is not a join token")]
    Malformed,
    /// Another control plane created it.
    #[error("the join token was made by another control plane ({0})")]
    Foreign(String),
    /// It was never created, or it expired more than a day ago.
    #[error("the join token is unknown; it was never created here, or it expired more than a day ago")]
    Unknown,
    /// It has expired.
    #[error("the join token expired {0} s ago")]
    Expired(u64),
    /// It was already used with another key.
    #[error("the join token was already used with another key; each workload needs its own token")]
    UsedByAnotherKey,
}

/// Why a token cannot be used.
#[derive(Debug, Error)]
pub enum RedeemError {
    /// The token is not valid.
    #[error(transparent)]
    Refused(#[from] TokenRefusal),
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
}

impl Store {
    /// Creates a token for an identity that is valid for `ttl`. Its text is only returned, not stored.
    pub fn create_token(
        &self,
        namespace: &str,
        service_account: &str,
        ttl: Duration,
        now: SystemTime,
        secret: [u8; 32],
    ) -> Result<String, StateError> {
        let now = unix(now);
        let record = TokenRecord {
            namespace: namespace.into(),
            service_account: service_account.into(),
            expires: now.saturating_add(ttl.as_secs()),
            key: None,
        };
        self.write(|transaction| {
            let maker = control_plane_name(transaction, &secret)?;
            let text = format!("{PREFIX}.{maker}.{}", URL_SAFE_NO_PAD.encode(secret));
            let mut tokens = transaction.open_table(TOKENS)?;
            tokens.retain(|_, record| {
                let expires = decode::<TokenRecord>("a token", record).map_or(0, |record| record.expires);
                expires.saturating_add(REMEMBERED.as_secs()) > now
            })?;
            tokens.insert(&hash(&text), encode(&record)?.as_slice())?;
            Ok(text)
        })
    }

    /// Returns what a token proves, without using it.
    pub fn identify_token(&self, text: &str, now: SystemTime) -> Result<Grant, RedeemError> {
        let maker = parse(text)?;
        let found = self.read(|transaction| {
            let meta = transaction.open_table(META)?;
            let name = meta.get(NAME)?.map(|name| name.value().to_vec());
            let tokens = transaction.open_table(TOKENS)?;
            let record = tokens.get(&hash(text))?.map(|text| decode("a token", text.value())).transpose()?;
            Ok((name, record))
        })?;
        match found {
            (Some(name), _) if name != maker.as_bytes() => Err(TokenRefusal::Foreign(maker.into()).into()),
            (_, record) => {
                let record = valid(record, now)?;
                Ok(Grant {
                    namespace: record.namespace,
                    service_account: record.service_account,
                    hash: hash(text),
                })
            }
        }
    }

    /// Uses a token with a public key (the SHA-256 of its SubjectPublicKeyInfo). From then on it is bound to this key.
    pub fn redeem_token(&self, grant: &Grant, key: &[u8; 32], now: SystemTime) -> Result<(), RedeemError> {
        let outcome = self.write(|transaction| {
            let mut tokens = transaction.open_table(TOKENS)?;
            let found = tokens
                .get(&grant.hash)?
                .map(|text| decode::<TokenRecord>("a token", text.value()))
                .transpose()?;
            let mut record = match valid(found, now) {
                Ok(record) => record,
                Err(refusal) => return Ok(Err(refusal)),
            };
            match record.key {
                Some(owner) if owner == *key => Ok(Ok(())),
                Some(_) => Ok(Err(TokenRefusal::UsedByAnotherKey)),
                None => {
                    record.key = Some(*key);
                    tokens.insert(&grant.hash, encode(&record)?.as_slice())?;
                    Ok(Ok(()))
                }
            }
        })?;
        outcome.map_err(RedeemError::from)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct TokenRecord {
    namespace: String,
    service_account: String,
    /// Seconds since the Unix epoch.
    expires: u64,
    /// SHA-256 of the SubjectPublicKeyInfo that used it.
    key: Option<[u8; 32]>,
}

const NAME: &str = "control-plane";

/// The name of this control plane: eight characters, derived from its first token.
fn control_plane_name(transaction: &WriteTransaction, seed: &[u8; 32]) -> Result<String, StateError> {
    let mut meta = transaction.open_table(META)?;
    if let Some(name) = meta.get(NAME)? {
        let name = std::str::from_utf8(name.value());
        return name.map(Into::into).map_err(|error| StateError::Damaged(error.to_string()));
    }
    // Derived from the hash, so that it reveals nothing of the token's secret.
    let name: String = hash(&URL_SAFE_NO_PAD.encode(seed))[..4].iter().map(|b| format!("{b:02x}")).collect();
    meta.insert(NAME, name.as_bytes())?;
    Ok(name)
}

/// Returns the name of the control plane in a token.
fn parse(text: &str) -> Result<&str, TokenRefusal> {
    let mut parts = text.split('.');
    let (Some(PREFIX), Some(maker), Some(secret), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenRefusal::Malformed);
    };
    let named = maker.len() == 8 && maker.bytes().all(|b| b.is_ascii_hexdigit());
    let whole = URL_SAFE_NO_PAD.decode(secret).is_ok_and(|secret| secret.len() == 32);
    if named && whole { Ok(maker) } else { Err(TokenRefusal::Malformed) }
}

fn valid(record: Option<TokenRecord>, now: SystemTime) -> Result<TokenRecord, TokenRefusal> {
    let record = record.ok_or(TokenRefusal::Unknown)?;
    match unix(now).checked_sub(record.expires) {
        Some(ago) => Err(TokenRefusal::Expired(ago)),
        None => Ok(record),
    }
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(600);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn redeem(store: &Store, text: &str, key: u8, now: SystemTime) -> Result<Grant, TokenRefusal> {
        let run = || {
            let grant = store.identify_token(text, now)?;
            store.redeem_token(&grant, &[key; 32], now)?;
            Ok(grant)
        };
        run().map_err(|error| match error {
            RedeemError::Refused(refusal) => refusal,
            RedeemError::State(error) => panic!("{error}"),
        })
    }

    #[test]
    fn a_token_is_used_by_one_key_and_by_it_again_even_after_a_crash() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let token = store.create_token("shop", "cart", TTL, now(), [7; 32]).unwrap();
        let grant = redeem(&store, &token, 1, now()).unwrap();
        assert_eq!((grant.namespace.as_str(), grant.service_account.as_str()), ("shop", "cart"));
        drop(store);
        let store = Store::open(directory.path()).unwrap();
        assert!(redeem(&store, &token, 1, now()).is_ok());
        assert_eq!(redeem(&store, &token, 2, now()), Err(TokenRefusal::UsedByAnotherKey));
    }

    #[test]
    fn what_proves_nothing_is_refused_with_its_reason() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let token = store.create_token("shop", "cart", TTL, now(), [7; 32]).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let other = Store::open(elsewhere.path()).unwrap();
        let foreign = other.create_token("shop", "cart", TTL, now(), [8; 32]).unwrap();
        let maker = token.split('.').nth(1).unwrap();
        let invented = format!("{PREFIX}.{maker}.{}", URL_SAFE_NO_PAD.encode([9; 32]));
        let foreigner = foreign.split('.').nth(1).unwrap().to_owned();
        for (text, at, refusal) in [
            (token.clone(), TTL, TokenRefusal::Expired(0)),
            (token.clone(), TTL * 2, TokenRefusal::Expired(600)),
            (foreign, Duration::ZERO, TokenRefusal::Foreign(foreigner)),
            (invented, Duration::ZERO, TokenRefusal::Unknown),
            (token.to_uppercase(), Duration::ZERO, TokenRefusal::Malformed),
            (token[..token.len() - 1].into(), Duration::ZERO, TokenRefusal::Malformed),
            (String::new(), Duration::ZERO, TokenRefusal::Malformed),
        ] {
            assert_eq!(redeem(&store, &text, 1, now() + at), Err(refusal), "{text}");
        }
    }

    #[test]
    fn the_store_does_not_hold_the_token_itself() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let token = store.create_token("shop", "cart", TTL, now(), [7; 32]).unwrap();
        drop(store);
        let secret = token.rsplit('.').next().unwrap();
        let bytes = std::fs::read(directory.path().join("state.redb")).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }

    #[test]
    fn tokens_long_expired_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let old = store.create_token("shop", "cart", TTL, now(), [7; 32]).unwrap();
        let later = now() + TTL + REMEMBERED;
        store.create_token("shop", "cart", TTL, later, [8; 32]).unwrap();
        assert_eq!(redeem(&store, &old, 1, later), Err(TokenRefusal::Unknown));
    }
}
