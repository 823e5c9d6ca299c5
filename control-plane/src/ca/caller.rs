//! Identifies the caller of the CA service by what it sent: a token, or the certificate of its connection.
//!
//! On plain Linux a join token gets the first certificate, and each certificate the next one. In a cluster every certificate
//! requires the token of the pod's service account: a certificate that renewed itself would outlive the deletion of its pod or
//! account.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_core::identity::{SpiffeId, TrustDomain};
use outrigger_core::peer::network;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::refusal::Refusal;
use super::token_claims::check_claims;
use super::token_review::{ReviewError, TokenPod, TokenReviewer};
use crate::quota::{KeyedRateLimiter, Rate};
use crate::state::Store;
use crate::state::token::{Grant, RedeemError};

/// Rate of tokens of one address; those that are accepted do not count. Beyond it, its tokens are refused unread, so that it can neither
/// keep the API server busy nor fill the log. As many may be verified at once as requests of one address may wait. A sidecar whose token is refused sends it again every few seconds.
const REFUSED_RATE: Rate = Rate { burst: 256, interval: Duration::from_millis(200) };
/// Rate of certificates for one pod: a proxy that is restarted all the time gets one for each start.
const POD_RATE: Rate = Rate { burst: 20, interval: Duration::from_secs(2) };

/// The address of a sender that has none.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What verifies tokens.
#[derive(Debug, Clone)]
pub(crate) enum TokenVerifier {
    /// Join tokens, in the store of this control plane.
    Join(Store),
    /// Tokens of pods' service accounts, by the API server.
    Kubernetes(TokenReviewer, Arc<PodLimits>),
}

/// The limits of pods.
#[derive(Debug)]
pub(crate) struct PodLimits {
    /// Certificates, by the UID of the pod.
    issued: KeyedRateLimiter<String>,
    /// Refused tokens, by the address of the sender.
    refused: KeyedRateLimiter<IpAddr>,
}

/// The credentials of a request.
#[derive(Debug)]
pub(super) enum Credentials {
    Token(String),
    Certificate(SpiffeId),
}

/// A caller with verified credentials. A join token is not looked up yet, since that blocks.
#[derive(Debug)]
pub(super) enum Caller {
    JoinToken(Store, String),
    Pod(TokenPod),
    Certificate(SpiffeId),
}

/// A valid join token, and the store that has it.
#[derive(Debug)]
pub(super) struct JoinGrant(Store, Grant);

impl TokenVerifier {
    /// Creates a verifier of service account tokens.
    pub(crate) fn kubernetes(client: kube::Client) -> Self {
        let limits = PodLimits {
            issued: KeyedRateLimiter::new(POD_RATE),
            refused: KeyedRateLimiter::new(REFUSED_RATE),
        };
        Self::Kubernetes(TokenReviewer::new(client), Arc::new(limits))
    }

    /// Returns what the limits of a sender apply to. In a cluster it is the address: a /64 is a whole node there.
    pub(super) fn sender(&self, address: IpAddr) -> IpAddr {
        match self {
            Self::Join(_) => network(address),
            Self::Kubernetes(..) => address.to_canonical(),
        }
    }

    /// Refuses what needs no other system: a token that cannot be right, and the tokens of an address that has sent too many of them.
    pub(super) fn precheck(&self, credentials: &Credentials, from: Option<IpAddr>) -> Result<(), Refusal> {
        let (Self::Kubernetes(_, limits), Credentials::Token(token)) = (self, credentials) else {
            return Ok(());
        };
        // Counted before it is verified: many are verified at once.
        match limits.refused.admit(&self.sender(from.unwrap_or(UNKNOWN)), Instant::now()) {
            true => Ok(check_claims(token)?),
            false => Err(Refusal::TooManyOfAddress),
        }
    }

    /// Verifies the credentials of a request from `from`.
    pub(super) async fn verify(
        &self,
        credentials: Credentials,
        from: Option<IpAddr>,
    ) -> Result<Caller, Refusal> {
        match (self, credentials) {
            (Self::Join(store), Credentials::Token(token)) => Ok(Caller::JoinToken(store.clone(), token)),
            (Self::Join(_), Credentials::Certificate(identity)) => Ok(Caller::Certificate(identity)),
            (Self::Kubernetes(reviewer, limits), Credentials::Token(token)) => {
                let from = from.unwrap_or(UNKNOWN);
                limits.caller(self.sender(from), reviewer.review(&token, from).await)
            }
            (Self::Kubernetes(..), Credentials::Certificate(_)) => Err(Refusal::TokenRequired),
        }
    }
}

