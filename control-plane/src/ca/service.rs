//! `istio.v1.auth.IstioCertificateService`: the RPC by which workloads get and renew certificates.
//!
//! A workload authenticates with a join token first, then with its current certificate. Every refusal is logged with the
//! caller's address, counted by reason, and returned with a text.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_core::identity::SpiffeId;
use outrigger_proto::istio_auth::istio_certificate_service_server::IstioCertificateService;
use outrigger_proto::istio_auth::{IstioCertificateRequest, IstioCertificateResponse};
use rustls_pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::authority::{Authority, IssuedCertificate};
use super::refusal::Refusal;
use super::request::SigningRequest;
use crate::fair_slots::peer_network;
use crate::metrics::Metrics;
use crate::peer::{ExpiredPeer, PeerAddress, PeerIdentity};
use crate::quota::{KeyedRateLimiter, Rate, Slot, Slots};
use crate::state::Store;
use crate::state::token::Grant;

/// Rate of certificates for one identity: enough for hundreds of instances that start together, and for their renewals.
const CERTIFICATE_RATE: Rate = Rate { burst: 500, interval: Duration::from_millis(50) };
/// Maximum number of concurrent requests with a certificate, and of those without. Others wait; authenticated callers
/// never wait for anonymous ones.
const MAX_CONCURRENT: usize = 16;
/// Maximum number of requests without a certificate of one network that may wait: enough for hundreds of instances that
/// start together.
const MAX_WAITING_PER_ADDRESS: usize = 256;

/// The CA service.
#[derive(Debug, Clone)]
pub(crate) struct CertificateService {
    authority: Arc<Authority>,
    store: Store,
    metrics: Arc<Metrics>,
    /// By proven identity, so that anonymous callers cannot exhaust the rate of an identity.
    rate_limits: Arc<KeyedRateLimiter<SpiffeId>>,
    admission: Arc<Admission>,
}

#[derive(Debug)]
struct Admission {
    authenticated: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
    waiting_per_address: Slots<Option<IpAddr>>,
}

/// Held while a request is processed, even if its caller has disconnected.
struct AdmissionPermit {
    _permit: Option<OwnedSemaphorePermit>,
    _slot: Option<Slot<Option<IpAddr>>>,
}

impl CertificateService {
    /// Creates a service that signs with `authority` and looks tokens up in `store`.
    pub(crate) fn new(authority: Arc<Authority>, store: Store, metrics: Arc<Metrics>) -> Self {
        let semaphore = || Arc::new(Semaphore::new(MAX_CONCURRENT));
        let waiting_per_address = Slots::new(MAX_WAITING_PER_ADDRESS);
        let admission =
            Arc::new(Admission { authenticated: semaphore(), anonymous: semaphore(), waiting_per_address });
        Self {
            authority,
            store,
            metrics,
            rate_limits: Arc::new(KeyedRateLimiter::new(CERTIFICATE_RATE)),
            admission,
        }
    }

    /// Processes one request. Blocks on the disk if a token is used.
    fn issue(
        &self,
        credentials: Result<Credentials, Refusal>,
        request: &IstioCertificateRequest,
        now: SystemTime,
    ) -> Result<(SpiffeId, IssuedCertificate), Refusal> {
        let seconds = u64::try_from(request.validity_duration).map_err(|_| Refusal::Validity)?;
        let requested = (seconds > 0).then(|| Duration::from_secs(seconds));
        // Credentials are checked before the CSR, so that anonymous callers cost no signature verification.
        let (identity, grant) = self.identify(credentials?, now)?;
        if !self.rate_limits.admit(&identity, Instant::now()) {
            return Err(Refusal::TooMany(identity));
        }
        let csr = SigningRequest::read(&request.csr)?;
        csr.check_names(&identity)?;
        // After all checks and before signing: a refused CSR does not consume the token, and the token is bound to the
        // key before a certificate is sent.
        if let Some(grant) = grant {
            self.store.redeem_token(&grant, &csr.fingerprint, now)?;
        }
        let issued = self.authority.sign(&csr.key, &identity, requested, now)?;
        Ok((identity, issued))
    }

    /// Returns the identity that the credentials prove. A token takes precedence over a certificate: it was sent for this
    /// request.
    fn identify(
        &self,
        credentials: Credentials,
        now: SystemTime,
    ) -> Result<(SpiffeId, Option<Grant>), Refusal> {
        let (identity, grant) = match credentials {
            Credentials::Token(token) => {
                let grant = self.store.identify_token(&token, now)?;
                let domain = self.authority.trust_domain().clone();
                let identity = SpiffeId::new(domain, &grant.namespace, &grant.service_account)
                    .map_err(|error| Refusal::Identity(error.to_string()))?;
                (identity, Some(grant))
            }
            Credentials::Certificate(identity) => (identity, None),
        };
        match identity.is_control_plane() {
            true => Err(Refusal::Reserved(identity)),
            false => Ok((identity, grant)),
        }
    }

