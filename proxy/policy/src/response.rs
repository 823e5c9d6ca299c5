//! The facts in the head of a response that policies use, read in one pass over its fields.
//!
//! The data path reads them once for each answered attempt. [`crate::retry`], [`crate::blame`] and [`crate::pushback`]
//! decide by them.

use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, StatusCode};
use outrigger_core::reason::Reason;

use crate::pushback::{Pushback, of_grpc, retry_after};

/// The field that carries a gRPC status, in the head or in trailers (gRPC over HTTP/2, "Responses").
pub const GRPC_STATUS: &str = "grpc-status";

/// Reads the value of [`GRPC_STATUS`]. Returns `None` if it is no number below 256.
pub fn read_grpc_status(value: &HeaderValue) -> Option<u8> {
    value.to_str().ok()?.parse().ok()
}

/// The facts of a response. Of a repeated field, the first line counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseFacts {
    /// The HTTP status.
    pub status: StatusCode,
    /// `grpc-status`, which is in the head if there is no body. `None` if it is not a number below 256.
    pub grpc_status: Option<u8>,
    /// Why a proxy behind this one made the response itself. `None` if the application made it.
    pub reason: Option<Reason>,
    /// The endpoint's pushback.
    pub pushback: Option<Pushback>,
}

impl ResponseFacts {
    /// Reads the head of a response. `now` reads the wall clock; it is called only for a `Retry-After` that is a date.
    pub fn read(status: StatusCode, fields: &HeaderMap, now: impl FnOnce() -> SystemTime) -> Self {
        let [mut grpc_status, mut reason, mut grpc_pushback, mut after] = [None; 4];
        for (name, value) in fields {
            let field: &mut Option<&HeaderValue> = match name.as_str() {
                GRPC_STATUS => &mut grpc_status,
                Reason::FIELD => &mut reason,
                "grpc-retry-pushback-ms" => &mut grpc_pushback,
                "retry-after" => &mut after,
                _ => continue,
            };
            field.get_or_insert(value);
        }
        let pushback = match (grpc_pushback, after) {
            (Some(value), _) => Some(of_grpc(value)),
            (None, Some(value)) => retry_after(status, value, now),
            (None, None) => None,
        };
        Self {
            status,
            grpc_status: grpc_status.and_then(read_grpc_status),
            reason: reason.and_then(|name| Reason::named(name.to_str().ok()?)),
            pushback,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn the_first_of_each_field_counts() {
        let fields: HeaderMap = [
            ("grpc-status", "14"),
            ("grpc-status", "0"),
            ("x-outrigger-reason", "no_healthy_upstream"),
            ("content-type", "text/plain"),
        ]
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .into_iter()
        .collect();
        let facts = ResponseFacts::read(StatusCode::OK, &fields, || SystemTime::UNIX_EPOCH);
        let expected = ResponseFacts {
            status: StatusCode::OK,
            grpc_status: Some(14),
            reason: Some(Reason::NoHealthyUpstream),
            pushback: None,
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        for (name, value) in
            [("grpc-status", "4294967295"), ("grpc-status", "ok"), ("x-outrigger-reason", "no")]
        {
            let fields =
                HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
            let facts = ResponseFacts::read(StatusCode::OK, &fields, || SystemTime::UNIX_EPOCH);
            assert_eq!((facts.grpc_status, facts.reason), (None, None), "{name}: {value}");
        }
    }
}
