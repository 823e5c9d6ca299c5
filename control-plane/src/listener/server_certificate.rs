//! The control plane's own certificate, signed by its CA and renewed in process before it expires.
//!
//! Our proxies verify the control plane's SPIFFE ID. Other gRPC clients verify the name that they connect to, so the
//! certificate also has DNS names and addresses.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use outrigger_core::identity::SpiffeId;
use rcgen::KeyPair;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};

use crate::ca::authority::{Authority, ServerName};
use crate::ca::refusal::Refusal;

/// Interval of reading the wall clock. It advances while a machine is suspended; tokio's clock does not.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Delay before a failed renewal is retried.
const RETRY: Duration = Duration::from_secs(1);

/// The server certificate. Every handshake uses the current one.
#[derive(Debug)]
pub(crate) struct ServerCertificate {
    authority: Arc<Authority>,
    names: Vec<ServerName>,
    current: ArcSwap<Current>,
}

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    renew_at: SystemTime,
}

/// Why the control plane has no certificate.
#[derive(Debug, Error)]
pub enum ServerCertificateError {
    /// The CA did not sign.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Clients would reject it: an operator's CA may be constrained to certain names.
    #[error("the CA cannot certify the names {names}: {problem}")]
    Names {
        /// The names.
        names: String,
        /// The error of the verification.
        problem: String,
    },
    /// The key could not be generated or used.
    #[error("the key of the control plane: {0}")]
    Key(String),
}

impl ServerCertificate {
    /// Issues the first certificate for the requested names (`asked`) and for those of `usual` that the CA may certify.
    pub(crate) fn new(
        authority: Arc<Authority>,
        asked: &[ServerName],
        usual: &[ServerName],
    ) -> Result<Self, ServerCertificateError> {
        let now = SystemTime::now();
        let first = |names: &[ServerName]| {
            let current = issue(&authority, names, now)?;
            verify(&current.key.cert, &authority, names, now).map(|()| current)
        };
        let every = [asked, usual].concat();
        let (names, current) = match first(&every) {
            Ok(current) => (every, current),
            // An operator's CA may be constrained to some names.
            Err(_) => {
                let allowed = |name: &&ServerName| first(std::slice::from_ref(*name)).is_ok();
                let names = [asked, &usual.iter().filter(allowed).cloned().collect::<Vec<_>>()].concat();
                let current = first(&names)?;
                (names, current)
            }
        };
        Ok(Self { authority, names, current: ArcSwap::from_pointee(current) })
    }

