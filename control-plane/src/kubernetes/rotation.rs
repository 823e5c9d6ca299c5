//! The replacement of a CA, step by step, so that no certificate is presented to a peer that does not trust its root yet.
//!
//! A new root is distributed first. Only after [`PROPAGATION`] does the CA sign with its key, and a root that has left the Secret is
//! distributed until the last certificate under it has expired. Pure: the caller has the clock.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use crate::ca::authority::{MAX_TTL, Signer};
use crate::ca::issuer::CertificateIssuer;

/// How long it takes at most until a root in the ConfigMap is in every proxy: the kubelet updates volumes within a minute or two, and
/// proxies read the file every ten seconds.
const PROPAGATION: Duration = Duration::from_secs(180);
/// How long a root is trusted after it has left the Secret.
const FORMER_ROOT_LIFETIME: Duration = Duration::from_secs(MAX_TTL.as_secs() + 2 * PROPAGATION.as_secs());

/// A CA as the Secret has it.
pub(super) struct StoredCa {
    pub(super) issuer: Arc<CertificateIssuer>,
    /// The root of the chain, and the certificates of `ca.crt`.
    pub(super) roots: Vec<CertificateDer<'static>>,
}

/// The state of a replacement.
pub(super) struct Rotation {
    issuer: Arc<CertificateIssuer>,
    /// The issuer in the Secret, if its root is not distributed yet, and when it will be.
    next: Option<(Arc<CertificateIssuer>, Instant)>,
    roots: Vec<TrustedRoot>,
}

struct TrustedRoot {
    certificate: CertificateDer<'static>,
    /// When every proxy has it.
    distributed: Instant,
    /// When it is dropped. None while it is in the Secret.
    until: Option<Instant>,
}

impl Rotation {
    /// Begins with a CA that was read at start-up, and with the roots that workloads trust already.
    pub(super) fn new(stored: StoredCa, trusted: Vec<CertificateDer<'static>>, now: Instant) -> Self {
        let StoredCa { issuer, roots } = stored;
        let kept = roots.into_iter().map(|certificate| (certificate, None));
        let former = trusted.into_iter().map(|certificate| (certificate, Some(now + FORMER_ROOT_LIFETIME)));
        let mut rotation = Self { issuer, next: None, roots: Vec::new() };
        for (certificate, until) in kept.chain(former) {
            if !rotation.trusts(&certificate) {
                rotation.roots.push(TrustedRoot { certificate, distributed: now, until });
            }
        }
        rotation
    }

    /// Returns what the CA signs with now, and what is distributed.
    pub(super) fn signer(&self) -> Signer {
        let roots = self.roots.iter().map(|root| root.certificate.clone()).collect();
        Signer { issuer: Arc::clone(&self.issuer), roots }
    }

    /// Applies what the Secret has now. Returns whether [`signer`](Self::signer) has changed.
    pub(super) fn observe(&mut self, stored: StoredCa, now: Instant) -> bool {
        let StoredCa { issuer, roots } = stored;
        let before = self.roots.len();
        for certificate in &roots {
            if !self.trusts(certificate) {
                let (certificate, distributed) = (certificate.clone(), now + PROPAGATION);
                self.roots.push(TrustedRoot { certificate, distributed, until: None });
            }
        }
        for root in &mut self.roots {
            root.until = match roots.contains(&root.certificate) {
                true => None,
                false => root.until.or(Some(now + FORMER_ROOT_LIFETIME)),
            };
        }
        self.next = None;
        if issuer.chain != self.issuer.chain {
            let root = issuer.chain.last();
            let known = self.roots.iter().find(|root_of_ours| Some(&root_of_ours.certificate) == root);
            let distributed = known.map_or(now + PROPAGATION, |root| root.distributed);
            tracing::info!(
                in_seconds = distributed.saturating_duration_since(now).as_secs(),
                "the CA is replaced"
            );
            self.next = Some((issuer, distributed));
        }
        self.advance(now) || self.roots.len() != before
    }

    /// Takes the steps that are due. Returns whether [`signer`](Self::signer) has changed.
    pub(super) fn advance(&mut self, now: Instant) -> bool {
        let before = self.roots.len();
        // The root of the active issuer stays, even if it has left the Secret.
        let active = self.issuer.chain.last().cloned();
        self.roots.retain(|root| {
            root.until.is_none_or(|until| now < until) || Some(&root.certificate) == active.as_ref()
        });
        let due = self.next.take_if(|(_, distributed)| *distributed <= now);
        if let Some((issuer, _)) = due {
            tracing::info!("signing with the new CA");
            self.issuer = issuer;
            return true;
        }
        self.roots.len() != before
    }

