//! The record of the trust roots: when each was published and left the Secret, as an annotation of the ConfigMap
//! `outrigger-trust-roots` in our own namespace.
//!
//! The leader writes it after all copies, and every replica reads it. A copy that cannot be written delays a new root. So a replica that
//! starts knows which roots every proxy has and how long former ones stay, and all replicas act at the same time. Without a record, as an
//! earlier version leaves it, all roots are published since long ago.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::ConfigMap;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::ca::authority::MAX_TTL;

/// The key of the ConfigMap that has the roots.
pub(in crate::kubernetes) const ROOTS_KEY: &str = "roots.pem";
/// The annotation: JSON, the times by the SHA-256 of the certificate.
pub(super) const RECORD: &str = "outrigger.dev/roots";
/// How long it takes at most until a root in the ConfigMap is in every proxy: the kubelet updates volumes within a minute or two, and
/// proxies read the file every ten seconds.
pub(super) const PROPAGATION: Duration = Duration::from_secs(180);
/// How long a root is trusted after it has left the Secret: until its last certificate has expired.
pub(super) const FORMER_ROOT_LIFETIME: Duration =
    Duration::from_secs(MAX_TTL.as_secs() + 2 * PROPAGATION.as_secs());

/// A root that workloads trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublishedRoot {
    pub(super) certificate: CertificateDer<'static>,
    /// When every proxy has it.
    pub(super) distributed: Instant,
    /// When it is dropped. None while it is in the Secret.
    pub(super) until: Option<Instant>,
}

/// The times of the roots, by the SHA-256 of the certificate.
#[derive(Debug, Clone, Default)]
pub(super) struct RootRecord(BTreeMap<String, RootTimes>);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct RootTimes {
    published: jiff::Timestamp,
    /// When it left the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<jiff::Timestamp>,
}

impl RootRecord {
    /// Reads the record of a ConfigMap.
    pub(super) fn of(map: &ConfigMap) -> Self {
        let text = map.metadata.annotations.as_ref().and_then(|annotations| annotations.get(RECORD));
        Self(text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default())
    }

    /// Returns whether a root has no time yet, here and in `other`, although another root has one.
    pub(super) fn lacks(&self, other: &Self, roots: &[(CertificateDer<'static>, bool)]) -> bool {
        let has = |root: &CertificateDer<'_>| {
            let name = fingerprint(root);
            self.0.contains_key(&name) || other.0.contains_key(&name)
        };
        roots.iter().any(|(root, _)| has(root)) && !roots.iter().all(|(root, _)| has(root))
    }

    /// Adds the times in `other`, which are those in the ConfigMap, and keeps those of `roots` only. Each comes with whether it is in the
    /// Secret. What has no time yet gets `now`.
    pub(super) fn update(
        &mut self,
        other: Self,
        roots: &[(CertificateDer<'static>, bool)],
        now: jiff::Timestamp,
    ) {
        let (before, known) = (std::mem::take(&mut self.0), other.0);
        self.0 = roots
            .iter()
            .map(|(root, stored)| {
                let name = fingerprint(root);
                let times = known.get(&name).or_else(|| before.get(&name)).copied();
                let RootTimes { published, left } = times.unwrap_or(RootTimes { published: now, left: None });
                (name, RootTimes { published, left: (!stored).then(|| left.unwrap_or(now)) })
            })
            .collect();
    }
}

/// Writes the text of the annotation.
impl std::fmt::Display for RootRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&serde_json::to_string(&self.0).map_err(|_| std::fmt::Error)?)
    }
}

