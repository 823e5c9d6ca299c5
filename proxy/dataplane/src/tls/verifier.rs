//! Verifies a peer by its SPIFFE identity: chain against the roots of its own trust domain, then the identity itself.
//!
//! DNS names and common names of certificates mean nothing here (SPIFFE X.509-SVID sections 2 and 5).

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_core::identity::{SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;

/// Verifies clients and servers alike.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    pub(crate) roots: Arc<BTreeMap<TrustDomain, Arc<RootCertStore>>>,
    pub(crate) peers: Peers,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

/// Whom a verifier lets through, of those that its roots vouch for.
#[derive(Debug)]
pub(crate) enum Peers {
    /// Everybody. Who may do what is decided above.
    Any,
    /// These identities, compared whole.
    These(Arc<[SpiffeId]>),
}

impl PeerVerifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        // Read before it is trusted, to learn which roots may vouch for it; then everything read is proven by the chain.
        let identity = identity(leaf)?;
        let roots = self.roots.get(identity.trust_domain()).ok_or(CertificateError::UnknownIssuer)?;
        EndEntityCert::try_from(leaf)
            .and_then(|leaf| {
                leaf.verify_for_usage(
                    self.algorithms.all,
                    &roots.roots,
                    intermediates,
                    now,
                    usage,
                    None,
                    None,
                )
                .map(drop)
            })
            .map_err(meaning)?;
        match &self.peers {
            Peers::Any => Ok(()),
            Peers::These(allowed) if allowed.contains(&identity) => Ok(()),
            Peers::These(_) => Err(refused(format!("{identity} is not whom this destination may be"))),
        }
    }
}

/// The identity in a certificate: its only URI name (SPIFFE X.509-SVID section 2). Proves nothing by itself.
pub(crate) fn identity(leaf: &CertificateDer<'_>) -> Result<SpiffeId, Error> {
    let (_, certificate) = parse_x509_certificate(leaf).map_err(|_| CertificateError::BadEncoding)?;
    let names = certificate.subject_alternative_name().map_err(|_| CertificateError::BadEncoding)?;
    let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => SpiffeId::parse(uri).map_err(|error| refused(error.to_string())),
        (None, _) => Err(refused("the certificate holds no SPIFFE ID".into())),
        (Some(_), Some(_)) => Err(refused("the certificate holds more than one URI".into())),
    }
}

/// Whether all certificates of a chain are valid at this moment. For resumed sessions, whose chain was verified earlier.
pub(crate) fn is_chain_current(chain: &[CertificateDer<'_>]) -> bool {
    let now = ASN1Time::now();
    chain
        .iter()
        .all(|der| parse_x509_certificate(der).is_ok_and(|(_, found)| found.validity().is_valid_at(now)))
}

fn refused(why: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(std::io::Error::other(why)))))
}

fn meaning(error: webpki::Error) -> Error {
    let meaning = match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(meaning)
}

fn no_tls12() -> Error {
    Error::General("TLS 1.2 is not spoken".into())
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, now, KeyUsage::server_auth())
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Clients of a mesh have one certificate; hints would only tell strangers what we trust.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, now, KeyUsage::client_auth())
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
