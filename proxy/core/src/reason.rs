//! Response flags: why an answer is not simply what the application said.
//!
//! One table serves access logs, metrics, the command line and the `x-outrigger-reason` header of answers that the
//! proxy itself made. Flags have Envoy's letters where Envoy has an equivalent (access log operator
//! `%RESPONSE_FLAGS%`), so that existing dashboards keep working.

use http::StatusCode;

/// Why a request or connection ended as it did. `None` in a record means: as the application answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The client sent bytes that are not a valid request.
    DownstreamProtocolError,
    /// The client closed the connection or reset the stream before the answer was complete.
    DownstreamConnectionTermination,
    /// The client sent its head or body too slowly.
    DownstreamTimeout,
    /// The client's certificate or identity was rejected, its handshake failed, or it did not use TLS.
    DownstreamTlsFailure,
    /// The head of the request exceeds the limit.
    HeadersTooLarge,
    /// The request target exceeds the limit.
    UriTooLong,
    /// An HTTP/1.0 request on a listener that does not accept HTTP/1.0.
    Http10Refused,
    /// No route matched.
    NoRouteFound,
    /// The client requested a tunnel (extended CONNECT) for a protocol that the listener or route does not allow, or that
    /// the endpoint did not open.
    UpgradeRefused,
    /// The destination does not exist in the mesh, and unknown destinations are refused.
    NoDestination,
    /// An HTTP request to a destination whose Service declares another protocol.
    DestinationNotHttp,
    /// The control plane did not deliver a usable destination in time.
    DestinationTimeout,
    /// The route names a cluster that does not exist (an invalid backend).
    NoClusterFound,
    /// The cluster has no endpoint that can be used.
    NoHealthyUpstream,
    /// A limit on connections, queued requests or requests in flight was reached.
    UpstreamOverflow,
    /// The application has more requests than it can process.
    Overloaded,
    /// No connection to the endpoint could be established.
    UpstreamConnectionFailure,
    /// The endpoint's certificate or identity was not the expected one, or the handshake failed.
    UpstreamTlsFailure,
    /// The connection ended after the request was written and before the answer was complete.
    UpstreamConnectionTermination,
    /// The endpoint reset the stream.
    UpstreamRemoteReset,
    /// The endpoint sent bytes that are not a valid response.
    UpstreamProtocolError,
    /// The head of the response exceeds the limit.
    UpstreamHeadersTooLarge,
    /// The route's request timeout expired.
    UpstreamRequestTimeout,
    /// Retries were made, and the limit on their number was reached.
    UpstreamRetryLimitExceeded,
    /// Another attempt would have been safe, but the retry budget was exhausted.
    RetryBudgetExceeded,
    /// The route answers without an upstream (a direct response or a redirect).
    DirectResponse,
    /// A request lacks valid credentials (a token or an API key).
    Unauthenticated,
    /// The keys that verify the request's token could not be loaded.
    KeysUnavailable,
    /// An authorization policy does not allow the request.
    AccessDenied,
    /// The external authorization service does not allow the request.
    ExternalAuthorizationDenied,
    /// The external authorization service could not be asked, or its answer could not be used.
    ExternalAuthorizationFailed,
    /// A limit on the number of requests is reached.
    RateLimited,
    /// The rate limit service could not be asked, and requests are refused then.
    RateLimitServiceFailed,
    /// The body of the request exceeds what a filter reads of it.
    BodyTooLarge,
    /// An injected fault: this answer is part of a test.
    FaultInjected,
    /// The application behind this sidecar cannot be reached.
    ApplicationUnreachable,
    /// The proxy itself failed: a bug, or an exhausted resource of the machine.
    LocalError,
}

