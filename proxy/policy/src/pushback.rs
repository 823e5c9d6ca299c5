//! Pushback: how long an endpoint wants no requests. `Retry-After` of a 429 or 503 (RFC 9110 section 10.2.3, RFC 6585
//! section 4), and gRPC's pushback (proposal A6, "Pushback").
//!
//! Read by [`crate::response::ResponseFacts`] and passed to [`crate::outlier::Health::push_back`], which makes all workers
//! avoid the endpoint while there is another, and to the retry decision.

use std::time::{Duration, SystemTime};

use http::{HeaderValue, StatusCode};

/// The pushback of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// No requests before this long has elapsed.
    After(Duration),
    /// No retry of this request (a negative pushback, or one that is not a number). Does not affect other requests.
    Never,
}

/// Parses `Retry-After`. `now` reads the wall clock, for a date. Returns `None` if the status is neither 429 nor 503, if the
/// value is malformed, or if the time has passed.
pub(crate) fn retry_after(
    status: StatusCode,
    value: &HeaderValue,
    now: impl FnOnce() -> SystemTime,
) -> Option<Pushback> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let value = value.to_str().ok()?.trim();
    let after = if !value.is_empty() && value.bytes().all(|digit| digit.is_ascii_digit()) {
        // A number that overflows is capped.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now()).unwrap_or_default()
    };
    (!after.is_zero()).then_some(Pushback::After(after))
}

/// Parses `grpc-retry-pushback-ms`.
pub(crate) fn of_grpc(value: &HeaderValue) -> Pushback {
    let milliseconds = value.to_str().ok().and_then(|value| value.trim().parse::<i32>().ok());
    match milliseconds.and_then(|value| u64::try_from(value).ok()) {
        Some(value) => Pushback::After(Duration::from_millis(value)),
        None => Pushback::Never,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};

    use super::*;
    use crate::response::ResponseFacts;

    fn asked(status: u16, field: &'static str, value: &str) -> Option<Pushback> {
        let now = || httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let headers = HeaderMap::from_iter([(HeaderName::from_static(field), value.parse().unwrap())]);
        ResponseFacts::read(StatusCode::from_u16(status).unwrap(), &headers, now).pushback
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let after = |seconds| Some(Pushback::After(Duration::from_secs(seconds)));
        for (value, expected) in [
            ("3", after(3)),
            (" 120 ", after(120)),
            ("99999999999999999999999", after(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", after(10)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", after(10)),
            ("Sun Nov  6 08:49:47 1994", after(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", None),
            ("0", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(asked(429, "retry-after", value), expected, "{value:?}");
            assert_eq!(asked(503, "retry-after", value), expected, "{value:?}");
        }
    }

    #[test]
    fn only_a_429_or_503_means_the_endpoint() {
        for status in [200, 301, 413, 500, 504] {
            assert_eq!(asked(status, "retry-after", "3"), None, "{status}");
        }
    }

    #[test]
    fn grpc_pushes_back_in_milliseconds_or_for_good() {
        let pushback = |value| asked(200, "grpc-retry-pushback-ms", value);
        assert_eq!(pushback("1500"), Some(Pushback::After(Duration::from_millis(1500))));
        assert_eq!(pushback("0"), Some(Pushback::After(Duration::ZERO)));
        for never in ["-1", "soon", "", "99999999999"] {
            assert_eq!(pushback(never), Some(Pushback::Never), "{never:?}");
        }
    }
}