    fn refused(&self, refusal: &Refusal, from: &str) -> Status {
        let reason = refusal.reason();
        self.metrics.certificate_refused(reason);
        tracing::warn!(reason, from, error = %refusal, "certificate refused");
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
            (Some(PeerIdentity { identity, not_after: _ }), _) => Ok(identity),
            (None, Some(ExpiredPeer(_))) => Err(Refusal::CertificateExpired),
            (None, None) => Err(Refusal::NoCredentials),
        };
        let address = request.extensions().get().map(|PeerAddress(address)| peer_network(address.ip()));
        let anonymous_peer = peer.is_err().then_some(address);
        let credentials = Credentials::of(request.metadata(), peer);
        let request = request.into_inner();
        let permit =
            self.admission.acquire(anonymous_peer).await.map_err(|refusal| self.refused(&refusal, &from))?;
        let service = self.clone();
        let issue = move || {
            let _turn = permit;
            service.issue(credentials, &request, SystemTime::now())
        };
        let issued = tokio::task::spawn_blocking(issue)
            .await
            .unwrap_or_else(|error| Err(Refusal::Signing(error.to_string())));
        let (identity, issued) = issued.map_err(|refusal| self.refused(&refusal, &from))?;
        self.metrics.certificate_issued();
        tracing::info!(%identity, from, "certificate issued");
        Ok(Response::new(IstioCertificateResponse { cert_chain: issued.chain.iter().map(pem).collect() }))
    }
}

impl Admission {
    /// Waits for a permit. `anonymous_peer` is the network of a caller without a certificate.
    async fn acquire(&self, anonymous_peer: Option<Option<IpAddr>>) -> Result<AdmissionPermit, Refusal> {
        let (lane, slot) = match anonymous_peer {
            None => (&self.authenticated, None),
            Some(address) => {
                let slot = self.waiting_per_address.acquire(&address).ok_or(Refusal::Crowded)?;
                (&self.anonymous, Some(slot))
            }
        };
        // Never closed.
        let permit = Arc::clone(lane).acquire_owned().await.ok();
        Ok(AdmissionPermit { _permit: permit, _slot: slot })
    }
}

/// The credentials of a caller.
enum Credentials {
    Token(String),
    Certificate(SpiffeId),
}

impl Credentials {
    fn of(metadata: &MetadataMap, peer: Result<&SpiffeId, Refusal>) -> Result<Self, Refusal> {
        let Some(authorization) = metadata.get("authorization") else {
            return Ok(Self::Certificate(peer?.clone()));
        };
        // RFC 9110, section 11.1: the scheme is compared without regard to case.
        let text = authorization.to_str().map_err(|_| Refusal::Authorization)?;
        match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                Ok(Self::Token(token.trim().into()))
            }
            _ => Err(Refusal::Authorization),
        }
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
mod tests {
    use futures_util::FutureExt;
    use outrigger_core::identity::TrustDomain;
    use rcgen::{CertificateParams, KeyPair, SanType};
    use tonic::Code;

    use super::super::certificate::LeafCertificate;
    use super::super::issuer::CertificateIssuer;
    use super::*;

    struct Ca {
        service: CertificateService,
        _directory: tempfile::TempDir,
    }

    impl Ca {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(directory.path()).unwrap();
            let domain = TrustDomain::parse("cluster.local").unwrap();
            let record = CertificateIssuer::make_root(&domain, SystemTime::now()).unwrap();
            let issuer = CertificateIssuer::from_record(&record, SystemTime::now()).unwrap();
            let authority = Authority::new(domain, issuer, Duration::from_secs(3600));
            let service = CertificateService::new(authority.into(), store, Metrics::default().into());
            Self { service, _directory: directory }
        }

        fn token(&self, secret: u8, ttl: u64, at: SystemTime) -> String {
            let ttl = Duration::from_secs(ttl);
            self.service.store.create_token("shop", "cart", ttl, at, [secret; 32]).unwrap()
        }

