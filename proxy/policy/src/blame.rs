//! What the outcome of an attempt says about its endpoint.
//!
//! An endpoint is blamed for what it did or failed to do, never for what the client, this proxy, one of its limits or a stale
//! idle connection caused. One table decides for ejection ([`crate::outlier`]), for balancing, and for whether the endpoint
//! is known to be alive.

use outrigger_core::error::{Failure, Reached, Side};
use outrigger_core::reason::Reason;

use crate::outlier::Outcome;

/// What an attempt says about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blame {
    /// Whether the endpoint showed that it is alive: it answered, even if only with a refusal.
    pub alive: bool,
    /// How the attempt counts. `None` if it says nothing about the endpoint. Only a success is a latency sample.
    pub outcome: Option<Outcome>,
}

/// The state of an attempt's connection before the attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Established for the attempt, or in use.
    Fresh,
    /// Idle, and found closed when the request was written. An endpoint may close an idle connection at any time
    /// (RFC 9112 section 9.3.1), also just as a request is sent on it.
    Stale,
}

const NOTHING: Blame = Blame { alive: false, outcome: None };
const ALIVE: Blame = Blame { alive: true, outcome: None };
const OVERLOADED: Blame = Blame { alive: true, outcome: Some(Outcome::Overloaded) };
const FAILED: Blame = Blame { alive: false, outcome: Some(Outcome::LocalOrigin) };
const ALIVE_AND_FAILED: Blame = Blame { alive: true, outcome: Some(Outcome::LocalOrigin) };

/// Returns the blame for an attempt that got no answer, or an incomplete one.
pub fn failed(failure: &Failure, connection: Freshness) -> Blame {
    match failure.side {
        // The client cancelled or was too slow; or this proxy lacked a certificate, a descriptor or capacity.
        Side::Downstream | Side::Local => NOTHING,
        Side::Upstream => of_endpoint(failure.reason, failure.reached, connection),
    }
}

fn of_endpoint(reason: Reason, reached: Reached, connection: Freshness) -> Blame {
    match reason {
        Reason::UpstreamConnectionFailure | Reason::UpstreamTlsFailure => FAILED,
        Reason::UpstreamConnectionTermination => match (reached, connection) {
            // A GOAWAY: the endpoint drains.
            (Reached::NotProcessed, _) => ALIVE,
            (Reached::NotWritten | Reached::Maybe, Freshness::Stale) => NOTHING,
            (Reached::NotWritten | Reached::Maybe, Freshness::Fresh) => FAILED,
            (Reached::ResponseStarted, _) => ALIVE_AND_FAILED,
        },
        // Includes REFUSED_STREAM, which a sidecar sends if its application cannot be reached.
        Reason::UpstreamRemoteReset | Reason::UpstreamProtocolError | Reason::ApplicationUnreachable => {
            ALIVE_AND_FAILED
        }
        // The endpoint answered; the limit is ours.
        Reason::UpstreamHeadersTooLarge => ALIVE,
        Reason::UpstreamRequestTimeout => match reached {
            Reached::Maybe | Reached::NotProcessed => FAILED,
            // The request waited for a connection, possibly because of our limits; a failed connection has a reason of its
            // own. A response that takes long may have a slow reader.
            Reached::NotWritten | Reached::ResponseStarted => NOTHING,
        },
        // The endpoint's sidecar reports that it has no capacity. Our own limits apply before anything is written.
        Reason::UpstreamOverflow | Reason::Overloaded if reached == Reached::NotProcessed => OVERLOADED,
        // Our own limits, or nothing was sent to an endpoint.
        Reason::UpstreamOverflow
        | Reason::Overloaded
        | Reason::NoHealthyUpstream
        | Reason::NoDestination
        | Reason::DestinationNotHttp
        | Reason::DestinationTimeout
        | Reason::NoClusterFound
        | Reason::NoRouteFound
        | Reason::UpgradeRefused
        | Reason::UpstreamRetryLimitExceeded
        | Reason::RetryBudgetExceeded
        | Reason::DirectResponse
        | Reason::Unauthenticated
        | Reason::KeysUnavailable
        | Reason::AccessDenied
        | Reason::ExternalAuthorizationDenied
        | Reason::ExternalAuthorizationFailed
        | Reason::RateLimited
        | Reason::RateLimitServiceFailed
        | Reason::BodyTooLarge
        | Reason::FaultInjected
        | Reason::DownstreamProtocolError
        | Reason::DownstreamConnectionTermination
        | Reason::DownstreamTimeout
        | Reason::DownstreamTlsFailure
        | Reason::HeadersTooLarge
        | Reason::UriTooLong
        | Reason::Http10Refused
        | Reason::LocalError => NOTHING,
    }
}

