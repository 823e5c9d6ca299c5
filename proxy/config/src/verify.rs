//! Verification of peers: the chain against the roots of the peer's own trust domain, and the exact SPIFFE ID.
//!
//! This is the only place where peer certificates are verified. It serves both sides of mutual TLS and connections to the
//! control plane. DNS names are ignored.

use std::sync::Arc;

use outrigger_core::identity::{IdentityError, SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage};

use crate::secrets::Roots;

/// Verifies peers, as a TLS server or client.
#[derive(Debug, Clone)]
pub struct PeerVerifier {
    roots: Arc<Roots>,
    peers: Option<Arc<[SpiffeId]>>,
    required: bool,
}

impl PeerVerifier {
    /// Creates a verifier that accepts certificates of known trust domains; with `peers`, only those identities.
    pub fn new(roots: Arc<Roots>, peers: Option<Arc<[SpiffeId]>>) -> Self {
        Self { roots, peers, required: true }
    }

    /// As a server, also accepts clients without a certificate.
    #[must_use]
    pub fn optional(self) -> Self {
        Self { required: false, ..self }
    }

    /// Returns the peer's identity if its chain is valid for `usage` at `now` against the roots of the trust domain that
    /// its leaf names, and it is one of the expected peers.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<SpiffeId, VerifyError> {
        let id = peer_identity(leaf)?;
        let roots = (self.roots.by_domain.get(id.trust_domain()))
            .ok_or_else(|| VerifyError::UnknownTrustDomain(id.trust_domain().clone()))?;
        let chain = |reason: webpki::Error| VerifyError::Chain {
            id: id.clone(),
            outside_validity: matches!(
                reason,
                webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }
            ),
            reason: reason.to_string(),
        };
        let end_entity = EndEntityCert::try_from(leaf).map_err(chain)?;
        end_entity
            .verify_for_usage(algorithms().all, &roots.roots, intermediates, now, usage, None, None)
            .map_err(chain)?;
        match &self.peers {
            Some(peers) if !peers.contains(&id) => {
                let expected: Vec<_> = peers.iter().map(SpiffeId::as_str).collect();
                let expected = if expected.is_empty() { "no identity".into() } else { expected.join(" or ") };
                Err(VerifyError::WrongPeer { found: id, expected })
            }
            _ => Ok(id),
        }
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

/// Maps to the rustls error that determines the alert sent to the peer and the logged message.
fn refused(error: VerifyError) -> rustls::Error {
    rustls::Error::InvalidCertificate(match error {
        VerifyError::Malformed => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}

/// Returns why a [`PeerVerifier`] rejected the peer, if that is the cause of a failed handshake.
pub fn rejection(error: &std::io::Error) -> Option<&VerifyError> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

/// The handshake signature methods that both of rustls' verifier traits require. Mesh connections are TLS 1.3 only; a
/// configuration that negotiates an older version is a bug.
macro_rules! tls13_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("TLS 1.2 is not spoken in the mesh".into()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, certificate, signature, &algorithms())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            algorithms().supported_schemes()
        }
    };
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, KeyUsage::server_auth(), now).map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    tls13_signatures!();
}

impl ClientCertVerifier for PeerVerifier {
    /// Returns no hints: the names of the roots would reveal the trust domains to unauthenticated clients.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, KeyUsage::client_auth(), now).map_err(refused)?;
        Ok(ClientCertVerified::assertion())
    }

    tls13_signatures!();
}

/// Returns the identity in a certificate: its only URI subject alternative name.
///
/// Does not verify the certificate: call it only on one that a [`PeerVerifier`] accepted.
pub fn peer_identity(certificate: &CertificateDer<'_>) -> Result<SpiffeId, VerifyError> {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| VerifyError::Malformed)?;
    let names = parsed.subject_alternative_name().map_err(|_| VerifyError::Malformed)?;
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    let mut uris = names.filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    // SPIFFE X.509-SVID, section 2: exactly one URI.
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(SpiffeId::parse(uri)?),
        (None, _) => Err(VerifyError::NoIdentity),
        (Some(_), Some(_)) => Err(VerifyError::SeveralIdentities),
    }
}

