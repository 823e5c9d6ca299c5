//! The sentence that a client reads when the proxy answers in place of the upstream.
//!
//! It says what failed, for which request, and where to read more. It contains the destination, the reason and what the client
//! itself sent; never an address, an identity or the underlying error, which are for the log ([`crate::error::Failure`]).

use std::borrow::Cow;
use std::fmt;

use crate::reason::Reason;

/// The longest method and path, and the longest request ID, that are repeated. Longer ones are cut.
const MAX_REQUEST: usize = 100;
const MAX_REQUEST_ID: usize = 64;

/// The request that failed, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailedRequest<'a> {
    /// The method. Empty if the head is not known.
    pub method: &'a str,
    /// The path. A query is left out, since it may contain secrets.
    pub path: &'a str,
    /// The destination's canonical name, else the requested name in its normal form.
    pub destination: Option<Cow<'a, str>>,
    /// `x-request-id`.
    pub request_id: &'a str,
}

/// The sentence for a failure, without a line end. Printable ASCII if the fields of the request are.
#[derive(Debug, Clone)]
pub struct Explanation<'a> {
    reason: Reason,
    request: FailedRequest<'a>,
}

impl<'a> Explanation<'a> {
    /// Explains why `request` failed with `reason`.
    pub fn new(reason: Reason, request: FailedRequest<'a>) -> Self {
        Self { reason, request }
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FailedRequest { method, path, destination, request_id } = &self.request;
        let (sentence, see) = text(self.reason);
        let destination = destination.as_deref().unwrap_or("the destination");
        let path = path.split_once('?').map_or(*path, |(path, _)| path);
        let parts = sentence.split_inclusive(['<', '>']);
        for part in parts {
            match part {
                "destination>" => f.write_str(destination)?,
                "request>" if method.is_empty() => f.write_str("the request")?,
                "request>" => write!(f, "{}", Cut(&format!("{method} {path}"), MAX_REQUEST))?,
                literal => f.write_str(literal.trim_end_matches('<'))?,
            }
        }
        write!(f, " ({})", self.reason.name())?;
        if !request_id.is_empty() {
            write!(f, "; request {}", Cut(request_id, MAX_REQUEST_ID))?;
        }
        write!(f, "; see: {see}")
    }
}

/// The beginning of a text, with `...` if that is not all of it.
struct Cut<'a>(&'a str, usize);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text, most) = *self;
        match text.char_indices().nth(most) {
            Some((end, _)) => write!(f, "{}...", &text[..end]),
            None => f.write_str(text),
        }
    }
}

const ACCESS_LOG: &str = "the access log of the proxy (--access-log)";
const LISTENERS: &str = "outrigger proxy-config listeners";
const ROUTES: &str = "outrigger proxy-config routes";
const CLUSTERS: &str = "outrigger proxy-config clusters";
const ENDPOINTS: &str = "outrigger proxy-config endpoints";
const STATUS: &str = "outrigger status";
const CHECK: &str = "outrigger check DIRECTORY";

