//! A time in milliseconds, as both formats of the access log write it: with a fraction in microseconds.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// A time in milliseconds, rounded down to microseconds. `{}` has three decimals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Milliseconds(Duration);

impl From<Duration> for Milliseconds {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl Milliseconds {
    /// Appends it as a JSON number, without zeros at the end.
    pub(super) fn write(self, line: &mut Vec<u8>) {
        let (whole, micros) = self.parts();
        line.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
        let digits = [micros / 100, micros / 10 % 10, micros % 10].map(|digit| b'0' + digit as u8);
        let used = digits.iter().rposition(|digit| *digit != b'0').map_or(1, |last| last + 1);
        line.push(b'.');
        line.extend_from_slice(&digits[..used]);
    }

    /// Returns whole milliseconds, and the microseconds that are left.
    fn parts(self) -> (u128, u32) {
        (self.0.as_millis(), self.0.subsec_micros() % 1000)
    }
}

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, micros) = self.parts();
        write!(f, "{whole}.{micros:03}")
    }
}

impl Serialize for Milliseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_micros() as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_are_the_same_number() {
        for (micros, text, json) in [
            (0, "0.000", "0.0"),
            (1, "0.001", "0.001"),
            (250, "0.250", "0.25"),
            (12_345, "12.345", "12.345"),
            (1_500_000, "1500.000", "1500.0"),
            (86_400_000_010, "86400000.010", "86400000.01"),
        ] {
            let time = Milliseconds::from(Duration::from_micros(micros));
            let mut line = Vec::new();
            time.write(&mut line);
            assert_eq!((time.to_string().as_str(), std::str::from_utf8(&line).unwrap()), (text, json));
            assert_eq!(serde_json::to_string(&time).unwrap(), json);
        }
    }
}
