//! Durations as flags have them: `250ms`, `30s`, `1m30s`, `24h`.

use std::time::Duration;

/// Parses a duration with units. Zero is accepted, negative values are not.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "a duration is a number with a unit, as in 250ms, 30s or 1m30s".to_owned())?;
    Duration::try_from(duration).map_err(|_| "a duration must not be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_with_a_unit_and_not_negative() {
        for (text, milliseconds) in
            [("250ms", 250), ("30s", 30_000), ("1m30s", 90_000), ("24h", 86_400_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["30", "", "soon", "-1s"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
