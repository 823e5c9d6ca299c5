//! The replacement of a CA, step by step, so that no certificate is presented to a peer that does not trust its root yet.
//!
//! A new root is published first. Only when it is distributed ([`super::root_record`]) does the CA sign with its key, and a root that has
//! left the Secret stays trusted until the last certificate under it has expired. A replica that starts meanwhile waits like the others; it
//! signs nothing until then, because it does not have the former key. Pure: the caller has the clock.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use super::root_record::{FORMER_ROOT_LIFETIME, PROPAGATION, PublishedRoot};
use crate::ca::authority::Signer;
use crate::ca::issuer::CertificateIssuer;

/// A CA as the Secret has it.
pub(super) struct StoredCa {
    pub(super) issuer: Arc<CertificateIssuer>,
    /// The root of the chain, and the certificates of `ca.crt`.
    pub(super) roots: Vec<CertificateDer<'static>>,
}

/// The state of a replacement.
pub(super) struct Rotation {
    /// None if a replica starts before the root of the issuer in the Secret is distributed.
    issuer: Option<Arc<CertificateIssuer>>,
    /// The issuer in the Secret, if it does not sign yet.
    next: Option<Arc<CertificateIssuer>>,
    roots: Vec<TrustedRoot>,
    published: Vec<PublishedRoot>,
}

struct TrustedRoot {
    certificate: CertificateDer<'static>,
    /// When it is dropped. None while it is in the Secret.
    until: Option<Instant>,
}

impl Rotation {
    /// Begins with a CA that was read at start-up, and with the roots that workloads trust already.
    pub(super) fn new(stored: StoredCa, published: Vec<PublishedRoot>, now: Instant) -> Self {
        let first = published.is_empty();
        let trusted =
            |root: &PublishedRoot| TrustedRoot { certificate: root.certificate.clone(), until: root.until };
        let roots = published.iter().map(trusted).collect();
        let mut rotation = Self { issuer: None, next: None, roots, published };
        if first {
            let distributed = |certificate| PublishedRoot { certificate, distributed: now, until: None };
            rotation.published = stored.roots.iter().cloned().map(distributed).collect();
        }
        rotation.observe(stored, now);
        rotation
    }

    /// Returns what the CA signs with now, and what is distributed: in the same order in every replica, because each writes it.
    pub(super) fn signer(&self) -> Signer {
        let certificates = |former: bool| {
            let roots = self.roots.iter().filter(|root| !former || root.until.is_some());
            let mut roots: Vec<_> = roots.map(|root| root.certificate.clone()).collect();
            roots.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
            roots
        };
        Signer { issuer: self.issuer.clone(), roots: certificates(false), former_roots: certificates(true) }
    }

    /// Applies what the Secret has now. Returns whether [`signer`](Self::signer) has changed.
    pub(super) fn observe(&mut self, stored: StoredCa, now: Instant) -> bool {
        let StoredCa { issuer, roots } = stored;
        let before = self.trusted();
        for certificate in &roots {
            if !self.roots.iter().any(|root| root.certificate == *certificate) {
                self.roots.push(TrustedRoot { certificate: certificate.clone(), until: None });
            }
        }
        for root in &mut self.roots {
            root.until = match roots.contains(&root.certificate) {
                true => None,
                false => root.until.or(Some(now + FORMER_ROOT_LIFETIME)),
            };
        }
        let is = |other: &Option<Arc<CertificateIssuer>>| {
            other.as_ref().is_some_and(|other| other.chain == issuer.chain)
        };
        let (active, known) = (is(&self.issuer), is(&self.next));
        if self.issuer.is_some() && !active && !known {
            tracing::info!("the CA is replaced: it signs when every proxy has its root");
        }
        self.next = (!active).then_some(issuer);
        self.advance(now) || self.trusted() != before
    }

