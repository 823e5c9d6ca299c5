//! Signs certificates: a public key and an identity in, a short-lived certificate out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_core::identity::{SpiffeId, TrustDomain};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use rustls_pki_types::{CertificateDer, DnsName};
use tokio::sync::watch;

use super::certificate::{serial, set_validity};
use super::issuer::CertificateIssuer;
use super::refusal::Refusal;

/// Maximum lifetime of a certificate.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
/// How far a certificate is backdated, for machines whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Trust roots by trust domain. Federation adds other domains to this map; a rotation has two roots for one domain.
pub(crate) type TrustRoots = BTreeMap<TrustDomain, Vec<CertificateDer<'static>>>;

/// The CA of one trust domain. Its issuer and its roots may be replaced while it is used.
#[derive(Debug)]
pub(crate) struct Authority {
    trust_domain: TrustDomain,
    default_ttl: Duration,
    /// None until the CA is read, in a cluster.
    current: watch::Sender<Option<Arc<Signer>>>,
}

/// What a CA signs with, and what verifies the certificates of its trust domain.
#[derive(Debug)]
pub(crate) struct Signer {
    /// The key and its chain. None while its root is distributed, if there is no former issuer.
    pub issuer: Option<Arc<CertificateIssuer>>,
    /// The root of the chain, and others that workloads trust while roots are replaced.
    pub roots: Vec<CertificateDer<'static>>,
    /// Those of the roots that are trusted only until their last certificates have expired.
    pub former_roots: Vec<CertificateDer<'static>>,
}

/// A certificate and its validity.
#[derive(Debug, Clone)]
pub(crate) struct IssuedCertificate {
    /// The leaf first, the root last.
    pub chain: Vec<CertificateDer<'static>>,
    /// The time of issue, not the backdated start of validity.
    pub issued: SystemTime,
    /// The end of validity.
    pub not_after: SystemTime,
}

/// A DNS name or IP address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerName {
    /// In lower case.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl ServerName {
    /// Parses a DNS name or an IP address. Returns None if the text is neither.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse() {
            return Some(Self::Ip(address));
        }
        let name = text.to_ascii_lowercase();
        DnsName::try_from(name.as_str()).ok()?;
        Some(Self::Dns(name))
    }

    fn to_san(&self) -> Result<SanType, rcgen::Error> {
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            Self::Ip(address) => SanType::IpAddress(*address),
        })
    }
}

impl std::fmt::Display for ServerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Ip(address) => write!(f, "{address}"),
        }
    }
}

impl Authority {
    /// Creates a CA that signs with `issuer`. Certificates have the lifetime `default_ttl` (at most 24 h) if none is
    /// requested.
    pub(crate) fn new(trust_domain: TrustDomain, issuer: CertificateIssuer, default_ttl: Duration) -> Self {
        let authority = Self::without_issuer(trust_domain, default_ttl);
        let roots = issuer.chain.last().cloned().into_iter().collect();
        authority.replace(Signer { issuer: Some(issuer.into()), roots, former_roots: Vec::new() });
        authority
    }

    /// Creates a CA that signs nothing before [`replace`](Self::replace).
    pub(crate) fn without_issuer(trust_domain: TrustDomain, default_ttl: Duration) -> Self {
        Self { trust_domain, default_ttl: default_ttl.min(MAX_TTL), current: watch::channel(None).0 }
    }

    /// Replaces the issuer and the roots. Certificates that were issued before stay valid as long as their root is among the roots.
    pub(crate) fn replace(&self, signer: Signer) {
        self.current.send_replace(Some(Arc::new(signer)));
    }

    /// Returns a receiver of each later replacement.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<Signer>>> {
        self.current.subscribe()
    }

    /// Waits until there is an issuer.
    pub(crate) async fn ready(&self) {
        // Fails only if the sender, which is in `self`, is dropped.
        let signs =
            |signer: &Option<Arc<Signer>>| signer.as_ref().is_some_and(|signer| signer.issuer.is_some());
        let _ = self.subscribe().wait_for(signs).await;
    }

    /// Returns the current issuer and roots. Returns None before the first [`replace`](Self::replace).
    pub(crate) fn signer(&self) -> Option<Arc<Signer>> {
        self.current.borrow().clone()
    }

    /// Returns the trust domain of the identities that this CA certifies.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns when the first certificate of its chain expires. Returns None if there is no issuer yet.
    pub(crate) fn not_after(&self) -> Option<SystemTime> {
        Some(self.signer()?.issuer.as_ref()?.not_after)
    }

    /// Returns the roots that verify its certificates.
    pub(crate) fn roots(&self) -> TrustRoots {
        let roots = self.signer().map(|signer| signer.roots.clone()).unwrap_or_default();
        TrustRoots::from([(self.trust_domain.clone(), roots)])
    }

    /// Signs a certificate for `key` and `identity`. Its lifetime is the shortest of the requested (or default) one, 24
    /// hours, and the issuer's remaining lifetime.
    pub(crate) fn sign(
        &self,
        key: &impl PublicKeyData,
        identity: &SpiffeId,
        requested: Option<Duration>,
        now: SystemTime,
    ) -> Result<IssuedCertificate, Refusal> {
        self.certify(key, identity, Vec::new(), requested, now)
    }

    /// Signs a server certificate, with DNS names and addresses for clients that do not verify SPIFFE IDs.
    pub(crate) fn sign_server(
        &self,
        key: &impl PublicKeyData,
        identity: &SpiffeId,
        names: &[ServerName],
        now: SystemTime,
    ) -> Result<IssuedCertificate, Refusal> {
        let names = names.iter().map(ServerName::to_san).collect::<Result<_, _>>();
        let names = names.map_err(|error: rcgen::Error| Refusal::Signing(error.to_string()))?;
        self.certify(key, identity, names, None, now)
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        identity: &SpiffeId,
        names: Vec<SanType>,
        requested: Option<Duration>,
        now: SystemTime,
    ) -> Result<IssuedCertificate, Refusal> {
        let signer = self.signer().ok_or(Refusal::NoIssuer)?;
        let issuer = signer.issuer.as_ref().ok_or(Refusal::NoIssuer)?;
        let left = issuer.not_after.duration_since(now).map_err(|_| Refusal::IssuerExpired)?;
        let ttl = requested.unwrap_or(self.default_ttl).min(MAX_TTL).min(left);
        let not_after = now + ttl;
        let failed = |error: rcgen::Error| Refusal::Signing(error.to_string());

        let mut params = CertificateParams::default();
        // X509-SVID: the identity is the URI; without a subject the SAN is critical (RFC 5280, section 4.2.1.6).
        params.distinguished_name = DistinguishedName::new();
        let uri = identity.as_str().try_into().map_err(failed)?;
        params.subject_alt_names = [SanType::URI(uri)].into_iter().chain(names).collect();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial().map_err(failed)?);
        set_validity(&mut params, now.checked_sub(BACKDATE).unwrap_or(now), not_after);
        let leaf = params.signed_by(key, &issuer.issuer).map_err(failed)?;

        let mut chain = vec![leaf.der().clone()];
        chain.extend(issuer.chain.iter().cloned());
        Ok(IssuedCertificate { chain, issued: now, not_after })
    }
}

