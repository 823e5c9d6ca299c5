//! The CA's key and chain in the store.

use outrigger_core::identity::TrustDomain;
use serde::{Deserialize, Serialize};

use super::table::{META, decode, encode};
use super::{StateError, Store};

const KEY: &str = "authority";

/// A CA in PEM format.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRecord {
    /// The trust domain that it certifies.
    pub trust_domain: String,
    /// Its private key, PKCS #8.
    pub key: String,
    /// Its certificate first, the root last.
    pub chain: String,
}

/// Omits the key.
impl std::fmt::Debug for AuthorityRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorityRecord").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl Store {
    /// Returns the CA of this store. The first call creates it with `make` and writes it before returning, so that no
    /// certificate is signed by a root that a crash would lose.
    ///
    /// Returns an error if the stored CA has another trust domain.
    pub fn authority(
        &self,
        trust_domain: &TrustDomain,
        make: impl FnOnce() -> Result<AuthorityRecord, StateError>,
    ) -> Result<AuthorityRecord, StateError> {
        let decode = |text: &[u8]| decode::<AuthorityRecord>("the CA", text);
        let stored = self.read(|transaction| {
            let meta = transaction.open_table(META)?;
            meta.get(KEY)?.map(|text| decode(text.value())).transpose()
        })?;
        if let Some(found) = stored {
            let wanted = trust_domain.as_str();
            return match found.trust_domain == wanted {
                true => Ok(found),
                false => {
                    Err(StateError::OtherTrustDomain { found: found.trust_domain, wanted: wanted.into() })
                }
            };
        }
        // No other process has the store open.
        self.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            let made = make()?;
            meta.insert(KEY, encode(&made)?.as_slice())?;
            Ok(made)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str) -> AuthorityRecord {
        AuthorityRecord { trust_domain: "cluster.local".into(), key: key.into(), chain: "chain".into() }
    }

    #[test]
    fn the_first_authority_stays_across_a_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let open = || Store::open(directory.path()).unwrap();
        let first = open().authority(&domain, || Ok(record("first"))).unwrap();
        let second = open().authority(&domain, || Ok(record("second"))).unwrap();
        assert_eq!((first, second), (record("first"), record("first")));
    }

    #[test]
    fn an_authority_of_another_trust_domain_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        store.authority(&TrustDomain::parse("cluster.local").unwrap(), || Ok(record("key"))).unwrap();
        let other = store.authority(&TrustDomain::parse("other.org").unwrap(), || Ok(record("key")));
        assert!(other.unwrap_err().to_string().contains("cluster.local, not other.org"));
    }

    #[test]
    fn the_key_is_not_printed() {
        assert!(!format!("{:?}", record("secret")).contains("secret"));
    }
}