/// Why a peer was rejected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// The certificate cannot be parsed.
    #[error("the certificate is malformed")]
    Malformed,
    /// It has no URI name.
    #[error("the certificate has no SPIFFE ID")]
    NoIdentity,
    /// It has several URI names.
    #[error("the certificate has several URI names")]
    SeveralIdentities,
    /// Its URI name is not a valid SPIFFE ID.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There are no roots for its trust domain.
    #[error("no roots are known for trust domain {0}")]
    UnknownTrustDomain(TrustDomain),
    /// Its chain does not lead to a root of its trust domain, or is not valid at this time.
    #[error("the chain of {id} is not valid: {reason}")]
    Chain {
        /// The peer's identity.
        id: SpiffeId,
        /// Why the chain is not valid.
        reason: String,
        /// Whether the time is outside the validity of a certificate.
        outside_validity: bool,
    },
    /// It is not one of the expected peers.
    #[error("the peer is {found}, expected {expected}")]
    WrongPeer {
        /// The peer's identity.
        found: SpiffeId,
        /// The expected identities.
        expected: String,
    },
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
    use rustls::RootCertStore;

    use super::*;

    struct Ca(CertifiedIssuer<'static, KeyPair>);

    impl Ca {
        fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        fn leaf(&self, uris: &[&str]) -> CertificateDer<'static> {
            let mut params = CertificateParams::default();
            params.subject_alt_names =
                uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
            let certificate = params.signed_by(&KeyPair::generate().unwrap(), &self.0).unwrap();
            certificate.der().clone()
        }
    }

    fn roots(domains: &[(&str, &Ca)]) -> Arc<Roots> {
        let by_domain = domains.iter().map(|(domain, ca)| {
            let mut store = RootCertStore::empty();
            store.add(ca.0.der().clone()).unwrap();
            (TrustDomain::parse(domain).unwrap(), Arc::new(store))
        });
        Arc::new(Roots { generation: 1, by_domain: by_domain.collect() })
    }

    fn verify(verifier: &PeerVerifier, leaf: &CertificateDer<'_>) -> Result<SpiffeId, VerifyError> {
        verifier.verify(leaf, &[], KeyUsage::server_auth(), UnixTime::now())
    }

    const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

    #[test]
    fn a_peer_of_a_known_domain_is_verified_and_identified() {
        let ca = Ca::new();
        let verifier = PeerVerifier::new(roots(&[("cluster.local", &ca)]), None);
        assert_eq!(verify(&verifier, &ca.leaf(&[CART])).unwrap().as_str(), CART);
    }

    #[test]
    fn the_identity_must_be_one_of_those_expected_exactly() {
        let ca = Ca::new();
        let cart: Arc<[_]> = Arc::new([SpiffeId::parse(CART).unwrap()]);
        let verifier = PeerVerifier::new(roots(&[("cluster.local", &ca)]), Some(cart));
        assert!(verify(&verifier, &ca.leaf(&[CART])).is_ok());
        let near = ca.leaf(&["spiffe://cluster.local/ns/shop/sa/cart2"]);
        assert!(matches!(verify(&verifier, &near), Err(VerifyError::WrongPeer { .. })));
        let nobody = PeerVerifier::new(roots(&[("cluster.local", &ca)]), Some(Arc::new([])));
        assert!(matches!(verify(&nobody, &ca.leaf(&[CART])), Err(VerifyError::WrongPeer { .. })));
    }

    #[test]
    fn roots_verify_their_own_trust_domain_only() {
        let (here, there) = (Ca::new(), Ca::new());
        let verifier = PeerVerifier::new(roots(&[("cluster.local", &here), ("other", &there)]), None);
        assert!(verify(&verifier, &there.leaf(&["spiffe://other/ns/a/sa/b"])).is_ok());
        let posing = there.leaf(&[CART]);
        assert!(matches!(verify(&verifier, &posing), Err(VerifyError::Chain { .. })));
        let unknown = here.leaf(&["spiffe://nowhere/ns/a/sa/b"]);
        assert!(matches!(verify(&verifier, &unknown), Err(VerifyError::UnknownTrustDomain(_))));
    }

    #[test]
    fn a_certificate_must_have_exactly_one_spiffe_id() {
        let ca = Ca::new();
        let verifier = PeerVerifier::new(roots(&[("cluster.local", &ca)]), None);
        assert_eq!(verify(&verifier, &ca.leaf(&[])), Err(VerifyError::NoIdentity));
        let two = ca.leaf(&[CART, "spiffe://cluster.local/ns/shop/sa/web"]);
        assert_eq!(verify(&verifier, &two), Err(VerifyError::SeveralIdentities));
        assert!(matches!(verify(&verifier, &ca.leaf(&["https://cart"])), Err(VerifyError::Identity(_))));
        assert_eq!(verify(&verifier, &CertificateDer::from(vec![1, 2])), Err(VerifyError::Malformed));
    }

    #[test]
    fn an_expired_certificate_is_refused() {
        let ca = Ca::new();
        let verifier = PeerVerifier::new(roots(&[("cluster.local", &ca)]), None);
        let late = UnixTime::since_unix_epoch(Duration::from_secs(1 << 40));
        let refused = verifier.verify(&ca.leaf(&[CART]), &[], KeyUsage::client_auth(), late);
        assert!(matches!(refused, Err(VerifyError::Chain { .. })), "{refused:?}");
    }
}
