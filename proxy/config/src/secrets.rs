//! The workload's certificate and the roots that it trusts: the secrets `default` and `ROOTCA`.
//!
//! Discovery obtains and renews them. TLS code reads [`Secrets`] as one value, so that a certificate is never combined with
//! the roots of another bundle.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use foldhash::HashMap;
use outrigger_core::identity::{SpiffeId, TrustDomain};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

/// The certificate and roots at one moment.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// The workload's identity.
    pub identity: Arc<WorkloadIdentity>,
    /// The roots that peers are verified against.
    pub roots: Arc<Roots>,
}

/// The workload's identity and the key that proves it.
#[derive(Debug)]
pub struct WorkloadIdentity {
    /// The identity in the certificate.
    pub id: SpiffeId,
    /// The chain (leaf first, without the root) and the private key.
    pub key: Arc<CertifiedKey>,
    /// The start of the certificate's validity.
    pub not_before: SystemTime,
    /// The end of the certificate's validity.
    pub not_after: SystemTime,
    /// Serial number, as lower-case hexadecimal digits.
    pub serial: Box<str>,
}

/// Trust roots by trust domain.
#[derive(Debug, Default)]
pub struct Roots {
    /// Changes with every change of a root. Sessions must not be resumed across a change.
    pub generation: u64,
    /// The roots of each domain are trusted for that domain only.
    pub by_domain: HashMap<TrustDomain, Arc<RootCertStore>>,
}

/// The current secrets. Clones share them.
#[derive(Debug, Clone)]
pub struct SecretStore {
    current: Arc<ArcSwapOption<Secrets>>,
    changed: Arc<watch::Sender<u64>>,
}

impl SecretStore {
    /// Creates a store without secrets.
    pub fn new() -> Self {
        Self { current: Arc::default(), changed: Arc::new(watch::Sender::new(0)) }
    }

    /// Replaces the secrets and notifies subscribers.
    pub fn publish(&self, secrets: Secrets) {
        self.current.store(Some(Arc::new(secrets)));
        self.changed.send_modify(|version| *version += 1);
    }

    /// Returns the current secrets, or `None` before the first certificate.
    pub fn load(&self) -> Option<Arc<Secrets>> {
        self.current.load_full()
    }

    /// Returns a receiver that is notified of every later change. Its value counts publications.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits for the first secrets and returns the current ones.
    pub async fn ready(&self) -> Arc<Secrets> {
        let mut changed = self.subscribe();
        loop {
            if let Some(secrets) = self.load() {
                return secrets;
            }
            // `self` holds the sender, so this never fails.
            let _ = changed.changed().await;
        }
    }
}

impl Default for SecretStore {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tasks_that_wait_for_the_first_certificate_receive_it() {
        let key = rcgen::generate_simple_self_signed([]).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
        let certified = CertifiedKey::from_der(vec![key.cert.der().clone()], private, &provider).unwrap();
        let store = SecretStore::new();
        assert!(store.load().is_none());
        let identity = Arc::new(WorkloadIdentity {
            id: SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap(),
            key: Arc::new(certified),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            serial: "1".into(),
        });
        let publish = async { store.publish(Secrets { identity: identity.clone(), roots: Arc::default() }) };
        let (ready, ()) = tokio::join!(store.ready(), publish);
        assert!(Arc::ptr_eq(&ready.identity, &identity));
    }
}