    /// Renews each certificate at two thirds of its lifetime and when the CA has another issuer, for as long as it is polled.
    pub(crate) async fn keep_fresh(&self) {
        let mut replacements = self.authority.subscribe();
        loop {
            let now = SystemTime::now();
            let left = self.current.load().renew_at.duration_since(now).unwrap_or_default();
            if !left.is_zero()
                && tokio::time::timeout(left.min(CLOCK_CHECK_INTERVAL), replacements.changed()).await.is_err()
            {
                continue;
            }
            match issue(&self.authority, &self.names, now) {
                Ok(renewed) => self.current.store(renewed.into()),
                Err(error) => {
                    tracing::error!(%error, "cannot renew the control plane's own certificate");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

fn issue(
    authority: &Authority,
    names: &[ServerName],
    now: SystemTime,
) -> Result<Current, ServerCertificateError> {
    let identity = SpiffeId::control_plane(authority.trust_domain().clone());
    let broken = |error: &dyn std::fmt::Display| ServerCertificateError::Key(error.to_string());
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| broken(&error))?;
    let issued = authority.sign_server(&key, &identity, names, now)?;
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).map_err(|error| broken(&error))?;
    // The client has the root, so it is not sent (RFC 8446, section 4.4.2).
    let mut chain = issued.chain;
    chain.pop();
    let life = issued.not_after.duration_since(issued.issued).unwrap_or_default();
    Ok(Current { key: Arc::new(CertifiedKey::new(chain, signer)), renew_at: now + life * 2 / 3 })
}

/// Returns an error if a client that has the roots would reject the chain.
fn verify(
    chain: &[CertificateDer<'static>],
    authority: &Authority,
    names: &[ServerName],
    now: SystemTime,
) -> Result<(), ServerCertificateError> {
    let fails = |problem: &dyn std::fmt::Display| ServerCertificateError::Names {
        names: names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        problem: problem.to_string(),
    };
    let (leaf, intermediates) = chain.split_first().ok_or_else(|| fails(&"an empty chain"))?;
    let roots = authority.roots();
    let anchors = roots.values().flatten().map(webpki::anchor_from_trusted_cert);
    let anchors = anchors.collect::<Result<Vec<_>, _>>().map_err(|error| fails(&error))?;
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let leaf = EndEntityCert::try_from(leaf).map_err(|error| fails(&error))?;
    let usage = KeyUsage::server_auth();
    leaf.verify_for_usage(algorithms, &anchors, intermediates, now, usage, None, None)
        .map(drop)
        .map_err(|error| fails(&error))
}

/// Returns the names that clients usually use for a control plane that listens on this address.
pub(crate) fn usual_names(listen: IpAddr) -> Vec<ServerName> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let named = ["localhost", "127.0.0.1", "::1", host.trim()];
    let mut names: Vec<_> = named.into_iter().filter_map(ServerName::parse).collect();
    if !listen.is_unspecified() && !listen.is_loopback() {
        names.push(ServerName::Ip(listen.to_canonical()));
    }
    names
}

impl ResolvesServerCert for ServerCertificate {
    /// Ignores the requested server name: there is one certificate.
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }
}

#[cfg(test)]
mod tests {
    use outrigger_core::identity::TrustDomain;
    use rcgen::{BasicConstraints, CertificateParams, GeneralSubtree, IsCa, NameConstraints};
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;
    use crate::ca::certificate::LeafCertificate;
    use crate::ca::issuer::CertificateIssuer;
    use crate::state::authority::AuthorityRecord;

    #[tokio::test]
    async fn the_certificate_is_renewed_at_two_thirds_of_its_life() {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let now = SystemTime::now();
        let record = CertificateIssuer::make_root(&domain, now).unwrap();
        let issuer = CertificateIssuer::from_record(&record, now).unwrap();
        let authority = Arc::new(Authority::new(domain, issuer, Duration::from_secs(300)));
        let certificate = ServerCertificate::new(authority, &[], &[]).unwrap();
        let first = certificate.current.load_full();
        let life = first.renew_at.duration_since(now).unwrap().as_secs();
        assert!((199..=201).contains(&life), "{life} s");
        certificate.current.store(Current { key: Arc::clone(&first.key), renew_at: now }.into());
        futures_util::future::select(Box::pin(certificate.keep_fresh()), Box::pin(tokio::task::yield_now()))
            .await;
        assert!(!Arc::ptr_eq(&certificate.current.load().key, &first.key));
    }

    fn names(texts: &[&str]) -> Vec<ServerName> {
        texts.iter().map(|text| ServerName::parse(text).unwrap()).collect()
    }

    fn authority(issuer: CertificateIssuer) -> Arc<Authority> {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        Arc::new(Authority::new(domain, issuer, Duration::from_secs(300)))
    }

    fn sans(certificate: &ServerCertificate) -> Vec<String> {
        let key = Arc::clone(&certificate.current.load().key);
        let (_, leaf) = X509Certificate::from_der(&key.cert[0]).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        names.value.general_names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_client_finds_the_name_that_it_connected_to() {
        let now = SystemTime::now();
        let record =
            CertificateIssuer::make_root(&TrustDomain::parse("cluster.local").unwrap(), now).unwrap();
        let authority = authority(CertificateIssuer::from_record(&record, now).unwrap());
        let asked = names(&["control.example", "10.0.0.7"]);
        let usual = usual_names("fd00::7".parse().unwrap());
        let certificate = ServerCertificate::new(Arc::clone(&authority), &asked, &usual).unwrap();
        let key = Arc::clone(&certificate.current.load().key);
        let leaf = EndEntityCert::try_from(&key.cert[0]).unwrap();
        for name in ["control.example", "10.0.0.7", "localhost", "127.0.0.1", "::1", "fd00::7"] {
            leaf.verify_is_valid_for_subject_name(&rustls_pki_types::ServerName::try_from(name).unwrap())
                .unwrap();
        }
        let identity = LeafCertificate::read(&key.cert[0]).unwrap().identity;
        assert_eq!(identity, SpiffeId::control_plane(authority.trust_domain().clone()));
    }

    /// Returns an operator's CA that may certify only these DNS names.
    fn constrained(permitted: &str) -> CertificateIssuer {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(permitted.into())],
            excluded_subtrees: Vec::new(),
        });
        let chain = params.self_signed(&key).unwrap().pem();
        let record =
            AuthorityRecord { trust_domain: "cluster.local".into(), key: key.serialize_pem(), chain };
        CertificateIssuer::from_record(&record, SystemTime::now()).unwrap()
    }

    #[test]
    fn names_that_the_ca_may_not_certify_are_omitted_or_refused_if_they_were_requested() {
        let ca = || authority(constrained("example"));
        let usual = names(&["localhost", "host.example"]);
        let certificate = ServerCertificate::new(ca(), &names(&["control.example"]), &usual).unwrap();
        let all = sans(&certificate);
        assert!(
            all.len() == 3 && all[1].contains("control.example") && all[2].contains("host.example"),
            "{all:?}"
        );
        let refused = ServerCertificate::new(ca(), &names(&["control.other"]), &usual).unwrap_err();
        assert!(refused.to_string().contains("control.other"), "{refused}");
    }
}