    /// Applies which roots are published now. Returns whether [`signer`](Self::signer) has changed.
    ///
    /// A root that was not published before is distributed after the whole wait, and a known one when it was to be, whatever the clocks of
    /// this replica and of the leader say.
    pub(super) fn publish(&mut self, mut published: Vec<PublishedRoot>, now: Instant) -> bool {
        for root in &mut published {
            let known = self.published.iter().find(|known| known.certificate == root.certificate);
            root.distributed =
                known.map_or(root.distributed.max(now + PROPAGATION), |known| known.distributed);
        }
        self.published = published;
        for root in self.roots.iter_mut().filter(|root| root.until.is_some()) {
            let recorded = self.published.iter().find(|published| published.certificate == root.certificate);
            root.until = recorded.and_then(|recorded| recorded.until).or(root.until);
        }
        self.advance(now)
    }

    /// Takes the steps that are due. Returns whether [`signer`](Self::signer) has changed.
    pub(super) fn advance(&mut self, now: Instant) -> bool {
        let before = self.roots.len();
        // The root of the active issuer stays, even if it has left the Secret.
        let active = self.active_root().cloned();
        self.roots.retain(|root| {
            root.until.is_none_or(|until| now < until) || Some(&root.certificate) == active.as_ref()
        });
        if self.distributed().is_some_and(|distributed| distributed <= now) {
            tracing::info!("signing with the CA in the Secret");
            self.issuer = self.next.take();
            return true;
        }
        self.roots.len() != before
    }

