//! Bounds of settings of traffic that their types do not have.

use std::time::Duration;

use super::strict::at;
use super::value::{GepDuration, Integer};

/// The maximum of xDS's numbers.
pub(super) const LARGEST: i64 = u32::MAX as i64;

/// Returns the duration in this field. Returns an error if it is zero.
pub(super) fn positive(field: &str, duration: Option<GepDuration>) -> Result<Option<Duration>, String> {
    match duration {
        Some(GepDuration(Duration::ZERO)) => Err(at(field, "is zero")),
        duration => Ok(duration.map(|duration| duration.0)),
    }
}

/// Returns the number.
pub(super) fn number<const MIN: i64, const MAX: i64>(value: Option<Integer<MIN, MAX>>) -> Option<u32> {
    value.map(Integer::as_u32)
}