impl Reason {
    /// Every reason, in the order of the table.
    pub const ALL: [Self; 37] = [
        Self::DownstreamProtocolError,
        Self::DownstreamConnectionTermination,
        Self::DownstreamTimeout,
        Self::DownstreamTlsFailure,
        Self::HeadersTooLarge,
        Self::UriTooLong,
        Self::Http10Refused,
        Self::NoRouteFound,
        Self::UpgradeRefused,
        Self::NoDestination,
        Self::DestinationNotHttp,
        Self::DestinationTimeout,
        Self::NoClusterFound,
        Self::NoHealthyUpstream,
        Self::UpstreamOverflow,
        Self::Overloaded,
        Self::UpstreamConnectionFailure,
        Self::UpstreamTlsFailure,
        Self::UpstreamConnectionTermination,
        Self::UpstreamRemoteReset,
        Self::UpstreamProtocolError,
        Self::UpstreamHeadersTooLarge,
        Self::UpstreamRequestTimeout,
        Self::UpstreamRetryLimitExceeded,
        Self::RetryBudgetExceeded,
        Self::DirectResponse,
        Self::Unauthenticated,
        Self::KeysUnavailable,
        Self::AccessDenied,
        Self::ExternalAuthorizationDenied,
        Self::ExternalAuthorizationFailed,
        Self::RateLimited,
        Self::RateLimitServiceFailed,
        Self::BodyTooLarge,
        Self::FaultInjected,
        Self::ApplicationUnreachable,
        Self::LocalError,
    ];

    fn row(self) -> Row {
        let row = |flag, name, status, grpc| Row { flag, name, status, grpc };
        // flag, name, HTTP status, gRPC status (google.rpc.Code)
        match self {
            Self::DownstreamProtocolError => {
                row("DPE", "downstream_protocol_error", StatusCode::BAD_REQUEST, 13)
            }
            Self::DownstreamConnectionTermination => {
                row("DC", "downstream_connection_termination", StatusCode::BAD_REQUEST, 1)
            }
            Self::DownstreamTimeout => row("DT", "downstream_timeout", StatusCode::REQUEST_TIMEOUT, 4),
            Self::DownstreamTlsFailure => row("DTF", "downstream_tls_failure", StatusCode::BAD_REQUEST, 16),
            Self::HeadersTooLarge => {
                row("HTL", "headers_too_large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, 8)
            }
            Self::UriTooLong => row("UTL", "uri_too_long", StatusCode::URI_TOO_LONG, 3),
            Self::Http10Refused => row("H10", "http10_refused", StatusCode::UPGRADE_REQUIRED, 3),
            Self::NoRouteFound => row("NR", "no_route_found", StatusCode::NOT_FOUND, 12),
            Self::UpgradeRefused => row("UPR", "upgrade_refused", StatusCode::FORBIDDEN, 7),
            Self::NoDestination => row("ND", "no_destination", StatusCode::BAD_GATEWAY, 14),
            Self::DestinationNotHttp => row("NH", "destination_not_http", StatusCode::BAD_GATEWAY, 12),
            Self::DestinationTimeout => {
                row("DTO", "destination_timeout", StatusCode::SERVICE_UNAVAILABLE, 14)
            }
            Self::NoClusterFound => row("NC", "no_cluster_found", StatusCode::INTERNAL_SERVER_ERROR, 14),
            Self::NoHealthyUpstream => row("UH", "no_healthy_upstream", StatusCode::SERVICE_UNAVAILABLE, 14),
            Self::UpstreamOverflow => row("UO", "upstream_overflow", StatusCode::SERVICE_UNAVAILABLE, 14),
            Self::Overloaded => row("OL", "overloaded", StatusCode::SERVICE_UNAVAILABLE, 14),
            Self::UpstreamConnectionFailure => {
                row("UF", "upstream_connection_failure", StatusCode::SERVICE_UNAVAILABLE, 14)
            }
            Self::UpstreamTlsFailure => {
                row("UTF", "upstream_tls_failure", StatusCode::SERVICE_UNAVAILABLE, 14)
            }
            Self::UpstreamConnectionTermination => {
                row("UC", "upstream_connection_termination", StatusCode::SERVICE_UNAVAILABLE, 14)
            }
            Self::UpstreamRemoteReset => {
                row("UR", "upstream_remote_reset", StatusCode::SERVICE_UNAVAILABLE, 14)
            }
            Self::UpstreamProtocolError => row("UPE", "upstream_protocol_error", StatusCode::BAD_GATEWAY, 14),
            Self::UpstreamHeadersTooLarge => {
                row("UHL", "upstream_headers_too_large", StatusCode::BAD_GATEWAY, 13)
            }
            Self::UpstreamRequestTimeout => {
                row("UT", "upstream_request_timeout", StatusCode::GATEWAY_TIMEOUT, 4)
            }
            Self::UpstreamRetryLimitExceeded => {
                row("URX", "upstream_retry_limit_exceeded", StatusCode::SERVICE_UNAVAILABLE, 14)
            }
            Self::RetryBudgetExceeded => {
                row("RBX", "retry_budget_exceeded", StatusCode::SERVICE_UNAVAILABLE, 14)
            }
            Self::DirectResponse => row("DR", "direct_response", StatusCode::OK, 0),
            Self::Unauthenticated => row("UNA", "unauthenticated", StatusCode::UNAUTHORIZED, 16),
            Self::KeysUnavailable => row("KU", "keys_unavailable", StatusCode::SERVICE_UNAVAILABLE, 14),
            Self::AccessDenied => row("AD", "access_denied", StatusCode::FORBIDDEN, 7),
            Self::ExternalAuthorizationDenied => {
                row("UAEX", "external_authorization_denied", StatusCode::FORBIDDEN, 7)
            }
            Self::ExternalAuthorizationFailed => {
                row("EAF", "external_authorization_failed", StatusCode::FORBIDDEN, 7)
            }
            Self::RateLimited => row("RL", "rate_limited", StatusCode::TOO_MANY_REQUESTS, 8),
            Self::RateLimitServiceFailed => {
                row("RLSE", "rate_limit_service_failed", StatusCode::INTERNAL_SERVER_ERROR, 14)
            }
            Self::BodyTooLarge => row("BTL", "body_too_large", StatusCode::PAYLOAD_TOO_LARGE, 8),
            Self::FaultInjected => row("FI", "fault_injected", StatusCode::SERVICE_UNAVAILABLE, 14),
            Self::ApplicationUnreachable => {
                row("AU", "application_unreachable", StatusCode::SERVICE_UNAVAILABLE, 14)
            }
            Self::LocalError => row("LE", "local_error", StatusCode::INTERNAL_SERVER_ERROR, 13),
        }
    }

    /// The response field that carries [`Reason::name`].
    pub const FIELD: &str = "x-outrigger-reason";

    /// Returns the short flag that access logs and metrics print.
    pub fn flag(self) -> &'static str {
        self.row().flag
    }