impl PodLimits {
    /// Returns the caller that a token proves. The token no longer counts if it is accepted, or if the API server is away.
    fn caller(&self, sender: IpAddr, reviewed: Result<TokenPod, ReviewError>) -> Result<Caller, Refusal> {
        let pod = match reviewed {
            Ok(pod) if self.issued.admit(&pod.uid, Instant::now()) => Ok(Caller::Pod(pod)),
            Ok(pod) => return Err(Refusal::TooManyOfPod(format!("{}/{}", pod.namespace, pod.name))),
            Err(error @ ReviewError::Unavailable(_)) => Err(error.into()),
            Err(error) => return Err(error.into()),
        };
        self.refused.refund(&sender);
        pod
    }
}

impl Credentials {
    /// Returns the credentials of a request with this metadata, from `peer`. A token takes precedence over a certificate: it was
    /// sent for this request.
    pub(super) fn of(metadata: &MetadataMap, peer: Result<SpiffeId, Refusal>) -> Result<Self, Refusal> {
        let Some(authorization) = metadata.get("authorization") else {
            return Ok(Self::Certificate(peer?));
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

impl Caller {
    /// Returns the pod of the caller, for logs.
    pub(super) fn pod(&self) -> Option<String> {
        match self {
            Self::Pod(pod) => Some(pod.name.clone()),
            _ => None,
        }
    }

    /// Returns the identity of the caller, and the join token to redeem. Blocks on the disk if it is one.
    pub(super) fn identify(
        self,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<(SpiffeId, Option<JoinGrant>), Refusal> {
        let identity = |namespace: &str, service_account: &str| {
            SpiffeId::new(trust_domain.clone(), namespace, service_account)
                .map_err(|error| Refusal::Identity(error.to_string()))
        };
        let (identity, grant) = match self {
            Self::JoinToken(store, token) => {
                let grant = store.identify_token(&token, now)?;
                (identity(&grant.namespace, &grant.service_account)?, Some(JoinGrant(store, grant)))
            }
            Self::Pod(pod) => (identity(&pod.namespace, &pod.service_account)?, None),
            Self::Certificate(identity) => (identity, None),
        };
        match identity.is_control_plane() {
            true => Err(Refusal::Reserved(identity)),
            false => Ok((identity, grant)),
        }
    }
}

impl JoinGrant {
    /// Binds the token to a public key (the SHA-256 of its SubjectPublicKeyInfo). Blocks on the disk.
    pub(super) fn redeem(&self, key: &[u8; 32], now: SystemTime) -> Result<(), RedeemError> {
        let Self(store, grant) = self;
        store.redeem_token(grant, key, now)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_floods_with_garbage_is_refused_unread_and_others_are_not() {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let verifier = TokenVerifier::kubernetes(kube::Client::try_from(config).unwrap());
        let refusal = |from: &str| {
            let garbage = Credentials::Token("garbage".into());
            verifier.precheck(&garbage, Some(from.parse().unwrap())).unwrap_err().reason()
        };
        // Two pods of one node.
        let (flood, other) = ("fd00:10:244:1::5", "fd00:10:244:1::6");
        for _ in 0..REFUSED_RATE.burst {
            assert_eq!(refusal(flood), "malformed-token");
        }
        assert_eq!((refusal(flood), refusal(other)), ("rate-limit", "malformed-token"));
        tokio::time::advance(REFUSED_RATE.interval).await;
        assert_eq!((refusal(flood), refusal(flood)), ("malformed-token", "rate-limit"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_parallel_flood_of_forged_tokens_is_limited_before_any_of_them_is_refused() {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let verifier = TokenVerifier::kubernetes(kube::Client::try_from(config).unwrap());
        let claims = r#"{"aud": "outrigger.dev", "sub": "system:serviceaccount:shop:cart", "kubernetes.io": {"pod": {}}}"#;
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
        let forged = Credentials::Token(format!("e30.{claims}.c2ln"));
        let left_to_the_api_server = (0..1000).filter(|_| verifier.precheck(&forged, Some(UNKNOWN)).is_ok());
        assert_eq!(left_to_the_api_server.count(), REFUSED_RATE.burst as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn only_refused_tokens_count() {
        let rate = Rate { burst: 1, interval: Duration::from_secs(60) };
        let limits = PodLimits { issued: KeyedRateLimiter::new(rate), refused: KeyedRateLimiter::new(rate) };
        let [namespace, service_account, name, uid] = ["shop", "cart", "cart-1", "u-1"].map(String::from);
        let pod = TokenPod { namespace, service_account, name, uid };
        let admit = || limits.refused.admit(&UNKNOWN, Instant::now());
        for reviewed in [Err(ReviewError::Unavailable("away".into())), Ok(pod.clone())] {
            assert!(admit());
            let _ = limits.caller(UNKNOWN, reviewed);
        }
        for reviewed in [Ok(pod), Err(ReviewError::NotAuthenticated("expired".into()))] {
            assert!(admit() && limits.caller(UNKNOWN, reviewed).is_err() && !admit());
            tokio::time::advance(rate.interval).await;
        }
    }
}
