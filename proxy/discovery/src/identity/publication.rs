//! Publishes certificate and roots to the data path, as one value, whenever either changes.
//!
//! The supervisor starts [`Publication::maintain`]. Roots are reread from the operator's file, so that a rotated bundle takes effect
//! without a restart. If the file cannot be read, the previous roots stay.

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::secrets::{Roots, SecretStore, Secrets, WorkloadIdentity};
use outrigger_core::identity::TrustDomain;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;

use crate::control_plane::channel::{ControlPlane, Credential, Credentials};
use crate::status::{CertificateStatus, StatusBoard};

/// How often the root file is checked for changes.
const ROOTS_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The last published value and its destination.
#[derive(Debug)]
pub(crate) struct Publication {
    store: SecretStore,
    trust_domain: TrustDomain,
    control_plane: ControlPlane,
    status: StatusBoard,
    roots: Arc<Roots>,
    read: Arc<crate::control_plane::trust::Roots>,
}

impl Publication {
    pub(crate) fn new(
        store: SecretStore,
        trust_domain: TrustDomain,
        control_plane: ControlPlane,
        status: StatusBoard,
    ) -> Self {
        let read = control_plane.roots();
        let roots = Arc::new(read.of_domain(trust_domain.clone(), 1));
        Self { store, trust_domain, control_plane, status, roots, read }
    }

    /// Publishes the credential with the current roots.
    pub(crate) fn publish(&mut self, credential: &Credential) {
        self.refresh();
        let key = match any_supported_type(&credential.key.private_key()) {
            Ok(key) => key,
            Err(error) => {
                tracing::error!(%error, "the workload's key cannot be used; keeping what was published");
                return;
            }
        };
        let certificate = &credential.certificate;
        let identity = WorkloadIdentity {
            id: certificate.identity.clone(),
            key: Arc::new(CertifiedKey::new(certificate.chain.clone(), key)),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            serial: certificate.serial.as_str().into(),
        };
        self.store.publish(Secrets { identity: Arc::new(identity), roots: Arc::clone(&self.roots) });
        self.status.certificate(CertificateStatus {
            identity: certificate.identity.clone(),
            serial: certificate.serial.clone(),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
        });
    }

    /// Publishes each new credential and each change of the roots. Owned by the supervisor.
    pub(crate) async fn maintain(mut self, mut credentials: Credentials) {
        loop {
            let due = tokio::select! {
                changed = credentials.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                () = tokio::time::sleep(ROOTS_CHECK_INTERVAL) => self.refresh(),
            };
            let credential = credentials.borrow().clone();
            if let Some(credential) = credential.filter(|_| due) {
                self.publish(&credential);
            }
        }
    }

    /// Rereads the roots. Returns whether they changed.
    fn refresh(&mut self) -> bool {
        let read = self.control_plane.roots();
        if read.certificates() == self.read.certificates() {
            return false;
        }
        tracing::info!(roots = read.certificates().len(), "the trust roots changed");
        self.roots = Arc::new(read.of_domain(self.trust_domain.clone(), self.roots.generation + 1));
        self.read = read;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::testing::{Ca, credential, fake_control_plane};
    use tokio::sync::watch;

    #[tokio::test(start_paused = true)]
    async fn certificate_and_roots_are_published_as_one_and_roots_rotate() {
        let (ca, other) = (Arc::new(Ca::new()), Ca::new());
        let control_plane = fake_control_plane(&ca, Clock::paused()).control_plane;
        let store = SecretStore::new();
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let publication =
            Publication::new(store.clone(), domain.clone(), control_plane, StatusBoard::default());
        let (sender, credentials) = watch::channel(None);
        tokio::spawn(publication.maintain(credentials));
        sender.send_replace(Some(credential(&ca, "spiffe://cluster.local/ns/shop/sa/cart")));
        let first = store.ready().await;
        assert_eq!((first.identity.id.service_account(), first.roots.generation), ("cart", 1));
        let mut changed = store.subscribe();
        let both = [ca.roots_file(), other.roots_file()].map(|file| std::fs::read_to_string(file).unwrap());
        std::fs::write(ca.roots_file(), both.concat()).unwrap();
        changed.changed().await.unwrap();
        let second = store.load().unwrap();
        assert_eq!((second.roots.generation, second.roots.by_domain[&domain].len()), (2, 2));
        std::fs::write(ca.roots_file(), "torn").unwrap();
        tokio::time::sleep(3 * ROOTS_CHECK_INTERVAL).await;
        assert_eq!(store.load().unwrap().roots.generation, 2, "the last good ones stay");
    }
}
