//! How long a request may take (`RouteAction.timeout`, `idle_timeout`, `max_stream_duration`).

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use outrigger_proto::xds::{protobuf, route::route_action};

use crate::field::{Unusable, duration};

/// The field of a request that says how long the proxy that sends it waits for the response, in milliseconds (Envoy's field).
pub const EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// A route's timeouts. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the head of the request to the end of its response, including all attempts and the back-off between them
    /// (GEP-1742). Envoy starts this timeout at the end of the request instead, which gives slow uploads more time.
    pub request: Option<Duration>,
    /// Without a byte in either direction. `None`: the connection manager's setting applies.
    pub idle: Option<Option<Duration>>,
    /// From the first byte of the request to the last byte of the response.
    pub stream: Option<Duration>,
    grpc: Option<GrpcTimeout>,
}

/// How a client's `grpc-timeout` replaces `request`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GrpcTimeout {
    /// Its upper bound. `None` is no bound.
    at_most: Option<Duration>,
    /// Subtracted, so that this timeout expires before the client's own deadline.
    offset: Duration,
}

impl Timeouts {
    /// Envoy's defaults: 15 s for the request (`RouteAction.timeout`).
    pub const DEFAULT: Self =
        Self { request: Some(Duration::from_secs(15)), idle: None, stream: None, grpc: None };

    /// Decodes the fields of a route action. Zero is no limit.
    pub fn decode(
        timeout: Option<protobuf::Duration>,
        idle_timeout: Option<protobuf::Duration>,
        stream: Option<route_action::MaxStreamDuration>,
    ) -> Result<Self, Unusable> {
        let limit = |value: Duration| (!value.is_zero()).then_some(value);
        let request = duration("timeout", timeout)?.map_or(Self::DEFAULT.request, limit);
        let idle = duration("idle_timeout", idle_timeout)?.map(limit);
        let Some(stream) = stream else { return Ok(Self { request, idle, stream: None, grpc: None }) };
        let route_action::MaxStreamDuration {
            max_stream_duration,
            grpc_timeout_header_max,
            grpc_timeout_header_offset,
        } = stream;
        let read = |field: &str, value| duration(&format!("max_stream_duration.{field}"), value);
        let stream = read("max_stream_duration", max_stream_duration)?.and_then(limit);
        let offset = read("grpc_timeout_header_offset", grpc_timeout_header_offset)?.unwrap_or_default();
        let grpc = read("grpc_timeout_header_max", grpc_timeout_header_max)?
            .map(|at_most| GrpcTimeout { at_most: limit(at_most), offset });
        Ok(Self { request, idle, stream, grpc })
    }

    /// Returns the timeout of one request: the client's `grpc-timeout` if the route accepts it, otherwise the route's own.
    pub fn for_request(&self, headers: &HeaderMap) -> Option<Duration> {
        let Some(GrpcTimeout { at_most, offset }) = self.grpc else { return self.request };
        let asked = headers.get("grpc-timeout").and_then(|value| grpc_timeout(value.as_bytes()));
        let Some(asked) = asked else { return self.request };
        let asked = asked.saturating_sub(offset).max(Duration::from_millis(1));
        Some(at_most.map_or(asked, |at_most| asked.min(at_most)))
    }
}

/// Returns how long the sender of a request waits for its response, if it says so: `grpc-timeout` or [`EXPECTED`].
pub fn of_client(headers: &HeaderMap) -> Option<Duration> {
    let of_grpc = headers.get("grpc-timeout").and_then(|value| grpc_timeout(value.as_bytes()));
    let expected = headers.get(EXPECTED).and_then(|value| value.to_str().ok()?.parse().ok());
    of_grpc.into_iter().chain(expected.map(Duration::from_millis)).min()
}

/// Parses `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Timeout"). Returns `None` if it is malformed.
pub fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0, |sum: u64, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: i64) -> Option<protobuf::Duration> {
        Some(protobuf::Duration { seconds, nanos: 0 })
    }

    #[test]
    fn absent_is_fifteen_seconds_and_zero_is_no_limit() {
        assert_eq!(Timeouts::decode(None, None, None).unwrap(), Timeouts::DEFAULT);
        let none = Timeouts::decode(seconds(0), seconds(0), None).unwrap();
        assert_eq!((none.request, none.idle), (None, Some(None)));
    }

    #[test]
    fn the_clients_grpc_timeout_counts_up_to_its_bound() {
        let stream =
            route_action::MaxStreamDuration { grpc_timeout_header_max: seconds(5), ..Default::default() };
        let timeouts = Timeouts::decode(seconds(9), None, Some(stream)).unwrap();
        let asked = |value: &'static str| {
            let headers = HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), value.parse().unwrap())]);
            timeouts.for_request(&headers).unwrap()
        };
        assert_eq!(asked("2S"), Duration::from_secs(2));
        assert_eq!(asked("2H"), Duration::from_secs(5));
        assert_eq!(asked("0n"), Duration::from_millis(1));
        assert_eq!(asked("nonsense"), Duration::from_secs(9));
        assert_eq!(timeouts.for_request(&HeaderMap::new()), Some(Duration::from_secs(9)));
    }

    #[test]
    fn the_shorter_of_the_times_that_a_client_waits_counts() {
        let asked = |fields: &[(&'static str, &'static str)]| {
            let field = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), value.parse().unwrap())
            };
            of_client(&fields.iter().map(field).collect())
        };
        let (grpc, expected) = (("grpc-timeout", "2S"), ("x-envoy-expected-rq-timeout-ms", "1500"));
        assert_eq!(asked(&[grpc, expected]), Some(Duration::from_millis(1500)));
        assert_eq!(asked(&[grpc]), Some(Duration::from_secs(2)));
        assert_eq!(asked(&[("x-envoy-expected-rq-timeout-ms", "soon")]), None);
    }

    #[test]
    fn negative_limits_are_refused_by_field() {
        assert_eq!(Timeouts::decode(seconds(-1), None, None).unwrap_err().field, "timeout");
        let stream =
            route_action::MaxStreamDuration { max_stream_duration: seconds(-1), ..Default::default() };
        let bad = Timeouts::decode(None, None, Some(stream)).unwrap_err();
        assert_eq!(bad.field, "max_stream_duration.max_stream_duration");
    }

    #[test]
    fn grpc_timeouts_have_at_most_eight_digits_and_a_unit() {
        assert_eq!(grpc_timeout(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in [&b""[..], b"S", b"1", b"123456789S", b"-1S", b"1x"] {
            assert_eq!(grpc_timeout(bad), None);
        }
    }
}
