//! A share of requests, in parts per million.
//!
//! xDS writes shares as a numerator over one hundred, ten thousand or one million (`envoy.type.v3.FractionalPercent`).

use thiserror::Error;

/// A share between 0 and 100 %, in parts per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percentage(u32);

impl Percentage {
    /// None of the requests.
    pub const ZERO: Self = Self(0);
    /// All of the requests.
    pub const ALL: Self = Self(1_000_000);

    /// Creates a share from parts per million. Returns an error above one million.
    pub fn from_millionths(parts: u32) -> Result<Self, PercentageError> {
        if parts > 1_000_000 { Err(PercentageError(parts)) } else { Ok(Self(parts)) }
    }

    /// Returns the share in parts per million.
    pub fn millionths(self) -> u32 {
        self.0
    }

    /// Returns whether a request is part of the share. `sample` is random, uniform over `u32`.
    pub fn holds(self, sample: u32) -> bool {
        // Multiplies instead of dividing: exact at both ends, with a bias of less than 1 in 2^32 between them.
        ((u64::from(sample) * 1_000_000) >> 32) < u64::from(self.0)
    }
}

/// A share above 100 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0} parts per million is more than all")]
pub struct PercentageError(u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_percent_never_holds_and_a_hundred_always_does() {
        for sample in [0, 1, u32::MAX / 2, u32::MAX] {
            assert!(!Percentage::ZERO.holds(sample));
            assert!(Percentage::ALL.holds(sample));
        }
    }

    #[test]
    fn a_tenth_holds_the_lowest_tenth() {
        let tenth = Percentage::from_millionths(100_000).unwrap();
        assert!(tenth.holds(u32::MAX / 10 - 1));
        assert!(!tenth.holds(u32::MAX / 10 + 5000));
        assert!(Percentage::from_millionths(1_000_001).is_err());
    }
}
