//! Why a token, or the lack of one, does not satisfy a requirement, and what the client reads of it.

use http::StatusCode;
use outrigger_core::reason::Reason;

use crate::jose::{Malformed, NotVerified};

/// A failure. Ordered by how much it says: a missing token says least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Failure {
    Missing,
    UnknownIssuer,
    TooMany,
    TooLong,
    Form,
    Algorithm,
    Critical,
    Nested,
    NoKey,
    Signature,
    NoExpiration,
    Lifetime,
    NotYetValid,
    Expired,
    Subject,
    Audience,
    /// The keys that would verify it could not be fetched.
    KeysUnavailable,
}

impl Failure {
    /// Returns the reason and the status of the answer: 401, or 403 for an audience, as in Envoy.
    pub(super) fn answer(self) -> (Reason, StatusCode) {
        match self {
            Self::KeysUnavailable => (Reason::KeysUnavailable, Reason::KeysUnavailable.status()),
            Self::Audience => (Reason::Unauthenticated, StatusCode::FORBIDDEN),
            _ => (Reason::Unauthenticated, Reason::Unauthenticated.status()),
        }
    }

    /// Returns a sentence for `error_description` (RFC 6750 section 3): ASCII without quotes and backslashes.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Missing => "The request has no token",
            Self::UnknownIssuer => "The token has another issuer",
            Self::TooMany => "The request has too many tokens",
            Self::TooLong => "The token is too long",
            Self::Form => "The token is malformed",
            Self::Algorithm => "The algorithm of the token is not accepted",
            Self::Critical => "The token has critical extensions",
            Self::Nested => "The token contains a token",
            Self::NoKey => "The token is signed with an unknown key",
            Self::Signature => "The signature of the token is invalid",
            Self::NoExpiration => "The token has no expiration time",
            Self::Lifetime => "The token is valid for too long",
            Self::NotYetValid => "The token is not valid yet",
            Self::Expired => "The token has expired",
            Self::Subject => "The subject of the token is not accepted",
            Self::Audience => "The token is for another audience",
            Self::KeysUnavailable => "The keys of the issuer are unavailable",
        }
    }
}

impl From<Malformed> for Failure {
    fn from(why: Malformed) -> Self {
        match why {
            Malformed::TooLong => Self::TooLong,
            Malformed::Form => Self::Form,
            Malformed::Algorithm => Self::Algorithm,
            Malformed::Critical => Self::Critical,
            Malformed::Nested => Self::Nested,
        }
    }
}

impl From<NotVerified> for Failure {
    fn from(why: NotVerified) -> Self {
        match why {
            NotVerified::NoKey => Self::NoKey,
            NotVerified::Signature => Self::Signature,
        }
    }
}
