//! Decoding of single wire fields, and the error that names an invalid one.
//!
//! Every decoder of a policy or resource returns [`Unusable`]. Each caller prepends the name of its own field, so that the
//! operator sees the whole path: `virtual_hosts[0].routes[2].route.retry_policy.num_retries`.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use outrigger_core::percentage::Percentage;
use outrigger_proto::xds::{core, protobuf, types};
use prost::Message;

/// The error for a field that is invalid or not supported: its path in the decoded message, and the problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// The path, in the notation of protobuf's text format: `routes[2].match.headers[0].name`.
    pub field: String,
    /// The problem, as a clause: `is not supported`.
    pub problem: String,
}

impl Unusable {
    /// Creates an error for `field`.
    pub fn new(field: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self { field: field.into(), problem: problem.to_string() }
    }

    /// Prepends `field`, the field of the enclosing message that contains this one.
    #[must_use]
    pub fn within(mut self, field: impl fmt::Display) -> Self {
        self.field =
            if self.field.is_empty() { field.to_string() } else { format!("{field}.{}", self.field) };
        self
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.problem)
        } else {
            write!(f, "{}: {}", self.field, self.problem)
        }
    }
}

impl std::error::Error for Unusable {}

/// Decodes the message in an `Any`. Returns an error if its type URL is not `type_url`.
pub fn unpack<M: Message + Default>(any: &protobuf::Any, type_url: &str) -> Result<M, Unusable> {
    if any.type_url != type_url {
        return Err(Unusable::new("type_url", format_args!("is {:?}, expected {type_url:?}", any.type_url)));
    }
    M::decode(&*any.value).map_err(|bad| Unusable::new("value", format_args!("cannot be decoded: {bad}")))
}

/// Returns an error if `field` is set: it would change the behaviour, and this proxy does not support it.
pub fn unsupported(field: &str, is_set: bool) -> Result<(), Unusable> {
    if is_set { Err(Unusable::new(field, "is not supported")) } else { Ok(()) }
}

/// Returns an error for the first of `fields` that is set.
pub fn unsupported_any(fields: &[(&str, bool)]) -> Result<(), Unusable> {
    fields.iter().try_for_each(|(field, is_set)| unsupported(field, *is_set))
}

/// Returns the value of a field, or an error if it is absent.
pub fn required<T>(field: &str, value: Option<T>) -> Result<T, Unusable> {
    value.ok_or_else(|| Unusable::new(field, "is required"))
}

/// Returns the text, or an error if it is empty.
pub fn non_empty(field: &str, value: String) -> Result<String, Unusable> {
    if value.is_empty() { Err(Unusable::new(field, "must not be empty")) } else { Ok(value) }
}

/// Decodes each element of a repeated field. Errors include the index.
pub fn each<W, T>(
    field: &str,
    values: Vec<W>,
    mut decode: impl FnMut(W) -> Result<T, Unusable>,
) -> Result<Vec<T>, Unusable> {
    let decode = |(at, value)| decode(value).map_err(|bad| bad.within(format_args!("{field}[{at}]")));
    values.into_iter().enumerate().map(decode).collect()
}

/// Decodes a duration. Returns an error if it is negative or longer than `google.protobuf.Duration` allows (ten thousand
/// years).
pub fn duration(field: &str, value: Option<protobuf::Duration>) -> Result<Option<Duration>, Unusable> {
    let Some(protobuf::Duration { seconds, nanos }) = value else { return Ok(None) };
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(seconds), u32::try_from(nanos)) else {
        return Err(Unusable::new(field, "is negative"));
    };
    if seconds > 315_576_000_000 || nanos > 999_999_999 {
        return Err(Unusable::new(field, "is out of range"));
    }
    Ok(Some(Duration::new(seconds, nanos)))
}

/// Decodes a duration. Returns an error if it is not positive.
pub fn positive_duration(
    field: &str,
    value: Option<protobuf::Duration>,
) -> Result<Option<Duration>, Unusable> {
    match duration(field, value)? {
        Some(Duration::ZERO) => Err(Unusable::new(field, "must be longer than 0s")),
        other => Ok(other),
    }
}

/// Decodes the status of a response that the proxy makes. Returns an error for one that no final response has.
pub(crate) fn final_status(field: &str, wire: types::HttpStatus) -> Result<StatusCode, Unusable> {
    let types::HttpStatus { code } = wire;
    let status = u16::try_from(code).ok().filter(|code| (200..600).contains(code));
    status
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| Unusable::new(field, format_args!("{code} is no final status")))
}