        async fn ask(
            &self,
            authorization: Option<&str>,
            peer: Option<&str>,
            csr: String,
        ) -> Result<LeafCertificate, Status> {
            let mut request = Request::new(IstioCertificateRequest { csr, ..Default::default() });
            if let Some(authorization) = authorization {
                request.metadata_mut().insert("authorization", authorization.parse().unwrap());
            }
            if let Some(peer) = peer {
                let not_after = SystemTime::now() + Duration::from_secs(60);
                let peer = PeerIdentity { identity: SpiffeId::parse(peer).unwrap(), not_after };
                request.extensions_mut().insert(peer);
            }
            let answer = self.service.create_certificate(request).await?.into_inner();
            use rustls_pki_types::pem::PemObject;
            let chain: Vec<_> = answer
                .cert_chain
                .iter()
                .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
                .collect();
            assert_eq!(chain.last(), self.service.authority.roots().values().next().unwrap().last());
            Ok(LeafCertificate::read(&chain[0]).unwrap())
        }
    }

    const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
    const CONTROL_PLANE: &str = "spiffe://cluster.local/ns/outrigger-system/sa/control-plane";

    fn csr(key: &KeyPair, name: &str) -> String {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())];
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    #[tokio::test]
    async fn a_token_and_then_the_certificate_give_the_same_identity() {
        let (ca, key) = (Ca::new(), KeyPair::generate().unwrap());
        let bearer = format!("Bearer {}", ca.token(1, 600, SystemTime::now()));
        let first = ca.ask(Some(&bearer), None, csr(&key, CART)).await.unwrap();
        let again = ca.ask(Some(&bearer), None, csr(&key, CART)).await.unwrap();
        let new_key = KeyPair::generate().unwrap();
        let renewed = ca.ask(None, Some(CART), csr(&new_key, CART)).await.unwrap();
        for leaf in [first, again, renewed] {
            assert_eq!(leaf.identity.as_str(), CART);
        }
        assert_eq!(ca.service.metrics.certificates_issued(), 3);
    }

    #[tokio::test]
    async fn every_refusal_has_its_status_its_reason_and_its_count() {
        let (ca, key) = (Ca::new(), KeyPair::generate().unwrap());
        let now = SystemTime::now();
        let used = format!("Bearer {}", ca.token(1, 600, now));
        ca.ask(Some(&used), None, csr(&key, CART)).await.unwrap();
        let expired = format!("Bearer {}", ca.token(2, 600, now - Duration::from_secs(700)));
        let fresh = format!("Bearer {}", ca.token(3, 600, now));
        let foreign = format!("Bearer {}", Ca::new().token(4, 600, now));
        let other_key = KeyPair::generate().unwrap();
        let somebody = "spiffe://cluster.local/ns/shop/sa/payments";
        let good = csr(&other_key, CART);
        for (authorization, peer, csr, code, reason) in [
            (None, None, good.clone(), Code::Unauthenticated, "no-credentials"),
            (Some("Basic x"), Some(CART), good.clone(), Code::Unauthenticated, "malformed-authorization"),
            (Some("Bearer x"), Some(CART), good.clone(), Code::Unauthenticated, "malformed-token"),
            (Some(&*foreign), None, good.clone(), Code::Unauthenticated, "foreign-token"),
            (Some(&*expired), None, good.clone(), Code::Unauthenticated, "expired-token"),
            (Some(&*used), None, good.clone(), Code::PermissionDenied, "used-token"),
            (Some(&*fresh), None, csr(&other_key, somebody), Code::PermissionDenied, "foreign-name"),
            (None, Some(somebody), good.clone(), Code::PermissionDenied, "foreign-name"),
            (Some(&*fresh), None, "no CSR".into(), Code::InvalidArgument, "malformed-csr"),
            (None, Some(CONTROL_PLANE), good.clone(), Code::PermissionDenied, "reserved-identity"),
        ] {
            let refused = ca.ask(authorization, peer, csr).await.unwrap_err();
            assert_eq!(refused.code(), code, "{reason}: {refused}");
            assert!(ca.service.metrics.certificates_refused(reason) > 0, "{reason}: {refused}");
        }
        let mut late = Request::new(IstioCertificateRequest { csr: good.clone(), ..Default::default() });
        late.extensions_mut().insert(ExpiredPeer(SpiffeId::parse(CART).unwrap()));
        let refused = ca.service.create_certificate(late).await.unwrap_err();
        assert!(refused.code() == Code::Unauthenticated && refused.message().contains("new join token"));
        // None of the refusals consumed the token.
        ca.ask(Some(&fresh), None, good).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_identity_that_requests_too_fast_is_limited_alone() {
        let (ca, good) = (Ca::new(), csr(&KeyPair::generate().unwrap(), CART));
        let meter = || ca.service.rate_limits.admit(&SpiffeId::parse(CART).unwrap(), Instant::now());
        while meter() {}
        let refused = ca.ask(None, Some(CART), good.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert_eq!(ca.service.metrics.certificates_refused("rate-limit"), 1);
        let payments = "spiffe://cluster.local/ns/shop/sa/payments";
        ca.ask(None, Some(payments), csr(&KeyPair::generate().unwrap(), payments)).await.unwrap();
        tokio::time::advance(CERTIFICATE_RATE.interval).await;
        ca.ask(None, Some(CART), good).await.unwrap();
    }

    #[tokio::test]
    async fn members_with_a_certificate_do_not_wait_behind_unknown_clients() {
        let (ca, key) = (Ca::new(), KeyPair::generate().unwrap());
        let address = |n: u8| Some(Some(IpAddr::from([10, 0, 0, n])));
        let admission = &ca.service.admission;
        let mut permits = Vec::new();
        for _ in 0..MAX_CONCURRENT {
            permits.push(admission.acquire(address(1)).await.unwrap());
        }
        let mut waiting: Vec<_> = (MAX_CONCURRENT..MAX_WAITING_PER_ADDRESS)
            .map(|_| Box::pin(admission.acquire(address(1))))
            .collect();
        for permit in &mut waiting {
            assert!(permit.now_or_never().is_none());
        }
        let crowded = admission.acquire(address(1)).now_or_never().unwrap();
        assert_eq!(crowded.err().unwrap().status().code(), Code::ResourceExhausted);
        assert!(admission.acquire(address(2)).now_or_never().is_none(), "waits, and is not refused");
        ca.ask(None, Some(CART), csr(&key, CART)).await.unwrap();
    }
}