    /// Returns the long name that [`Reason::FIELD`] carries.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Returns the reason with this long name, or `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// Returns whether the same request fails in the same way at every endpoint.
    pub fn is_deterministic(self) -> bool {
        matches!(
            self,
            Self::UpstreamProtocolError
                | Self::UpstreamHeadersTooLarge
                | Self::DownstreamProtocolError
                | Self::HeadersTooLarge
                | Self::UriTooLong
                | Self::NoRouteFound
                | Self::DestinationNotHttp
                | Self::UpgradeRefused
                | Self::Unauthenticated
                | Self::AccessDenied
                | Self::ExternalAuthorizationDenied
                | Self::BodyTooLarge
        )
    }

    /// Returns whether it is a refusal for too many requests, of a proxy or an application. Another attempt adds to them.
    pub fn is_of_overload(self) -> bool {
        matches!(self, Self::UpstreamOverflow | Self::Overloaded)
    }

    /// Returns the status of an answer that the proxy makes for this reason.
    pub fn status(self) -> StatusCode {
        self.row().status
    }

    /// Returns the `grpc-status` of such an answer to a gRPC request.
    pub fn grpc_status(self) -> u8 {
        self.row().grpc
    }
}

struct Row {
    flag: &'static str,
    name: &'static str,
    status: StatusCode,
    grpc: u8,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn flags_and_names_are_unique() {
        let flags: HashSet<_> = Reason::ALL.iter().map(|reason| reason.flag()).collect();
        let names: HashSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!((flags.len(), names.len()), (Reason::ALL.len(), Reason::ALL.len()));
        assert!(Reason::ALL.iter().all(|reason| Reason::named(reason.name()) == Some(*reason)));
        assert_eq!(Reason::named("a reason of somebody else"), None);
    }
}