/// Decodes the status of a refusal by a rate limit. As in Envoy, one that is no error stands for 429.
pub(crate) fn limit_status(wire: Option<types::HttpStatus>) -> StatusCode {
    let status = wire.and_then(|wire| final_status("", wire).ok());
    status.filter(|status| status.as_u16() >= 400).unwrap_or(StatusCode::TOO_MANY_REQUESTS)
}

/// Unwraps a `UInt32Value`.
pub fn number(value: Option<protobuf::UInt32Value>) -> Option<u32> {
    value.map(|wrapped| wrapped.value)
}

/// Unwraps a `BoolValue`. Absent means false.
pub fn flag(value: Option<protobuf::BoolValue>) -> bool {
    value.is_some_and(|wrapped| wrapped.value)
}

/// Decodes a percentage. Returns an error above 100.
pub fn percent(field: &str, value: u32) -> Result<Percentage, Unusable> {
    value
        .checked_mul(10_000)
        .and_then(|parts| Percentage::from_millionths(parts).ok())
        .ok_or_else(|| Unusable::new(field, "is more than 100"))
}

/// Decodes an `envoy.type.v3.FractionalPercent`. As in Envoy, a numerator above the denominator means 100 %.
pub fn fraction(field: &str, value: types::FractionalPercent) -> Result<Percentage, Unusable> {
    let types::FractionalPercent { numerator, denominator } = value;
    let parts_each = match types::fractional_percent::DenominatorType::try_from(denominator) {
        Ok(types::fractional_percent::DenominatorType::Hundred) => 10_000,
        Ok(types::fractional_percent::DenominatorType::TenThousand) => 100,
        Ok(types::fractional_percent::DenominatorType::Million) => 1,
        Err(_) => return Err(Unusable::new(format!("{field}.denominator"), "is unknown")),
    };
    let parts = (u64::from(numerator) * parts_each).min(1_000_000) as u32;
    Percentage::from_millionths(parts).map_err(|bad| Unusable::new(field, bad))
}

/// Decodes a fraction that Envoy can override at run time.
///
/// There is no runtime layer here, so the default always applies, as in an Envoy without one.
pub fn runtime_fraction(
    field: &str,
    value: Option<core::RuntimeFractionalPercent>,
) -> Result<Option<Percentage>, Unusable> {
    let Some(core::RuntimeFractionalPercent { default_value, runtime_key: _ }) = value else {
        return Ok(None);
    };
    default_value.map(|value| fraction(&format!("{field}.default_value"), value)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_collects_its_path_on_the_way_up() {
        let bad =
            each("routes", vec![1, 2], |n| if n == 2 { Err(Unusable::new("name", "is bad")) } else { Ok(n) });
        let bad = bad.unwrap_err().within("virtual_hosts[0]");
        assert_eq!(bad.to_string(), "virtual_hosts[0].routes[1].name: is bad");
    }

    #[test]
    fn durations_out_of_range_are_refused_by_field() {
        let read = |seconds, nanos| duration("timeout", Some(protobuf::Duration { seconds, nanos }));
        assert_eq!(read(1, 500_000_000).unwrap(), Some(Duration::from_millis(1500)));
        assert_eq!(read(-1, 0).unwrap_err().to_string(), "timeout: is negative");
        assert_eq!(read(0, -1).unwrap_err().to_string(), "timeout: is negative");
        assert_eq!(read(i64::MAX, 0).unwrap_err().to_string(), "timeout: is out of range");
        assert_eq!(
            positive_duration("t", Some(protobuf::Duration { seconds: 0, nanos: 0 })).unwrap_err().field,
            "t"
        );
    }

    #[test]
    fn fractions_are_parts_of_a_million_and_never_more_than_all() {
        let read =
            |numerator, denominator| fraction("f", types::FractionalPercent { numerator, denominator });
        assert_eq!(read(1, 0).unwrap().millionths(), 10_000);
        assert_eq!(read(1, 1).unwrap().millionths(), 100);
        assert_eq!(read(u32::MAX, 2).unwrap(), Percentage::ALL);
        assert_eq!(read(1, 9).unwrap_err().to_string(), "f.denominator: is unknown");
        assert_eq!(percent("p", 101).unwrap_err().to_string(), "p: is more than 100");
    }
}
