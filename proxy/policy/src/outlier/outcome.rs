//! The input and the output of outlier detection: the outcome of an attempt, and the kind of an ejection.

use std::time::Duration;

use super::window::Counted;

/// The outcome of an attempt, for outlier detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A status below 500, except 429; for gRPC, any status not listed below.
    Success,
    /// 429; gRPC resource exhausted. The endpoint works, but is overloaded: not a failure that ejects, nor a good answer.
    Overloaded,
    /// 500 or above, except 502 to 504; gRPC internal, unknown, data loss, unimplemented.
    ServerError,
    /// 502, 503, 504; gRPC unavailable, deadline exceeded.
    GatewayError,
    /// No answer, or an incomplete one: failed to connect, reset, timed out.
    LocalOrigin,
}

/// Why an endpoint is ejected (Envoy's `OutlierEjectionType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EjectionKind {
    /// `consecutive_5xx`.
    Consecutive5xx,
    /// `consecutive_gateway_failure`.
    ConsecutiveGatewayFailure,
    /// `consecutive_local_origin_failure`.
    ConsecutiveLocalOriginFailure,
    /// Success rate of answered requests, or of all requests without `split_external_local_origin_errors`.
    SuccessRate,
    /// Success rate, counting only requests without an answer as failures.
    SuccessRateLocalOrigin,
    /// Failure percentage; most failures were answers.
    FailurePercentage,
    /// Failure percentage; most failures were requests without an answer.
    FailurePercentageLocalOrigin,
    /// A probe after an ejection failed.
    FailedProbe,
}

/// An endpoint was ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejected {
    /// Why.
    pub kind: EjectionKind,
    /// For how long it gets no requests.
    pub span: Duration,
}

impl EjectionKind {
    /// Returns the name that metrics and log lines use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::SuccessRateLocalOrigin => "success_rate_local_origin",
            Self::FailurePercentage => "failure_percentage",
            Self::FailurePercentageLocalOrigin => "failure_percentage_local_origin",
            Self::FailedProbe => "failed_probe",
        }
    }
}

impl Outcome {
    /// Returns whether the attempt failed. [`Self::Overloaded`] is not a failure.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Success | Self::Overloaded)
    }

    pub(super) fn counted(self) -> Counted {
        match self {
            Self::Success | Self::Overloaded => Counted::Succeeded,
            Self::ServerError | Self::GatewayError => Counted::Failed,
            Self::LocalOrigin => Counted::FailedLocally,
        }
    }
}
