//! Formats a time relative to now.

use jiff::Timestamp;

/// Returns `in 23h`, `in 5m`, or `3m ago`, of a time in RFC 3339. Returns the text itself if it is not a time.
pub(crate) fn relative(time: &str, now: Timestamp) -> String {
    let Ok(time) = time.parse::<Timestamp>() else { return time.to_owned() };
    let seconds = time.as_second() - now.as_second();
    match seconds {
        0.. => format!("in {}", rounded(seconds)),
        _ => format!("{} ago", rounded(-seconds)),
    }
}

/// Returns true if a time in RFC 3339 has passed.
pub(crate) fn has_passed(time: &str, now: Timestamp) -> bool {
    time.parse::<Timestamp>().is_ok_and(|time| time <= now)
}

/// Rounds down to one unit, of which there are at least two.
fn rounded(seconds: i64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rounded_to_one_unit() {
        let now = "2026-11-28T12:00:00Z".parse().unwrap();
        for (time, text) in [
            ("2026-11-28T12:00:20Z", "in 20s"),
            ("2026-11-28T12:05:59Z", "in 5m"),
            ("2026-11-29T11:00:00Z", "in 23h"),
            ("2026-12-05T12:00:00Z", "in 7d"),
            ("2026-11-28T11:57:00Z", "3m ago"),
            ("soon", "soon"),
        ] {
            assert_eq!(relative(time, now), text);
        }
        assert!(has_passed("2026-11-28T12:00:00Z", now) && !has_passed("2026-11-28T12:00:01Z", now));
    }
}