    /// Returns when the next step is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let active = self.issuer.chain.last();
        let former = self.roots.iter().filter(|root| Some(&root.certificate) != active);
        let next = self.next.as_ref().map(|(_, distributed)| *distributed);
        former.filter_map(|root| root.until).chain(next).min()
    }

    fn trusts(&self, certificate: &CertificateDer<'_>) -> bool {
        self.roots.iter().any(|root| root.certificate == *certificate)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use outrigger_core::identity::TrustDomain;

    use super::*;

    fn ca() -> Arc<CertificateIssuer> {
        let now = SystemTime::now();
        let record =
            CertificateIssuer::make_root(&TrustDomain::parse("cluster.local").unwrap(), now).unwrap();
        CertificateIssuer::from_record(&record, now).unwrap().into()
    }

    fn stored(issuer: &Arc<CertificateIssuer>, extra: &[&Arc<CertificateIssuer>]) -> StoredCa {
        let roots = [issuer].iter().chain(extra).map(|ca| ca.chain[0].clone()).collect();
        StoredCa { issuer: Arc::clone(issuer), roots }
    }

    /// Returns which CA signs and which roots are distributed, by their places in `cas`.
    fn state(rotation: &Rotation, cas: &[&Arc<CertificateIssuer>]) -> (usize, Vec<usize>) {
        let signer = rotation.signer();
        let place = |root: &CertificateDer<'_>| cas.iter().position(|ca| ca.chain[0] == *root).unwrap();
        (place(&signer.issuer.chain[0]), signer.roots.iter().map(place).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_ca_is_distributed_first_then_signs_and_the_old_root_stays_for_a_day() {
        let (old, new) = (ca(), ca());
        let (now, cas) = (Instant::now(), [&old, &new]);
        let mut rotation = Rotation::new(stored(&old, &[]), vec![old.chain[0].clone()], now);
        assert_eq!((state(&rotation, &cas), rotation.due()), ((0, vec![0]), None));
        assert!(rotation.observe(stored(&new, &[]), now));
        assert_eq!(state(&rotation, &cas), (0, vec![0, 1]));
        // The API server repeats itself: nothing begins again.
        let later = now + PROPAGATION / 2;
        assert!(!rotation.observe(stored(&new, &[]), later));
        assert_eq!(rotation.due(), Some(now + PROPAGATION));
        assert!(rotation.advance(now + PROPAGATION));
        assert_eq!(state(&rotation, &cas), (1, vec![0, 1]));
        assert!(!rotation.advance(now + MAX_TTL + PROPAGATION));
        assert_eq!(rotation.due(), Some(now + FORMER_ROOT_LIFETIME));
        assert!(rotation.advance(now + FORMER_ROOT_LIFETIME));
        assert_eq!((state(&rotation, &cas), rotation.due()), ((1, vec![1]), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_ca_whose_root_is_distributed_already_signs_at_once() {
        let (old, new) = (ca(), ca());
        let (now, cas) = (Instant::now(), [&old, &new]);
        let mut rotation = Rotation::new(stored(&old, &[&new]), Vec::new(), now);
        assert!(rotation.observe(stored(&new, &[&old]), now));
        assert_eq!(state(&rotation, &cas), (1, vec![0, 1]));
        assert_eq!(rotation.due(), None, "both are in the Secret");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replacement_that_is_taken_back_leaves_the_old_issuer() {
        let (old, new) = (ca(), ca());
        let (now, cas) = (Instant::now(), [&old, &new]);
        let mut rotation = Rotation::new(stored(&old, &[]), Vec::new(), now);
        rotation.observe(stored(&new, &[]), now);
        rotation.observe(stored(&old, &[]), now + PROPAGATION / 2);
        rotation.advance(now + PROPAGATION * 2);
        assert_eq!(state(&rotation, &cas), (0, vec![0, 1]));
    }

    #[tokio::test(start_paused = true)]
    async fn roots_that_workloads_trust_at_start_up_stay_beside_that_of_the_secret() {
        let (old, new) = (ca(), ca());
        let rotation = Rotation::new(stored(&new, &[]), vec![old.chain[0].clone()], Instant::now());
        assert_eq!(state(&rotation, &[&old, &new]), (1, vec![1, 0]));
    }
}
