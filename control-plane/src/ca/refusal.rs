//! Every reason for which the CA gives no certificate: its gRPC status, its name in logs and metrics, and its text.

use outrigger_core::identity::SpiffeId;
use thiserror::Error;
use tonic::{Code, Status};

use crate::state::StateError;
use crate::state::token::{RedeemError, TokenRefusal};

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum Refusal {
    /// Neither token nor certificate.
    #[error("no credentials: send a join token (authorization: Bearer) or use a client certificate")]
    NoCredentials,
    /// An `authorization` that is no bearer token.
    #[error("the authorization metadata is not of the form `Bearer <token>`")]
    Authorization,
    /// The token proves nothing.
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    /// The client certificate expired on a connection that was opened before.
    #[error("the client certificate has expired: a new join token is needed")]
    CertificateExpired,
    /// The token's namespace or account make no SPIFFE ID.
    #[error("the identity makes no SPIFFE ID: {0}")]
    Identity(String),
    /// The control plane's own identity, which it signs for itself alone: proxies obey whoever has it.
    #[error("{0} is the control plane's own identity")]
    Reserved(SpiffeId),
    /// Not a PEM CSR.
    #[error("the CSR cannot be read: {0}")]
    Malformed(String),
    /// The CSR was not signed by the key in it.
    #[error("the signature of the CSR is not that of its key")]
    Signature,
    /// A key that others may break, or of a kind that we do not sign.
    #[error("the key of the CSR is not accepted: {0}")]
    WeakKey(String),
    /// The CSR names what its sender is not.
    #[error("the CSR names {name}, and its sender is {identity}")]
    ForeignName {
        /// The name in the CSR.
        name: String,
        /// Who asked.
        identity: SpiffeId,
    },
    /// More than the pace of one identity.
    #[error("too many certificates are asked for as {0}: try again later")]
    TooMany(SpiffeId),
    /// More than one address may have waiting without a certificate.
    #[error("too many certificates are asked for from this address: retry later")]
    Crowded,
    /// A negative lifetime.
    #[error("the validity duration is negative")]
    Validity,
    /// Our own certificate ends.
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
    /// Its name in metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredentials => "no-credentials",
            Self::Authorization => "malformed-authorization",
            Self::Token(TokenRefusal::Malformed) => "malformed-token",
            Self::Token(TokenRefusal::Foreign(_)) => "foreign-token",
            Self::Token(TokenRefusal::Unknown) => "unknown-token",
            Self::Token(TokenRefusal::Expired(_)) => "expired-token",
            Self::Token(TokenRefusal::UsedByAnotherKey) => "used-token",
            Self::CertificateExpired => "expired-certificate",
            Self::Identity(_) => "identity",
            Self::Reserved(_) => "reserved-identity",
            Self::Malformed(_) => "malformed-csr",
            Self::Signature => "csr-signature",
            Self::WeakKey(_) => "weak-key",
            Self::ForeignName { .. } => "foreign-name",
            Self::TooMany(_) => "rate-limit",
            Self::Crowded => "crowded",
            Self::Validity => "validity",
            Self::IssuerExpired => "issuer-expired",
            Self::Signing(_) => "signing",
            Self::State(_) => "state",
        }
    }

    /// What the caller gets. Failures of ours are UNAVAILABLE, so that it tries again, and keep their details to
    /// the log.
    pub fn status(&self) -> Status {
        let code = match self {
            Self::NoCredentials | Self::Authorization | Self::CertificateExpired => Code::Unauthenticated,
            Self::Token(TokenRefusal::UsedByAnotherKey) => Code::PermissionDenied,
            Self::Token(_) => Code::Unauthenticated,
            Self::TooMany(_) | Self::Crowded => Code::ResourceExhausted,
            Self::ForeignName { .. } | Self::Identity(_) | Self::Reserved(_) => Code::PermissionDenied,
            Self::Malformed(_) | Self::Signature | Self::WeakKey(_) | Self::Validity => Code::InvalidArgument,
            Self::IssuerExpired | Self::Signing(_) | Self::State(_) => {
                return Status::unavailable("the CA cannot sign now; its log says why");
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