/// Returns the outcome of an answered attempt, from its HTTP and gRPC status. `reason` is set if a proxy behind this one made
/// the answer itself. Returns `None` if the answer says nothing about the endpoint, except that it is alive.
pub fn answered(status: u16, grpc_status: Option<u8>, reason: Option<Reason>) -> Option<Outcome> {
    let outcome = match (status, grpc_status) {
        (502..=504, _) | (_, Some(4 | 14)) => Outcome::GatewayError,
        (500.., _) | (_, Some(2 | 12 | 13 | 15)) => Outcome::ServerError,
        (429, _) | (_, Some(8)) => Outcome::Overloaded,
        _ => Outcome::Success,
    };
    match reason {
        None => Some(outcome),
        Some(reason) => of_sidecar(reason).then_some(outcome),
    }
}

/// Returns whether an answer that a proxy behind this one made itself counts for its endpoint.
fn of_sidecar(reason: Reason) -> bool {
    match reason {
        // The state of its application.
        Reason::UpstreamConnectionFailure
        | Reason::UpstreamTlsFailure
        | Reason::UpstreamConnectionTermination
        | Reason::UpstreamRemoteReset
        | Reason::UpstreamProtocolError
        | Reason::UpstreamRequestTimeout
        | Reason::UpstreamRetryLimitExceeded
        | Reason::RetryBudgetExceeded
        | Reason::ApplicationUnreachable
        | Reason::NoHealthyUpstream
        // Other endpoints are better for these requests, whatever the cause.
        | Reason::UpstreamOverflow
        | Reason::Overloaded
        | Reason::LocalError
        // Its configuration answered, which counts as the application's answer.
        | Reason::DirectResponse
        | Reason::FaultInjected => true,
        // The request, its client or a limit.
        Reason::UpstreamHeadersTooLarge
        | Reason::NoDestination
        | Reason::DestinationNotHttp
        | Reason::DestinationTimeout
        | Reason::NoClusterFound
        | Reason::NoRouteFound
        | Reason::UpgradeRefused
        | Reason::Unauthenticated
        | Reason::KeysUnavailable
        | Reason::AccessDenied
        | Reason::ExternalAuthorizationDenied
        | Reason::ExternalAuthorizationFailed
        | Reason::RateLimited
        | Reason::RateLimitServiceFailed
        | Reason::BodyTooLarge
        | Reason::DownstreamProtocolError
        | Reason::DownstreamConnectionTermination
        | Reason::DownstreamTimeout
        | Reason::DownstreamTlsFailure
        | Reason::HeadersTooLarge
        | Reason::UriTooLong
        | Reason::Http10Refused => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REACHED: [Reached; 4] =
        [Reached::NotWritten, Reached::NotProcessed, Reached::Maybe, Reached::ResponseStarted];
    const CONNECTIONS: [Freshness; 2] = [Freshness::Fresh, Freshness::Stale];

    /// The rows that blame or excuse an endpoint; every other row says nothing. Deliberately a second copy, so that a change of
    /// the table needs a change here.
    const ROWS: [(Reason, Reached, Freshness, Blame); 33] = {
        use Freshness::{Fresh, Stale};
        use Reached::{Maybe, NotProcessed, NotWritten, ResponseStarted};
        [
            (Reason::UpstreamConnectionFailure, NotWritten, Fresh, FAILED),
            (Reason::UpstreamConnectionFailure, NotWritten, Stale, FAILED),
            (Reason::UpstreamTlsFailure, NotWritten, Fresh, FAILED),
            (Reason::UpstreamTlsFailure, NotWritten, Stale, FAILED),
            (Reason::UpstreamConnectionTermination, NotWritten, Fresh, FAILED),
            (Reason::UpstreamConnectionTermination, NotWritten, Stale, NOTHING),
            (Reason::UpstreamConnectionTermination, NotProcessed, Fresh, ALIVE),
            (Reason::UpstreamConnectionTermination, NotProcessed, Stale, ALIVE),
            (Reason::UpstreamConnectionTermination, Maybe, Fresh, FAILED),
            (Reason::UpstreamConnectionTermination, Maybe, Stale, NOTHING),
            (Reason::UpstreamConnectionTermination, ResponseStarted, Fresh, ALIVE_AND_FAILED),
            (Reason::UpstreamConnectionTermination, ResponseStarted, Stale, ALIVE_AND_FAILED),
            (Reason::UpstreamRemoteReset, NotProcessed, Fresh, ALIVE_AND_FAILED),
            (Reason::UpstreamRemoteReset, NotProcessed, Stale, ALIVE_AND_FAILED),
            (Reason::UpstreamRemoteReset, Maybe, Fresh, ALIVE_AND_FAILED),
            (Reason::UpstreamRemoteReset, Maybe, Stale, ALIVE_AND_FAILED),
            (Reason::UpstreamRemoteReset, ResponseStarted, Fresh, ALIVE_AND_FAILED),
            (Reason::UpstreamProtocolError, NotWritten, Fresh, ALIVE_AND_FAILED),
            (Reason::UpstreamProtocolError, Maybe, Fresh, ALIVE_AND_FAILED),
            (Reason::UpstreamProtocolError, Maybe, Stale, ALIVE_AND_FAILED),
            (Reason::UpstreamProtocolError, ResponseStarted, Fresh, ALIVE_AND_FAILED),
            (Reason::UpstreamHeadersTooLarge, Maybe, Fresh, ALIVE),
            (Reason::UpstreamHeadersTooLarge, Maybe, Stale, ALIVE),
            (Reason::UpstreamHeadersTooLarge, ResponseStarted, Fresh, ALIVE),
            (Reason::UpstreamRequestTimeout, NotWritten, Fresh, NOTHING),
            (Reason::UpstreamRequestTimeout, Maybe, Fresh, FAILED),
            (Reason::UpstreamRequestTimeout, Maybe, Stale, FAILED),
            (Reason::UpstreamRequestTimeout, ResponseStarted, Fresh, NOTHING),
            (Reason::UpstreamOverflow, NotWritten, Fresh, NOTHING),
            (Reason::UpstreamOverflow, NotProcessed, Fresh, OVERLOADED),
            (Reason::Overloaded, NotProcessed, Fresh, OVERLOADED),
            (Reason::NoHealthyUpstream, NotWritten, Fresh, NOTHING),
            (Reason::LocalError, Maybe, Fresh, NOTHING),
        ]
    };

    #[test]
    fn an_endpoint_is_blamed_for_what_it_did_row_by_row() {
        for (reason, reached, connection, expected) in ROWS {
            let blame = failed(&Failure::upstream(reason, reached, "test"), connection);
            assert_eq!(blame, expected, "{reason:?} {reached:?} {connection:?}");
        }
    }

    #[test]
    fn an_endpoint_is_not_blamed_for_what_client_or_proxy_did() {
        for reason in Reason::ALL {
            for reached in REACHED {
                for connection in CONNECTIONS {
                    for side in [Side::Downstream, Side::Local] {
                        let failure = Failure { side, ..Failure::upstream(reason, reached, "test") };
                        assert_eq!(failed(&failure, connection), NOTHING, "{failure:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn reasons_without_a_row_say_nothing() {
        for reason in Reason::ALL.into_iter().filter(|reason| ROWS.iter().all(|row| row.0 != *reason)) {
            for reached in REACHED {
                let blame = failed(&Failure::upstream(reason, reached, "test"), Freshness::Fresh);
                let expected =
                    if reason == Reason::ApplicationUnreachable { ALIVE_AND_FAILED } else { NOTHING };
                assert_eq!(blame, expected, "{reason:?} {reached:?}");
            }
        }
    }

    #[test]
    fn answers_are_judged_by_status_and_by_grpcs() {
        for (status, grpc, expected) in [
            (200, None, Outcome::Success),
            (404, None, Outcome::Success),
            (499, None, Outcome::Success),
            (429, None, Outcome::Overloaded),
            (500, None, Outcome::ServerError),
            (501, None, Outcome::ServerError),
            (502, None, Outcome::GatewayError),
            (503, None, Outcome::GatewayError),
            (504, None, Outcome::GatewayError),
            (505, None, Outcome::ServerError),
            (200, Some(0), Outcome::Success),
            (200, Some(5), Outcome::Success),
            (200, Some(8), Outcome::Overloaded),
            (200, Some(4), Outcome::GatewayError),
            (200, Some(14), Outcome::GatewayError),
            (200, Some(2), Outcome::ServerError),
            (200, Some(12), Outcome::ServerError),
            (200, Some(13), Outcome::ServerError),
            (200, Some(15), Outcome::ServerError),
        ] {
            assert_eq!(answered(status, grpc, None), Some(expected), "{status} {grpc:?}");
        }
    }

    #[test]
    fn what_a_sidecar_says_of_a_request_or_of_a_limit_is_not_its_endpoints_fault() {
        for reason in Reason::ALL {
            let excused = matches!(
                reason,
                Reason::UpstreamHeadersTooLarge
                    | Reason::NoDestination
                    | Reason::DestinationNotHttp
                    | Reason::DestinationTimeout
                    | Reason::NoClusterFound
                    | Reason::NoRouteFound
                    | Reason::UpgradeRefused
                    | Reason::Unauthenticated
                    | Reason::KeysUnavailable
                    | Reason::AccessDenied
                    | Reason::ExternalAuthorizationDenied
                    | Reason::ExternalAuthorizationFailed
                    | Reason::RateLimited
                    | Reason::RateLimitServiceFailed
                    | Reason::BodyTooLarge
                    | Reason::DownstreamProtocolError
                    | Reason::DownstreamConnectionTermination
                    | Reason::DownstreamTimeout
                    | Reason::DownstreamTlsFailure
                    | Reason::HeadersTooLarge
                    | Reason::UriTooLong
                    | Reason::Http10Refused
            );
            let judged = answered(reason.status().as_u16(), None, Some(reason));
            assert_eq!(judged.is_none(), excused, "{reason:?}");
        }
        let unreachable = answered(503, None, Some(Reason::ApplicationUnreachable));
        assert_eq!(unreachable, Some(Outcome::GatewayError));
    }
}
