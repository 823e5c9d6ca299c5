//! The control plane's own certificate: signed by its own CA, renewed in process before it ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use outrigger_core::identity::IdentityError;
use rcgen::KeyPair;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;

use crate::ca::authority::Authority;
use crate::ca::refusal::Refusal;
use crate::peer::control_plane_identity;

/// How often the wall clock is looked at: it goes on while a machine sleeps, and tokio's does not.
const LOOK: Duration = Duration::from_secs(30);
/// How soon a renewal that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the TLS server shows. Every handshake takes the newest.
#[derive(Debug)]
pub struct ServerCertificate {
    authority: Arc<Authority>,
    current: ArcSwap<Current>,
}

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    renew_at: SystemTime,
}

/// Why there is no certificate for the control plane.
#[derive(Debug, Error)]
pub enum ServerCertificateError {
    /// The trust domain makes no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The CA did not sign.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The key could not be made or used.
    #[error("the key of the control plane: {0}")]
    Key(String),
}

impl ServerCertificate {
    /// Gets the first certificate.
    pub fn new(authority: Arc<Authority>) -> Result<Self, ServerCertificateError> {
        let current = ArcSwap::from_pointee(issue(&authority, SystemTime::now())?);
        Ok(Self { authority, current })
    }

    /// Renews at two thirds of each certificate's life, for as long as it is polled.
    pub async fn keep_fresh(&self) {
        loop {
            let now = SystemTime::now();
            let left = self.current.load().renew_at.duration_since(now).unwrap_or_default();
            if !left.is_zero() {
                tokio::time::sleep(left.min(LOOK)).await;
                continue;
            }
            match issue(&self.authority, now) {
                Ok(renewed) => self.current.store(renewed.into()),
                Err(error) => {
                    tracing::error!(%error, "the control plane's own certificate is not renewed");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

fn issue(authority: &Authority, now: SystemTime) -> Result<Current, ServerCertificateError> {
    let identity = control_plane_identity(authority.trust_domain())?;
    let broken = |error: &dyn std::fmt::Display| ServerCertificateError::Key(error.to_string());
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| broken(&error))?;
    let issued = authority.sign(&key, &identity, None, now)?;
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).map_err(|error| broken(&error))?;
    // Whoever verifies has the root: only what lies between is sent (RFC 8446, section 4.4.2).
    let mut chain = issued.chain;
    chain.pop();
    let life = issued.not_after.duration_since(issued.issued).unwrap_or_default();
    Ok(Current { key: Arc::new(CertifiedKey::new(chain, signer)), renew_at: now + life * 2 / 3 })
}

impl ResolvesServerCert for ServerCertificate {
    /// Whatever name was asked for: proxies verify the SPIFFE ID, never a DNS name.
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().key))
    }
}

#[cfg(test)]
mod tests {
    use outrigger_core::identity::TrustDomain;

    use super::*;
    use crate::ca::issuer::CertificateIssuer;

    #[tokio::test]
    async fn the_certificate_is_renewed_at_two_thirds_of_its_life() {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let now = SystemTime::now();
        let record = CertificateIssuer::make_root(&domain, now).unwrap();
        let issuer = CertificateIssuer::from_record(&record, now).unwrap();
        let authority = Arc::new(Authority::new(domain, issuer, Duration::from_secs(300)));
        let certificate = ServerCertificate::new(authority).unwrap();
        let first = certificate.current.load_full();
        let life = first.renew_at.duration_since(now).unwrap().as_secs();
        assert!((199..=201).contains(&life), "{life} s");
        certificate.current.store(Current { key: Arc::clone(&first.key), renew_at: now }.into());
        futures_util::future::select(Box::pin(certificate.keep_fresh()), Box::pin(tokio::task::yield_now()))
            .await;
        assert!(!Arc::ptr_eq(&certificate.current.load().key, &first.key));
    }
}