    /// Returns when the next step is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let active = self.active_root();
        let former = self.roots.iter().filter(|root| Some(&root.certificate) != active);
        former.filter_map(|root| root.until).chain(self.distributed()).min()
    }

    /// Returns whether an issuer waits until its root is distributed.
    pub(super) fn is_waiting(&self) -> bool {
        self.next.is_some()
    }

    /// Returns when every proxy has the root of the next issuer. Returns None if there is no next issuer, or if its root is not published.
    fn distributed(&self) -> Option<Instant> {
        let root = self.next.as_ref()?.chain.last()?;
        self.published.iter().find(|published| published.certificate == *root).map(|root| root.distributed)
    }

    /// Returns how many roots are trusted, and how many of them are in the Secret.
    fn trusted(&self) -> (usize, usize) {
        (self.roots.len(), self.roots.iter().filter(|root| root.until.is_none()).count())
    }

    fn active_root(&self) -> Option<&CertificateDer<'static>> {
        self.issuer.as_ref()?.chain.last()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use outrigger_core::identity::TrustDomain;

    use super::*;
    use crate::ca::authority::MAX_TTL;

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

    fn published(ca: &Arc<CertificateIssuer>, distributed: Instant) -> PublishedRoot {
        PublishedRoot { certificate: ca.chain[0].clone(), distributed, until: None }
    }

    /// Returns which CA signs and which roots are distributed, by their places in `cas`.
    fn state(rotation: &Rotation, cas: &[&Arc<CertificateIssuer>]) -> (Option<usize>, Vec<usize>) {
        let signer = rotation.signer();
        let place = |root: &CertificateDer<'_>| cas.iter().position(|ca| ca.chain[0] == *root).unwrap();
        let mut roots: Vec<_> = signer.roots.iter().map(place).collect();
        roots.sort_unstable();
        (signer.issuer.map(|issuer| place(&issuer.chain[0])), roots)
    }

    #[tokio::test(start_paused = true)]
    async fn a_replaced_ca_is_distributed_first_then_signs_and_the_old_root_stays_for_a_day() {
        let (old, new) = (ca(), ca());
        let (now, cas) = (Instant::now(), [&old, &new]);
        let mut rotation = Rotation::new(stored(&old, &[]), vec![published(&old, now)], now);
        assert_eq!((state(&rotation, &cas), rotation.due()), ((Some(0), vec![0]), None));
        assert!(rotation.observe(stored(&new, &[]), now));
        assert_eq!(state(&rotation, &cas), (Some(0), vec![0, 1]));
        // The wait begins when the root is published.
        assert!(!rotation.advance(now + PROPAGATION) && rotation.is_waiting());
        // The clock of the replica is ahead of the leader's, or behind: the wait is the same.
        for distributed in [now, now + PROPAGATION * 2] {
            assert!(!rotation.publish(vec![published(&old, now), published(&new, distributed)], now));
        }
        // The API server repeats itself: nothing begins again.
        assert!(!rotation.observe(stored(&new, &[]), now + PROPAGATION / 2));
        assert_eq!(rotation.due(), Some(now + PROPAGATION));
        assert!(rotation.advance(now + PROPAGATION));
        assert_eq!((state(&rotation, &cas), rotation.is_waiting()), ((Some(1), vec![0, 1]), false));
        assert!(!rotation.advance(now + MAX_TTL + PROPAGATION));
        assert_eq!(rotation.due(), Some(now + FORMER_ROOT_LIFETIME));
        assert!(rotation.advance(now + FORMER_ROOT_LIFETIME));
        assert_eq!((state(&rotation, &cas), rotation.due()), ((Some(1), vec![1]), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_ca_whose_root_is_distributed_already_signs_at_once() {
        let (old, new) = (ca(), ca());
        let (now, cas) = (Instant::now(), [&old, &new]);
        let mut rotation = Rotation::new(stored(&old, &[&new]), Vec::new(), now);
        assert!(rotation.observe(stored(&new, &[&old]), now));
        assert_eq!(state(&rotation, &cas), (Some(1), vec![0, 1]));
        assert_eq!(rotation.due(), None, "both are in the Secret");
    }

    #[tokio::test(start_paused = true)]
    async fn a_replacement_that_is_taken_back_leaves_the_old_issuer() {
        let (old, new) = (ca(), ca());
        let (now, cas) = (Instant::now(), [&old, &new]);
        let mut rotation = Rotation::new(stored(&old, &[]), Vec::new(), now);
        rotation.observe(stored(&new, &[]), now);
        rotation.publish(vec![published(&old, now), published(&new, now + PROPAGATION)], now);
        rotation.observe(stored(&old, &[]), now + PROPAGATION / 2);
        rotation.advance(now + PROPAGATION * 2);
        assert_eq!(state(&rotation, &cas), (Some(0), vec![0, 1]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_starts_during_a_replacement_signs_only_when_the_new_root_is_distributed() {
        let (old, new) = (ca(), ca());
        let (now, cas) = (Instant::now(), [&old, &new]);
        let rest = PROPAGATION / 3;
        let record = vec![published(&old, now), published(&new, now + rest)];
        let mut rotation = Rotation::new(stored(&new, &[]), record, now);
        assert_eq!((state(&rotation, &cas), rotation.due()), ((None, vec![0, 1]), Some(now + rest)));
        assert!(!rotation.advance(now + rest / 2));
        assert!(rotation.advance(now + rest));
        assert_eq!(state(&rotation, &cas), (Some(1), vec![0, 1]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_ca_that_was_replaced_while_no_replica_ran_is_distributed_first() {
        let (old, new) = (ca(), ca());
        let (now, cas) = (Instant::now(), [&old, &new]);
        let mut rotation = Rotation::new(stored(&new, &[]), vec![published(&old, now)], now);
        assert_eq!(state(&rotation, &cas), (None, vec![0, 1]));
        assert!(rotation.is_waiting() && !rotation.advance(now + PROPAGATION));
        assert!(!rotation.publish(vec![published(&old, now), published(&new, now)], now));
        assert!(rotation.advance(now + PROPAGATION));
        assert_eq!(state(&rotation, &cas), (Some(1), vec![0, 1]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_former_root_is_dropped_at_the_recorded_time_however_often_replicas_restart() {
        let (old, new) = (ca(), ca());
        let (now, cas) = (Instant::now(), [&old, &new]);
        let rest = PROPAGATION * 2;
        let former = |until| PublishedRoot { until: Some(until), ..published(&old, now) };
        let record = vec![former(now + rest), published(&new, now)];
        let mut restarted = Rotation::new(stored(&new, &[]), record.clone(), now);
        let signer = restarted.signer();
        assert_eq!((signer.roots.len(), signer.former_roots), (2, vec![old.chain[0].clone()]));
        let mut running = Rotation::new(stored(&old, &[]), Vec::new(), now);
        running.observe(stored(&new, &[]), now);
        assert!(!running.publish(record, now) && running.advance(now + PROPAGATION));
        for rotation in [&mut restarted, &mut running] {
            assert_eq!((state(rotation, &cas), rotation.due()), ((Some(1), vec![0, 1]), Some(now + rest)));
            assert!(rotation.advance(now + rest));
            assert_eq!(state(rotation, &cas), (Some(1), vec![1]));
        }
    }
}
