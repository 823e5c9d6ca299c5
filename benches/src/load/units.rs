//! Durations and sizes as they are written in arguments and reports.

use std::time::Duration;

/// Parses `500ms`, `1.5s`, `2m` or `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text}: a duration is a number with ms, s, m or h");
    let digits = text.find(|one: char| one != '.' && !one.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    // The year is a bound that no sum of durations overflows with.
    let seconds = Some(number * seconds).filter(|seconds| *seconds <= 365.0 * 86_400.0);
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("{text}: a duration is at most a year"))
}

/// Parses `200`, `16KiB`, `1MiB` or `1GiB` into bytes.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let wrong = || format!("{text}: a size is a number of bytes, with KiB, MiB or GiB if wanted");
    let digits = text.find(|one: char| !one.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(wrong()),
    };
    let number: usize = number.parse().map_err(|_| wrong())?;
    let bytes = number.checked_mul(1 << shift).filter(|bytes| *bytes <= 4 << 30);
    bytes.ok_or_else(|| format!("{text}: a size is at most 4 GiB"))
}

/// Nanoseconds as text, with three digits.
pub(super) fn milliseconds(nanoseconds: u64) -> String {
    let milliseconds = nanoseconds as f64 / 1e6;
    match milliseconds {
        ..1.0 => format!("{milliseconds:.3}"),
        ..10.0 => format!("{milliseconds:.2}"),
        ..100.0 => format!("{milliseconds:.1}"),
        _ => format!("{milliseconds:.0}"),
    }
}

/// A duration as [`duration`] parses it.
pub(super) fn text(duration: Duration) -> String {
    match duration.as_millis() {
        whole if whole % 1000 == 0 => format!("{}s", whole / 1000),
        part => format!("{part}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let of = |text| duration(text).ok();
        assert_eq!(of("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(
            [of("1.5s"), of("2m"), of("1h")],
            [1500, 120_000, 3_600_000].map(|ms| Some(Duration::from_millis(ms)))
        );
        assert_eq!([of("5"), of("s"), of("-1s"), of("1.2.3s"), of("9999999h")], [None; 5]);
        assert_eq!([text(Duration::from_secs(60)), text(Duration::from_millis(1500))], ["60s", "1500ms"]);
    }

    #[test]
    fn sizes_may_have_units() {
        assert_eq!(
            (size("200").unwrap(), size("16KiB").unwrap(), size("1MiB").unwrap()),
            (200, 16_384, 1 << 20)
        );
        assert!(
            size("16k").is_err()
                && size("").is_err()
                && size("5GiB").is_err()
                && size("99999999999GiB").is_err()
        );
    }

    #[test]
    fn latencies_have_three_digits() {
        assert_eq!(
            [1_234, 1_234_567, 12_345_678, 123_456_789].map(milliseconds),
            ["0.001", "1.23", "12.3", "123"]
        );
    }
}
