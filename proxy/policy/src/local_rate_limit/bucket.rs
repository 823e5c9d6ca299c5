//! Token buckets, which all workers share: one atomic number each, and no lock.
//!
//! The number is the time at which the bucket would have been empty. Tokens are added all the time, not once per interval, so
//! that a limit is not used up at the beginning of each interval.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use outrigger_proto::xds::types;

use crate::field::{Unusable, duration, number, required};

/// The shortest interval between fills, as in Envoy.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);

/// A rounding error, in tokens.
const ROUNDING: f64 = 1e-6;

/// How much a bucket holds and how fast it is filled (`envoy.type.v3.TokenBucket`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    pub(super) most: f64,
    per_second: f64,
}

/// A bucket. It is full at first.
#[derive(Debug)]
pub(super) struct Bucket {
    /// The bits of seconds as `f64`.
    empty_at: AtomicU64,
}

/// The outcome of taking a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Taken {
    /// Whether there was one.
    pub(super) taken: bool,
    /// The tokens that are left.
    pub(super) left: f64,
    /// When there is one more token, in seconds.
    pub(super) next: f64,
}

impl Rate {
    pub(super) fn decode(wire: types::TokenBucket) -> Result<Self, Unusable> {
        let types::TokenBucket { max_tokens, tokens_per_fill, fill_interval } = wire;
        let positive = |field: &str, tokens: u32| match tokens {
            0 => Err(Unusable::new(field, "must be more than 0")),
            tokens => Ok(f64::from(tokens)),
        };
        let interval = required("fill_interval", duration("fill_interval", fill_interval)?)?;
        if interval < SHORTEST_INTERVAL {
            return Err(Unusable::new("fill_interval", "is shorter than 50ms"));
        }
        let per_fill = positive("tokens_per_fill", number(tokens_per_fill).unwrap_or(1))?;
        let most = positive("max_tokens", max_tokens)?;
        Ok(Self { most, per_second: per_fill / interval.as_secs_f64() })
    }
}

impl Default for Bucket {
    fn default() -> Self {
        Self { empty_at: AtomicU64::new(f64::NEG_INFINITY.to_bits()) }
    }
}

impl Bucket {
    /// Takes a token at the time `now`, since a fixed point.
    pub(super) fn take(&self, rate: Rate, now: Duration) -> Taken {
        let Rate { most, per_second } = rate;
        let now = now.as_secs_f64();
        let mut seen = self.empty_at.load(Relaxed);
        loop {
            let empty_at = f64::from_bits(seen).max(now - most / per_second);
            let tokens = (now - empty_at) * per_second;
            if tokens < 1.0 - ROUNDING {
                return Taken { taken: false, left: tokens.max(0.0), next: (1.0 - tokens) / per_second };
            }
            let after = (empty_at + 1.0 / per_second).to_bits();
            match self.empty_at.compare_exchange_weak(seen, after, Relaxed, Relaxed) {
                Ok(_) => {
                    let left = (tokens - 1.0).max(0.0);
                    return Taken { taken: true, left, next: (1.0 - left.fract()) / per_second };
                }
                Err(other) => seen = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { most: 10.0, per_second: 100.0 };

    #[test]
    fn a_bucket_is_full_at_first_and_filled_all_the_time() {
        let (bucket, at) = (Bucket::default(), Duration::from_millis);
        let taken = |now| (0..1000).take_while(|_| bucket.take(RATE, at(now)).taken).count();
        assert_eq!((taken(5), taken(5), taken(14), taken(15)), (10, 0, 0, 1));
        assert_eq!((taken(45), taken(10_000)), (3, 10));
        let empty = bucket.take(RATE, at(10_004));
        assert!(
            !empty.taken && (empty.left - 0.4).abs() < 0.01 && (empty.next - 0.006).abs() < 0.001,
            "{empty:?}"
        );
    }

    #[test]
    fn time_that_seems_to_go_back_gives_nothing() {
        let bucket = Bucket::default();
        (0..10).for_each(|_| assert!(bucket.take(RATE, Duration::from_secs(5)).taken));
        assert!(!bucket.take(RATE, Duration::from_secs(4)).taken);
        assert!(bucket.take(RATE, Duration::from_millis(5010)).taken);
    }

    #[test]
    fn threads_that_share_a_bucket_never_take_more_than_it_had() {
        let bucket = Bucket::default();
        let rate = Rate { most: 1000.0, per_second: 1.0 };
        let taken = |bucket: &Bucket| {
            (0..10_000).filter(|_| bucket.take(rate, Duration::from_millis(1)).taken).count()
        };
        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| taken(&bucket))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(total, 1000);
    }

    #[test]
    fn a_bucket_without_tokens_is_refused_by_field() {
        let refused = |max_tokens, per_fill, seconds, nanos| {
            let fill_interval = Some(outrigger_proto::xds::protobuf::Duration { seconds, nanos });
            let tokens_per_fill = Some(outrigger_proto::xds::protobuf::UInt32Value { value: per_fill });
            let wire = types::TokenBucket { max_tokens, tokens_per_fill, fill_interval };
            Rate::decode(wire).unwrap_err().field
        };
        assert_eq!(refused(0, 1, 1, 0), "max_tokens");
        assert_eq!(refused(1, 0, 1, 0), "tokens_per_fill");
        assert_eq!(refused(1, 1, 0, 49_000_000), "fill_interval");
        assert_eq!(Rate::decode(types::TokenBucket::default()).unwrap_err().field, "fill_interval");
    }
}
