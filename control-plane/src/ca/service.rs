//! `istio.v1.auth.IstioCertificateService`: the RPC by which workloads get and renew certificates.
//!
//! [`super::caller`] identifies the caller. Every refusal is counted by reason and returned with a text; it is logged with the caller's
//! address, unless it is one of a flood.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_core::identity::SpiffeId;
use outrigger_proto::istio_auth::istio_certificate_service_server::IstioCertificateService;
use outrigger_proto::istio_auth::{IstioCertificateRequest, IstioCertificateResponse};
use rustls_pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::authority::{Authority, IssuedCertificate};
use super::caller::{Caller, Credentials, TokenVerifier};
use super::refusal::Refusal;
use super::request::SigningRequest;
use crate::metrics::Metrics;
use crate::peer::{ExpiredPeer, PeerAddress, PeerIdentity};
use crate::quota::{KeyedRateLimiter, Rate, Slot, Slots};

/// Rate of certificates for one identity: enough for hundreds of instances that start together, and for their renewals.
const CERTIFICATE_RATE: Rate = Rate { burst: 500, interval: Duration::from_millis(50) };
/// Maximum number of concurrent requests with a certificate, and of those without. Others wait; authenticated callers
/// never wait for anonymous ones.
const MAX_CONCURRENT: usize = 16;
/// Maximum number of concurrent and waiting requests of one sender in each lane: enough for hundreds of instances that start
/// together.
const MAX_WAITING_PER_ADDRESS: usize = 256;

/// The CA service.
#[derive(Debug, Clone)]
pub(crate) struct CertificateService {
    authority: Arc<Authority>,
    tokens: TokenVerifier,
    metrics: Arc<Metrics>,
    /// By proven identity, so that anonymous callers cannot exhaust the rate of an identity.
    rate_limits: Arc<KeyedRateLimiter<SpiffeId>>,
    admission: Arc<Admission>,
}

/// Requests with a certificate have a lane of their own.
#[derive(Debug)]
struct Admission {
    authenticated: Lane,
    anonymous: Lane,
}

#[derive(Debug)]
struct Lane {
    concurrent: Arc<Semaphore>,
    waiting_per_address: Slots<Option<IpAddr>>,
}

/// Held while a request is processed, even if its caller has disconnected.
struct AdmissionPermit {
    _permit: Option<OwnedSemaphorePermit>,
    _slot: Slot<Option<IpAddr>>,
}

impl CertificateService {
    /// Creates a service that signs with `authority` for callers that `tokens` or their certificate identifies.
    pub(crate) fn new(authority: Arc<Authority>, tokens: TokenVerifier, metrics: Arc<Metrics>) -> Self {
        let admission = Arc::new(Admission { authenticated: Lane::new(), anonymous: Lane::new() });
        Self {
            authority,
            tokens,
            metrics,
            rate_limits: Arc::new(KeyedRateLimiter::new(CERTIFICATE_RATE)),
            admission,
        }
    }

    /// Issues a certificate to a caller. Blocks on the disk if a join token is used.
    fn issue(
        &self,
        caller: Caller,
        request: &IstioCertificateRequest,
        now: SystemTime,
    ) -> Result<(SpiffeId, IssuedCertificate), Refusal> {
        let seconds = u64::try_from(request.validity_duration).map_err(|_| Refusal::Validity)?;
        let requested = (seconds > 0).then(|| Duration::from_secs(seconds));
        // The caller is identified before the CSR is read, so that anonymous callers cost no signature verification.
        let (identity, grant) = caller.identify(self.authority.trust_domain(), now)?;
        if !self.rate_limits.admit(&identity, Instant::now()) {
            return Err(Refusal::TooMany(identity));
        }
        let csr = SigningRequest::read(&request.csr)?;
        csr.check_names(&identity)?;
        // After all checks and before signing: a refused CSR does not consume the token, and the token is bound to the
        // key before a certificate is sent.
        if let Some(grant) = grant {
            grant.redeem(&csr.fingerprint, now)?;
        }
        let issued = self.authority.sign(&csr.key, &identity, requested, now)?;
        Ok((identity, issued))
    }

    fn refused(&self, refusal: &Refusal, from: &str) -> Status {
        let reason = refusal.reason();
        self.metrics.certificate_refused(reason);
        match refusal {
            // A flood must not fill the log. The refusals before are in it.
            Refusal::TooManyOfAddress => {
                tracing::debug!(reason, from, error = %refusal, "certificate refused");
            }
            _ => tracing::warn!(reason, from, error = %refusal, "certificate refused"),
        }
        refusal.status()
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let from = request.extensions().get().map_or("?".into(), |PeerAddress(address)| address.to_string());
        let peer = match (request.extensions().get::<PeerIdentity>(), request.extensions().get()) {
            (Some(PeerIdentity { identity, not_after: _ }), _) => Ok(identity.clone()),
            (None, Some(ExpiredPeer(_))) => Err(Refusal::CertificateExpired),
            (None, None) => Err(Refusal::NoCredentials),
        };
        let address = request.extensions().get().map(|PeerAddress(address)| address.ip());
        let lane = match peer {
            Ok(_) => &self.admission.authenticated,
            Err(_) => &self.admission.anonymous,
        };
        let credentials = Credentials::of(request.metadata(), peer);
        let request = request.into_inner();
        let refused = |refusal| self.refused(&refusal, &from);
        let credentials = credentials.map_err(refused)?;
        self.tokens.precheck(&credentials, address).map_err(refused)?;
        let permit =
            lane.acquire(address.map(|address| self.tokens.sender(address))).await.map_err(refused)?;
        let caller = self.tokens.verify(credentials, address).await.map_err(refused)?;
        let pod = caller.pod();
        let service = self.clone();
        let issue = move || {
            let _turn = permit;
            service.issue(caller, &request, SystemTime::now())
        };
        let issued = tokio::task::spawn_blocking(issue)
            .await
            .unwrap_or_else(|error| Err(Refusal::Signing(error.to_string())));
        let (identity, issued) = issued.map_err(refused)?;
        self.metrics.certificate_issued();
        tracing::info!(%identity, pod, from, "certificate issued");
        Ok(Response::new(IstioCertificateResponse { cert_chain: issued.chain.iter().map(pem).collect() }))
    }
}

impl Lane {
    fn new() -> Self {
        Self {
            concurrent: Arc::new(Semaphore::new(MAX_CONCURRENT)),
            waiting_per_address: Slots::new(MAX_WAITING_PER_ADDRESS),
        }
    }

    /// Waits for a permit, for a request of this sender.
    async fn acquire(&self, sender: Option<IpAddr>) -> Result<AdmissionPermit, Refusal> {
        let slot = self.waiting_per_address.acquire(&sender).ok_or(Refusal::Crowded)?;
        // Never closed.
        let permit = Arc::clone(&self.concurrent).acquire_owned().await.ok();
        Ok(AdmissionPermit { _permit: permit, _slot: slot })
    }
}

/// Returns a certificate as PEM, with lines of 64 characters (RFC 7468, section 2).
pub(crate) fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|&byte| char::from(byte)));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests;
