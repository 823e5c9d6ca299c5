use futures_util::FutureExt;
use rcgen::{CertificateParams, KeyPair, SanType};
use tonic::Code;

use super::super::certificate::LeafCertificate;
use super::*;
use crate::state::Store;

struct Ca {
    service: CertificateService,
    store: Store,
    _directory: tempfile::TempDir,
}

impl Ca {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let service = CertificateService::new(
            Authority::for_tests().into(),
            TokenVerifier::Join(store.clone()),
            Metrics::default().into(),
        );
        Self { service, store, _directory: directory }
    }

    fn token(&self, secret: u8, ttl: u64, at: SystemTime) -> String {
        let ttl = Duration::from_secs(ttl);
        self.store.create_token("shop", "cart", ttl, at, [secret; 32]).unwrap()
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

/// Occupies a lane by requests of one address. Returns those that have a permit and those that wait for one.
async fn occupied(lane: &Lane, address: Option<IpAddr>) -> (Vec<AdmissionPermit>, Vec<impl Future + Unpin>) {
    let mut permits = Vec::new();
    for _ in 0..MAX_CONCURRENT {
        permits.push(lane.acquire(address).await.unwrap());
    }
    let waiting = MAX_CONCURRENT..MAX_WAITING_PER_ADDRESS;
    let mut waiting: Vec<_> = waiting.map(|_| Box::pin(async move { lane.acquire(address).await })).collect();
    for permit in &mut waiting {
        assert!(permit.now_or_never().is_none());
    }
    (permits, waiting)
}

#[tokio::test]
async fn members_with_a_certificate_do_not_wait_behind_unknown_clients() {
    let (ca, key) = (Ca::new(), KeyPair::generate().unwrap());
    let _occupied = occupied(&ca.service.admission.anonymous, None).await;
    let crowded = ca.ask(Some("Bearer x"), None, csr(&key, CART)).await.unwrap_err();
    assert_eq!(crowded.code(), Code::ResourceExhausted);
    ca.ask(None, Some(CART), csr(&key, CART)).await.unwrap();
}

#[tokio::test]
async fn one_address_has_a_limited_number_of_requests_in_each_lane() {
    let (ca, key) = (Ca::new(), KeyPair::generate().unwrap());
    let address = |n: u8| Some(IpAddr::from([10, 0, 0, n]));
    let Admission { authenticated, anonymous } = &*ca.service.admission;
    for lane in [authenticated, anonymous] {
        let _occupied = occupied(lane, address(1)).await;
        let crowded = lane.acquire(address(1)).now_or_never().unwrap();
        assert_eq!(crowded.err().unwrap().status().code(), Code::ResourceExhausted);
        assert!(lane.acquire(address(2)).now_or_never().is_none(), "waits, and is not refused");
    }
    let _occupied = occupied(authenticated, None).await;
    let crowded = ca.ask(None, Some(CART), csr(&key, CART)).await.unwrap_err();
    assert_eq!(crowded.code(), Code::ResourceExhausted);
}

/// A CA of a cluster whose API server is away.
fn ca_of_a_cluster() -> Ca {
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let mut ca = Ca::new();
    ca.service.tokens = TokenVerifier::kubernetes(kube::Client::try_from(config).unwrap());
    ca
}

#[tokio::test]
async fn in_a_cluster_a_certificate_does_not_renew_itself() {
    let (ca, key) = (ca_of_a_cluster(), KeyPair::generate().unwrap());
    let refused = ca.ask(None, Some(CART), csr(&key, CART)).await.unwrap_err();
    assert!(
        refused.code() == Code::Unauthenticated
            && refused.message().contains("the token of the pod's service account")
    );
    assert_eq!(ca.service.metrics.certificates_refused("token-required"), 1);
}

#[tokio::test]
async fn while_the_api_server_is_away_a_token_is_to_be_sent_again() {
    let (ca, key) = (ca_of_a_cluster(), KeyPair::generate().unwrap());
    use base64::Engine as _;
    let claims = r#"{"aud": "outrigger.dev", "sub": "system:serviceaccount:shop:cart", "kubernetes.io": {"pod": {"name": "cart-1"}}}"#;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
    let bearer = format!("Bearer e30.{claims}.c2ln");
    let refused = ca.ask(Some(&bearer), None, csr(&key, CART)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let text = "the service account token cannot be verified now: the API server cannot be reached";
    assert!(refused.message().starts_with(text), "{refused}");
    assert_eq!(ca.service.metrics.certificates_refused("api-server"), 1);
}
