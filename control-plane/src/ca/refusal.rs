//! The errors of the CA: gRPC status, reason in logs and metrics, and text.

use outrigger_core::identity::SpiffeId;
use thiserror::Error;
use tonic::{Code, Status};

use super::token_review::ReviewError;
use crate::state::StateError;
use crate::state::token::{RedeemError, TokenRefusal};

/// Why a certificate is refused.
#[derive(Debug, Error)]
pub enum Refusal {
    /// No token and no certificate.
    #[error("no credentials: send a join token (authorization: Bearer) or use a client certificate")]
    NoCredentials,
    /// The `authorization` metadata is not a bearer token.
    #[error("the authorization metadata is not of the form `Bearer <token>`")]
    Authorization,
    /// The token is not valid.
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    /// The token of a pod is not valid, or cannot be verified.
    #[error(transparent)]
    Review(#[from] ReviewError),
    /// A certificate alone, where a token can be verified at each renewal.
    #[error("a certificate is not renewed without the token of the pod's service account")]
    TokenRequired,
    /// The client certificate expired on a connection that was opened before.
    #[error("the client certificate has expired: a new join token is needed")]
    CertificateExpired,
    /// The rate of the pod is exceeded.
    #[error("too many certificate requests of pod {0}: retry later")]
    TooManyOfPod(String),
    /// The token's namespace or account does not form a SPIFFE ID.
    #[error("the identity makes no SPIFFE ID: {0}")]
    Identity(String),
    /// The control plane's own identity, which is never issued to a caller: proxies trust it.
    #[error("{0} is the control plane's own identity")]
    Reserved(SpiffeId),
    /// Not a PEM CSR.
    #[error("the CSR cannot be read: {0}")]
    Malformed(String),
    /// The CSR was not signed by the key in it.
    #[error("the signature of the CSR is not that of its key")]
    Signature,
    /// The key is weak or of an unsupported type.
    #[error("the key of the CSR is not accepted: {0}")]
    WeakKey(String),
    /// The CSR has a name that is not the caller's.
    #[error("the CSR names {name}, and its sender is {identity}")]
    ForeignName {
        /// The name in the CSR.
        name: String,
        /// The identity of the caller.
        identity: SpiffeId,
    },
    /// The rate of the identity is exceeded.
    #[error("too many certificate requests for {0}: retry later")]
    TooMany(SpiffeId),
    /// The rate of refused tokens of the address is exceeded.
    #[error("too many refused tokens from this address: retry later")]
    TooManyOfAddress,
    /// Too many requests of the address wait.
    #[error("too many certificate requests from this address: retry later")]
    Crowded,
    /// A negative lifetime.
    #[error("the validity duration is negative")]
    Validity,
    /// The CA has not been read yet, or its root is not distributed yet.
    #[error("the CA does not sign yet")]
    NoIssuer,
    /// The CA's certificate has expired.
    #[error("the CA's own certificate has expired")]
    IssuerExpired,
    /// The signing failed.
    #[error("signing failed: {0}")]
    Signing(String),
    /// The store failed.
    #[error("the state cannot be read or written: {0}")]
    State(#[from] StateError),
}

impl Refusal {
    /// Returns the reason in metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredentials => "no-credentials",
            Self::Authorization => "malformed-authorization",
            Self::Token(TokenRefusal::Malformed) | Self::Review(ReviewError::Malformed) => "malformed-token",
            Self::Token(TokenRefusal::Foreign(_)) => "foreign-token",
            Self::Token(TokenRefusal::Unknown) => "unknown-token",
            Self::Token(TokenRefusal::Expired(_)) => "expired-token",
            Self::Token(TokenRefusal::UsedByAnotherKey) => "used-token",
            Self::Review(ReviewError::NotAuthenticated(_)) => "unauthenticated-token",
            Self::Review(ReviewError::Audience) => "token-audience",
            Self::Review(ReviewError::NotServiceAccount(_)) => "not-a-service-account",
            Self::Review(ReviewError::NotBound(_)) => "unbound-token",
            Self::Review(ReviewError::PodGone(_)) => "pod-gone",
            Self::Review(ReviewError::ForeignAddress { .. }) => "foreign-address",
            Self::Review(ReviewError::Unavailable(_)) => "api-server",
            Self::TokenRequired => "token-required",
            Self::CertificateExpired => "expired-certificate",
            Self::Identity(_) => "identity",
            Self::Reserved(_) => "reserved-identity",
            Self::Malformed(_) => "malformed-csr",
            Self::Signature => "csr-signature",
            Self::WeakKey(_) => "weak-key",
            Self::ForeignName { .. } => "foreign-name",
            Self::TooMany(_) | Self::TooManyOfPod(_) | Self::TooManyOfAddress => "rate-limit",
            Self::Crowded => "crowded",
            Self::Validity => "validity",
            Self::NoIssuer => "no-issuer",
            Self::IssuerExpired => "issuer-expired",
            Self::Signing(_) => "signing",
            Self::State(_) => "state",
        }
    }

    /// Returns the caller's status. Internal errors are UNAVAILABLE, so that the caller retries; their details are only
    /// logged.
    pub fn status(&self) -> Status {
        let code = match self {
            Self::NoCredentials | Self::Authorization | Self::CertificateExpired => Code::Unauthenticated,
            Self::Token(TokenRefusal::UsedByAnotherKey) => Code::PermissionDenied,
            Self::Token(_) => Code::Unauthenticated,
            Self::Review(ReviewError::Unavailable(_)) => Code::Unavailable,
            Self::Review(ReviewError::ForeignAddress { .. }) => Code::PermissionDenied,
            Self::Review(_) | Self::TokenRequired => Code::Unauthenticated,
            Self::TooMany(_) | Self::TooManyOfPod(_) | Self::TooManyOfAddress | Self::Crowded => {
                Code::ResourceExhausted
            }
            Self::ForeignName { .. } | Self::Identity(_) | Self::Reserved(_) => Code::PermissionDenied,
            Self::Malformed(_) | Self::Signature | Self::WeakKey(_) | Self::Validity => Code::InvalidArgument,
            Self::NoIssuer | Self::IssuerExpired | Self::Signing(_) | Self::State(_) => {
                return Status::unavailable("the CA cannot sign now; see its log");
            }
        };
        Status::new(code, self.to_string())
    }
}

impl From<RedeemError> for Refusal {
    fn from(error: RedeemError) -> Self {
        match error {
            RedeemError::Refused(refusal) => Self::Token(refusal),
            RedeemError::State(error) => Self::State(error),
        }
    }
}
