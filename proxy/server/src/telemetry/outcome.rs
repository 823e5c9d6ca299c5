//! How a request or an attempt ended in the terms of OpenTelemetry's conventions: whether it failed, and its `error.type`.

use std::borrow::Cow;

use outrigger_core::grpc::status_of_http;
use outrigger_core::reason::Reason;
use outrigger_core::record::{AttemptRecord, Protocol, RequestRecord};

use super::attributes::grpc_status_name;

/// The end of a request or an attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    /// The HTTP status; 0 if there was none.
    pub(super) status: u16,
    /// The gRPC status of a gRPC call that has ended: the server's, or the one that the client derives. `None` for plain HTTP.
    pub(super) grpc: Option<u8>,
    /// Why the response is not simply the application's.
    pub(super) reason: Option<Reason>,
}

/// On which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

impl Outcome {
    /// Returns the outcome for the client of the proxy.
    pub(super) fn of_request(record: &RequestRecord) -> Self {
        Self::new(record, record.status, record.grpc_status, record.reason)
    }

    /// Returns the outcome of one of the attempts of `record`.
    pub(super) fn of_attempt(record: &RequestRecord, attempt: &AttemptRecord) -> Self {
        Self::new(record, attempt.status, attempt.grpc_status, attempt.reason)
    }

    fn new(record: &RequestRecord, status: u16, grpc: Option<u8>, reason: Option<Reason>) -> Self {
        let own = reason.filter(|reason| *reason != Reason::DirectResponse).map(Reason::grpc_status);
        // A response of HTTP alone, as of a gateway that does not know gRPC.
        let derived = || (status != 0).then(|| status_of_http(status));
        let grpc = is_grpc(record).then(|| grpc.or(own).or_else(derived)).flatten();
        Self { status, grpc, reason }
    }

    /// Returns whether it failed (HTTP conventions, "Status"; gRPC conventions, `rpc.status_code`). On the server side, an error
    /// of the client (4xx, NOT_FOUND) is not a failure.
    fn failed(self, side: Side) -> bool {
        // A response whose status is not that of its reason was cut off.
        let broke_off = |answered: bool| match self.reason {
            None
            | Some(
                Reason::DirectResponse
                | Reason::FaultInjected
                | Reason::UpstreamRetryLimitExceeded
                | Reason::RetryBudgetExceeded,
            ) => false,
            // "The cancellation SHOULD NOT be treated as an error" for the client that cancelled.
            Some(Reason::DownstreamConnectionTermination) if side == Side::Client => false,
            Some(_) => !answered,
        };
        match self.grpc {
            Some(code) => {
                let answered = self.reason.is_some_and(|reason| reason.grpc_status() == code);
                grpc_failed(code, side) || broke_off(answered)
            }
            None => {
                let answered = self.reason.is_some_and(|reason| reason.status().as_u16() == self.status);
                self.status >= if side == Side::Client { 400 } else { 500 } || broke_off(answered)
            }
        }
    }

    /// Returns `error.type` if it failed: the name of the reason if it has one, else the gRPC status, else the HTTP status.
    pub(super) fn error_type(self, side: Side) -> Option<Cow<'static, str>> {
        self.failed(side).then(|| match (self.reason, self.grpc) {
            (Some(reason), _) if reason != Reason::DirectResponse => reason.name().into(),
            (_, Some(code)) => grpc_status_name(code).into(),
            (_, None) => self.status.to_string().into(),
        })
    }
}

/// Returns whether the request is a gRPC call.
pub(super) fn is_grpc(record: &RequestRecord) -> bool {
    record.protocol == Protocol::Grpc || record.text.as_ref().is_some_and(|text| text.grpc)
}

/// The codes that the conventions list for servers; every one but OK for clients.
fn grpc_failed(code: u8, side: Side) -> bool {
    match side {
        Side::Client => code != 0,
        Side::Server => matches!(code, 2 | 4 | 12 | 13 | 14 | 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_types(status: u16, grpc: Option<u8>, reason: Option<Reason>) -> [Option<String>; 2] {
        let outcome = Outcome { status, grpc, reason };
        [Side::Client, Side::Server].map(|side| outcome.error_type(side).map(Cow::into_owned))
    }

    #[test]
    fn a_failure_has_a_type_and_an_error_of_the_client_is_none_of_the_server() {
        use Reason::*;
        for (status, grpc, reason, client, server) in [
            (200, None, None, None, None),
            (404, None, None, Some("404"), None),
            (503, None, None, Some("503"), Some("503")),
            (200, Some(0), None, None, None),
            (200, Some(5), None, Some("NOT_FOUND"), None),
            (200, Some(14), None, Some("UNAVAILABLE"), Some("UNAVAILABLE")),
            // The proxy's own answers.
            (404, None, Some(NoRouteFound), Some("no_route_found"), None),
            (503, None, Some(UpstreamOverflow), Some("upstream_overflow"), Some("upstream_overflow")),
            (200, Some(14), Some(UpstreamOverflow), Some("upstream_overflow"), Some("upstream_overflow")),
            (302, None, Some(DirectResponse), None, None),
            (500, None, Some(DirectResponse), Some("500"), Some("500")),
            // Responses that broke off, and requests without any.
            (
                200,
                None,
                Some(UpstreamRemoteReset),
                Some("upstream_remote_reset"),
                Some("upstream_remote_reset"),
            ),
            (
                404,
                None,
                Some(UpstreamRemoteReset),
                Some("upstream_remote_reset"),
                Some("upstream_remote_reset"),
            ),
            (
                0,
                None,
                Some(ApplicationUnreachable),
                Some("application_unreachable"),
                Some("application_unreachable"),
            ),
            // The client gave up: no failure of its own span.
            (0, None, Some(DownstreamConnectionTermination), None, Some("downstream_connection_termination")),
            // The last response was relayed.
            (409, None, Some(UpstreamRetryLimitExceeded), Some("upstream_retry_limit_exceeded"), None),
        ] {
            let expected = [client, server].map(|kind| kind.map(str::to_owned));
            assert_eq!(error_types(status, grpc, reason), expected, "{status} {grpc:?} {reason:?}");
        }
    }
}