/// Returns the sentence for a reason, and where to read more. `<destination>` and `<request>` stand for those of the request.
fn text(reason: Reason) -> (&'static str, &'static str) {
    match reason {
        Reason::DownstreamProtocolError => ("the request is not valid HTTP", ACCESS_LOG),
        Reason::DownstreamConnectionTermination => {
            ("the client disconnected before the response was complete", ACCESS_LOG)
        }
        Reason::DownstreamTimeout => ("the client sent its request too slowly", ACCESS_LOG),
        Reason::DownstreamTlsFailure => ("the client's certificate or identity is not accepted", ACCESS_LOG),
        Reason::HeadersTooLarge => ("the header fields of the request exceed the limit", LISTENERS),
        Reason::UriTooLong => ("the request target exceeds the limit", LISTENERS),
        Reason::Http10Refused => ("HTTP/1.0 is not accepted here; use HTTP/1.1", LISTENERS),
        Reason::NoRouteFound => ("no route matches <request> for <destination>", ROUTES),
        Reason::UpgradeRefused => {
            ("<destination> does not open the tunnel that the request asks for", ROUTES)
        }
        Reason::NoDestination => {
            ("the mesh has no service <destination>; check its name, namespace and port", STATUS)
        }
        Reason::DestinationNotHttp => (
            "<destination> is a TCP service and gets no HTTP requests; connect through --bind or CONNECT, or set \
             appProtocol: http in its Service",
            LISTENERS,
        ),
        Reason::DestinationTimeout => {
            ("the control plane did not send a usable configuration of <destination> in time", STATUS)
        }
        Reason::NoClusterFound => ("the route of <destination> has an invalid backend", CHECK),
        Reason::NoHealthyUpstream => ("<destination> has no endpoint that is ready", STATUS),
        Reason::UpstreamOverflow => ("a limit on the requests to <destination> is reached", CLUSTERS),
        Reason::Overloaded => ("<destination> has more requests than it can process", CLUSTERS),
        Reason::UpstreamConnectionFailure => {
            ("no endpoint of <destination> could be connected to", ENDPOINTS)
        }
        Reason::UpstreamTlsFailure => {
            ("no endpoint of <destination> proved the expected identity", ENDPOINTS)
        }
        Reason::UpstreamConnectionTermination => {
            ("an endpoint of <destination> disconnected before its response was complete", ENDPOINTS)
        }
        Reason::UpstreamRemoteReset => ("an endpoint of <destination> reset the request", ENDPOINTS),
        Reason::UpstreamProtocolError => {
            ("an endpoint of <destination> sent a response that is not valid HTTP", ENDPOINTS)
        }
        Reason::UpstreamHeadersTooLarge => {
            ("the header fields of the response of <destination> exceed the limit", LISTENERS)
        }
        Reason::UpstreamRequestTimeout => ("<destination> did not respond within the timeout", ROUTES),
        Reason::UpstreamRetryLimitExceeded => ("all permitted attempts at <destination> failed", ENDPOINTS),
        Reason::RetryBudgetExceeded => {
            ("the retry budget of <destination> is exhausted; too many attempts failed", ENDPOINTS)
        }
        Reason::DirectResponse => ("the route of <destination> answers itself", ROUTES),
        Reason::Unauthenticated => {
            ("<destination> needs a valid token or key, which the request does not have", ROUTES)
        }
        Reason::KeysUnavailable => {
            ("the keys that verify the tokens for <destination> could not be loaded", "the log of the proxy")
        }
        Reason::ExternalAuthorizationDenied => {
            ("the external authorization service does not allow <request> for <destination>", LISTENERS)
        }
        Reason::ExternalAuthorizationFailed => (
            "the external authorization service cannot be asked about <request> for <destination>",
            LISTENERS,
        ),
        Reason::RateLimited => ("a limit on the requests to <destination> is reached", ROUTES),
        Reason::RateLimitServiceFailed => {
            ("the rate limit service cannot be asked about <request> for <destination>", LISTENERS)
        }
        Reason::BodyTooLarge => ("the body of the request exceeds the limit", LISTENERS),
        Reason::AccessDenied => {
            ("an authorization policy of <destination> does not allow this request", ROUTES)
        }
        Reason::FaultInjected => ("a fault policy of <destination> answers instead", ROUTES),
        Reason::ApplicationUnreachable => {
            ("the application behind <destination> does not accept connections", STATUS)
        }
        Reason::LocalError => ("the proxy failed", "the log of the proxy"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: FailedRequest<'_> = FailedRequest {
        method: "POST",
        path: "/x?key=secret",
        destination: Some(Cow::Borrowed("cart.shop.svc.cluster.local:80")),
        request_id: "7f",
    };

    fn explain(reason: Reason, request: FailedRequest<'_>) -> String {
        Explanation::new(reason, request).to_string()
    }

    #[test]
    fn a_failure_is_one_sentence_with_request_reason_and_command() {
        assert_eq!(
            explain(Reason::NoRouteFound, REQUEST),
            "no route matches POST /x for cart.shop.svc.cluster.local:80 (no_route_found); request 7f; see: outrigger \
             proxy-config routes"
        );
        assert_eq!(
            explain(Reason::NoHealthyUpstream, FailedRequest::default()),
            "the destination has no endpoint that is ready (no_healthy_upstream); see: outrigger status"
        );
    }

    #[test]
    fn every_reason_is_explained_by_its_name_without_placeholders_or_secrets() {
        for reason in Reason::ALL {
            for request in [REQUEST, FailedRequest::default()] {
                let text = explain(reason, request);
                assert!(
                    text.contains(&format!(" ({})", reason.name())) && text.contains("; see: "),
                    "{text}"
                );
                assert!(!text.contains(['<', '>', '\n']) && !text.contains("secret"), "{text}");
            }
        }
    }

    #[test]
    fn long_texts_of_the_client_are_cut() {
        let long = "x".repeat(5000);
        let request = FailedRequest { method: "GET", path: &long, request_id: &long, ..REQUEST };
        let text = explain(Reason::NoRouteFound, request);
        assert!(text.len() < 400 && text.contains("xxx... for cart."), "{text}");
    }
}