#[cfg(test)]
impl Authority {
    /// Returns a CA of `cluster.local` with a new root.
    pub(crate) fn for_tests() -> Self {
        let domain = TrustDomain::parse("cluster.local").expect("a valid name");
        let now = SystemTime::now();
        let record = CertificateIssuer::make_root(&domain, now).expect("a root");
        let issuer = CertificateIssuer::from_record(&record, now).expect("a root that can be read");
        Self::new(domain, issuer, Duration::from_secs(3600))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use rcgen::KeyPair;
    use x509_parser::extensions::GeneralName;
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::super::certificate::LeafCertificate;
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn identity() -> SpiffeId {
        SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap()
    }

    fn authority() -> Authority {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let record = CertificateIssuer::make_root(&domain, now()).unwrap();
        Authority::new(domain, CertificateIssuer::from_record(&record, now()).unwrap(), HOUR)
    }

    #[test]
    fn a_leaf_has_its_identity_and_no_other_name() {
        let key = KeyPair::generate().unwrap();
        let issued = authority().sign(&key, &identity(), None, now()).unwrap();
        let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(names.critical && leaf.subject().iter().next().is_none());
        assert_eq!(names.value.general_names, [GeneralName::URI(identity().as_str())]);
        let usage = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth && !usage.any && !leaf.is_ca());
        assert!(leaf.basic_constraints().unwrap().is_some());
        assert_eq!(leaf.validity().not_before.timestamp(), 1_800_000_000 - 300);
        let (_, root) = X509Certificate::from_der(&issued.chain[1]).unwrap();
        leaf.verify_signature(Some(root.public_key())).unwrap();
        let read = LeafCertificate::read(&issued.chain[0]).unwrap();
        assert_eq!(read, LeafCertificate { identity: identity(), not_after: now() + HOUR });
    }

    #[test]
    fn a_lifetime_is_the_shortest_of_the_requested_one_a_day_and_the_issuers() {
        let authority = authority();
        let key = KeyPair::generate().unwrap();
        let end = authority.not_after().unwrap();
        for (asked, at, life) in [
            (None, now(), HOUR),
            (Some(Duration::from_secs(20)), now(), Duration::from_secs(20)),
            (Some(1000 * HOUR), now(), MAX_TTL),
            (None, end - Duration::from_secs(60), Duration::from_secs(60)),
        ] {
            let issued = authority.sign(&key, &identity(), asked, at).unwrap();
            assert_eq!(issued.not_after, at + life);
        }
        let late = authority.sign(&key, &identity(), None, end + HOUR);
        assert_eq!(late.unwrap_err().reason(), "issuer-expired");
    }

    #[test]
    fn two_certificates_of_one_key_have_two_serial_numbers() {
        let (authority, key) = (authority(), KeyPair::generate().unwrap());
        let serial = || {
            let issued = authority.sign(&key, &identity(), None, now()).unwrap();
            X509Certificate::from_der(&issued.chain[0]).unwrap().1.raw_serial().to_vec()
        };
        assert_ne!(serial(), serial());
    }

    #[test]
    fn a_replaced_issuer_signs_the_next_certificate_and_both_roots_verify() {
        let (authority, key) = (authority(), KeyPair::generate().unwrap());
        let before = authority.sign(&key, &identity(), None, now()).unwrap();
        let old = authority.roots().remove(authority.trust_domain()).unwrap();
        let record = CertificateIssuer::make_root(authority.trust_domain(), now()).unwrap();
        let issuer = Arc::new(CertificateIssuer::from_record(&record, now()).unwrap());
        let mut changes = authority.subscribe();
        let roots = [old.clone(), issuer.chain.clone()].concat();
        authority.replace(Signer { issuer: Some(issuer), roots: roots.clone(), former_roots: Vec::new() });
        assert!(
            changes.has_changed().unwrap() && changes.borrow_and_update().as_ref().unwrap().roots == roots
        );
        let after = authority.sign(&key, &identity(), None, now()).unwrap();
        assert!(before.chain[1] == old[0] && after.chain[1] == roots[1]);
        assert_eq!(authority.roots()[authority.trust_domain()], roots);
    }
}
