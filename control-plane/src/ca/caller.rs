//! Identifies the caller of the CA service by what it sent: a token, or the certificate of its connection.
//!
//! On plain Linux a join token gets the first certificate, and each certificate the next one. In a cluster every certificate
//! requires the token of the pod's service account: a certificate that renewed itself would outlive the deletion of its pod or
//! account.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_core::identity::{SpiffeId, TrustDomain};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::refusal::Refusal;
use super::token_review::{TokenPod, TokenReviewer};
use crate::quota::{KeyedRateLimiter, Rate};
use crate::state::Store;
use crate::state::token::{Grant, RedeemError};

/// Rate of certificates for one pod: a proxy that is restarted all the time gets one for each start.
const POD_RATE: Rate = Rate { burst: 20, interval: Duration::from_secs(2) };

/// What verifies tokens.
#[derive(Debug, Clone)]
pub(crate) enum TokenVerifier {
    /// Join tokens, in the store of this control plane.
    Join(Store),
    /// Tokens of pods' service accounts, by the API server. The rate is limited by the UID of the pod.
    Kubernetes(TokenReviewer, Arc<KeyedRateLimiter<String>>),
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
        Self::Kubernetes(TokenReviewer::new(client), Arc::new(KeyedRateLimiter::new(POD_RATE)))
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
            (Self::Kubernetes(reviewer, rates), Credentials::Token(token)) => {
                let from = from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                let pod = reviewer.review(&token, from).await?;
                match rates.admit(&pod.uid, Instant::now()) {
                    true => Ok(Caller::Pod(pod)),
                    false => Err(Refusal::TooManyOfPod(format!("{}/{}", pod.namespace, pod.name))),
                }
            }
            (Self::Kubernetes(..), Credentials::Certificate(_)) => Err(Refusal::TokenRequired),
        }
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