/// Returns the roots in a ConfigMap. Certificates that cannot be read are ignored: workloads cannot use them either.
///
/// The oldest roots are distributed already: before them, no workload trusted another root.
pub(super) fn published_roots(map: &ConfigMap, wall: SystemTime, now: Instant) -> Vec<PublishedRoot> {
    let pem = map.data.as_ref().and_then(|data| data.get(ROOTS_KEY)).map_or("", String::as_str);
    let RootRecord(record) = RootRecord::of(map);
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok);
    let roots: Vec<_> = certificates
        .map(|certificate| {
            let times = record.get(&fingerprint(&certificate)).copied();
            let unknown = RootTimes { published: jiff::Timestamp::UNIX_EPOCH, left: None };
            (certificate, times.unwrap_or(unknown))
        })
        .collect();
    let oldest = roots.iter().map(|(_, times)| times.published).min();
    let after = |time: jiff::Timestamp, wait: Duration| {
        now + wait.saturating_sub(wall.duration_since(time.into()).unwrap_or_default())
    };
    let root = |(certificate, RootTimes { published, left })| PublishedRoot {
        certificate,
        distributed: if Some(published) == oldest { now } else { after(published, PROPAGATION) },
        until: left.map(|left| after(left, FORMER_ROOT_LIFETIME)),
    };
    roots.into_iter().map(root).collect()
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::ca::service::pem;

    fn root() -> CertificateDer<'static> {
        CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn map(roots: &[&CertificateDer<'static>], record: Option<&str>) -> ConfigMap {
        let text: String = roots.iter().map(|root| pem(root)).collect();
        let mut map = ConfigMap { data: Some([(ROOTS_KEY.into(), text)].into()), ..ConfigMap::default() };
        map.metadata.annotations = record.map(|record| [(RECORD.into(), record.into())].into());
        map
    }

    /// The first is in the Secret if `stored` says so, the others are.
    fn roots(roots: &[&CertificateDer<'static>], stored: bool) -> Vec<(CertificateDer<'static>, bool)> {
        roots.iter().enumerate().map(|(index, root)| ((*root).clone(), stored || index > 0)).collect()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn all_replicas_know_when_a_root_was_published_and_when_it_left_the_secret() {
        let (old, new, now) = (root(), root(), Instant::now());
        let start = jiff::Timestamp::from_second(1_800_000_000).unwrap();
        let mut record = RootRecord::default();
        record.update(RootRecord::default(), &roots(&[&old], true), start);
        record.update(RootRecord::default(), &roots(&[&old, &new], false), start + MINUTE);
        let map = map(&[&old, &new], Some(&record.to_string()));
        let read = |after: Duration| {
            let roots = published_roots(&map, SystemTime::from(start + MINUTE) + after, now);
            let times = |root: &PublishedRoot| (root.distributed - now, root.until.map(|until| until - now));
            roots.iter().map(times).collect::<Vec<_>>()
        };
        let zero = Duration::ZERO;
        assert_eq!(read(zero), [(zero, Some(FORMER_ROOT_LIFETIME)), (PROPAGATION, None)]);
        assert_eq!(read(MINUTE), [(zero, Some(FORMER_ROOT_LIFETIME - MINUTE)), (PROPAGATION - MINUTE, None)]);
        assert_eq!(read(FORMER_ROOT_LIFETIME), [(zero, Some(zero)), (zero, None)]);
        // The next leader keeps the times.
        let (mut next, later) = (RootRecord::default(), start + 5 * MINUTE);
        next.update(RootRecord::of(&map), &roots(&[&old, &new], false), later);
        assert_eq!(next.to_string(), record.to_string());
        // The copy was deleted: the leader that wrote it restores the times.
        next.update(RootRecord::default(), &roots(&[&old, &new], false), later);
        assert_eq!(next.to_string(), record.to_string());
        // The replacement is taken back.
        next.update(RootRecord::default(), &roots(&[&old, &new], true), later);
        assert!(!next.to_string().contains("left"), "{next}");
    }

    #[test]
    fn a_record_lacks_a_root_that_comes_after_others() {
        let (old, new, start) = (root(), root(), jiff::Timestamp::now());
        let (old, both) = (roots(&[&old], true), roots(&[&old, &new], true));
        let (mut record, none) = (RootRecord::default(), RootRecord::default());
        assert!(!none.lacks(&none, &both), "no root is trusted before them");
        record.update(RootRecord::default(), &old, start);
        assert!(!record.lacks(&none, &old) && !none.lacks(&record, &old));
        assert!(record.lacks(&none, &both) && none.lacks(&record, &both));
        record.update(RootRecord::default(), &both, start);
        assert!(!record.lacks(&none, &both));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_root_and_roots_without_a_record_are_distributed_already() {
        let (old, new, now) = (root(), root(), Instant::now());
        let mut record = RootRecord::default();
        record.update(RootRecord::default(), &roots(&[&old], true), jiff::Timestamp::now());
        for map in [
            map(&[&old], Some(&record.to_string())),
            map(&[&old, &new], None),
            map(&[&old, &new], Some("damaged")),
        ] {
            let roots = published_roots(&map, SystemTime::now(), now);
            assert!(roots.iter().all(|root| root.distributed == now && root.until.is_none()), "{map:?}");
        }
        assert!(published_roots(&ConfigMap::default(), SystemTime::now(), now).is_empty());
    }
}
