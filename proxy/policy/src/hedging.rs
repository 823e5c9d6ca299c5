//! Hedging: a second attempt of a request while the first one still waits for its response.
//!
//! The route says whether an attempt that exceeds the per-attempt timeout continues beside the next one
//! (`envoy.config.route.v3.HedgePolicy`). The cluster says after which percentile of its latency a second attempt begins
//! (`Cluster.metadata`, `outrigger.hedging`, our own). The data path asks for the delay at each request, and reports how long first
//! attempts take. The state is that of one worker; without hedging there is none.

use std::time::Duration;

use outrigger_proto::xds::metadata::{MAX_DELAY_MS, MIN_DELAY_MS, PERCENTILE};
use outrigger_proto::xds::protobuf::{Struct, value::Kind};
use outrigger_proto::xds::route;

use crate::field::Unusable;

/// The longest delay.
const LONGEST: Duration = Duration::from_secs(3600);

/// The latencies that must be known before a percentile is: at least so many, and so many above the percentile.
const LEAST: u32 = 20;
const LEAST_ABOVE: u32 = 2;

/// When so many latencies are known, they count half from then on.
const WINDOW: u32 = 4096;

/// The percentile is computed again after so many further latencies.
const REFRESH: u32 = 16;

/// The parts of a doubling of the latency that are told apart: a percentile is up to an eighth too long.
const PARTS: u64 = 8;
const PART_BITS: u32 = PARTS.ilog2();

/// The doublings of a microsecond that are told apart: up to two minutes.
const DOUBLINGS: u32 = 27;
const BUCKETS: usize = (PARTS as usize) * (DOUBLINGS - PART_BITS + 1) as usize;

/// Decodes whether an attempt continues beside the next one after its timeout, if the message is present. `initial_requests` and
/// `additional_request_chance` are not implemented in Envoy either; it ignores them.
pub fn on_per_try_timeout(wire: Option<route::HedgePolicy>) -> Result<Option<bool>, Unusable> {
    let Some(wire) = wire else { return Ok(None) };
    let route::HedgePolicy { initial_requests, additional_request_chance: _, hedge_on_per_try_timeout } =
        wire;
    if initial_requests.is_some_and(|requests| requests.value == 0) {
        return Err(Unusable::new("initial_requests", "must be at least 1"));
    }
    Ok(Some(hedge_on_per_try_timeout))
}

/// When the requests to a cluster are hedged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hedging {
    /// The percentile of the latency of first attempts, in tenths: from 500 to 999.
    tenths: u32,
    /// The minimum delay.
    min_delay: Duration,
    /// The maximum delay, which applies too while the percentile is unknown. `None`: then there is no hedging.
    max_delay: Option<Duration>,
}

impl Hedging {
    /// Decodes the metadata: `percentile` from 50 to 99.9, and optional `min_delay_ms` and `max_delay_ms`, in milliseconds. Errors
    /// name the field.
    pub fn decode(wire: &Struct) -> Result<Self, Unusable> {
        let percentile = number(wire, PERCENTILE)?.ok_or_else(|| Unusable::new(PERCENTILE, "is required"))?;
        if !(50.0..=99.9).contains(&percentile) {
            return Err(Unusable::new(PERCENTILE, "is not between 50 and 99.9"));
        }
        let delay = |field| match number(wire, field)? {
            None => Ok(None),
            Some(millis) if (0.0..=LONGEST.as_millis() as f64).contains(&millis) => {
                Ok(Some(Duration::from_secs_f64(millis / 1000.0)))
            }
            Some(_) => Err(Unusable::new(field, "is not between 0 and an hour")),
        };
        let (min_delay, max_delay) = (delay(MIN_DELAY_MS)?.unwrap_or_default(), delay(MAX_DELAY_MS)?);
        if max_delay.is_some_and(|max| max < min_delay) {
            return Err(Unusable::new(MAX_DELAY_MS, "is shorter than min_delay_ms"));
        }
        Ok(Self { tenths: (percentile * 10.0).round() as u32, min_delay, max_delay })
    }

    /// Returns how long a request waits for its first attempt before a second one begins. Returns `None` while the percentile is
    /// not known.
    pub fn delay(&self, latencies: &mut Latencies) -> Option<Duration> {
        let delay = latencies.percentile(self.tenths).or(self.max_delay)?.max(self.min_delay);
        Some(self.max_delay.map_or(delay, |max| delay.min(max)))
    }
}

fn number(of: &Struct, field: &str) -> Result<Option<f64>, Unusable> {
    match of.fields.get(field).map(|value| &value.kind) {
        None => Ok(None),
        Some(Some(Kind::NumberValue(number))) => Ok(Some(*number)),
        Some(_) => Err(Unusable::new(field, "is no number")),
    }
}

/// The recent latencies of first attempts, as a histogram whose old counts fade. Has a fixed size.
#[derive(Debug, Clone)]
pub struct Latencies {
    counts: [u16; BUCKETS],
    total: u32,
    /// The percentile, in tenths, of the last delay, and its value then.
    known: Option<(u32, Duration)>,
    /// The latencies recorded since.
    since: u32,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0, known: None, since: 0 }
    }
}

impl Latencies {
    /// Records how long a first attempt took; for one that was abandoned, how long it was waited for.
    pub fn record(&mut self, latency: Duration) {
        if let Some(count) = self.counts.get_mut(bucket(latency)) {
            *count += 1;
            self.total += 1;
            self.since += 1;
        }
        if self.total >= WINDOW {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().map(|count| u32::from(*count)).sum();
        }
    }

    /// Returns the latency that this share of attempts, in thousandths, does not exceed. `None` if too few are known.
    fn percentile(&mut self, thousandths: u32) -> Option<Duration> {
        if let Some((of, known)) = self.known
            && of == thousandths
            && self.since < REFRESH
        {
            return Some(known);
        }
        if self.total < LEAST || self.total * (1000 - thousandths) < LEAST_ABOVE * 1000 {
            return None;
        }
        let rank = (self.total * thousandths).div_ceil(1000);
        let mut below = 0;
        let at = self.counts.iter().position(|count| {
            below += u32::from(*count);
            below >= rank
        })?;
        let known = Duration::from_micros(upper_bound(at));
        (self.known, self.since) = (Some((thousandths, known)), 0);
        Some(known)
    }
}

fn bucket(latency: Duration) -> usize {
    let longest = (1 << DOUBLINGS) - 1;
    let micros = u64::try_from(latency.as_micros()).unwrap_or(longest).min(longest);
    if micros < PARTS {
        return micros as usize;
    }
    let shift = micros.ilog2() - PART_BITS;
    (u64::from(shift + 1) * PARTS + (micros >> shift) % PARTS) as usize
}

/// The least latency above all of a bucket, in microseconds.
fn upper_bound(bucket: usize) -> u64 {
    let (row, part) = (bucket as u64 / PARTS, bucket as u64 % PARTS);
    if row == 0 { part + 1 } else { (PARTS + part + 1) << (row - 1) }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::protobuf::{UInt32Value, Value};
    use proptest::prelude::*;

    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn wire(fields: &[(&str, f64)]) -> Struct {
        let value = |number: f64| Value { kind: Some(Kind::NumberValue(number)) };
        Struct { fields: fields.iter().map(|(name, number)| ((*name).to_owned(), value(*number))).collect() }
    }

    fn of(count: usize, latency: Duration) -> Latencies {
        let mut latencies = Latencies::default();
        (0..count).for_each(|_| latencies.record(latency));
        latencies
    }

    #[test]
    fn settings_are_decoded_or_refused_by_field() {
        let hedging =
            Hedging::decode(&wire(&[(PERCENTILE, 99.9), (MIN_DELAY_MS, 0.5), (MAX_DELAY_MS, 20.0)]));
        let expected =
            Hedging { tenths: 999, min_delay: Duration::from_micros(500), max_delay: Some(ms(20)) };
        assert_eq!(hedging.unwrap(), expected);
        let refused: [(&[(&str, f64)], &str); 6] = [
            (&[], PERCENTILE),
            (&[(PERCENTILE, 49.9)], PERCENTILE),
            (&[(PERCENTILE, f64::NAN)], PERCENTILE),
            (&[(PERCENTILE, 95.0), (MIN_DELAY_MS, -1.0)], MIN_DELAY_MS),
            (&[(PERCENTILE, 95.0), (MAX_DELAY_MS, f64::INFINITY)], MAX_DELAY_MS),
            (&[(PERCENTILE, 95.0), (MIN_DELAY_MS, 2.0), (MAX_DELAY_MS, 1.0)], MAX_DELAY_MS),
        ];
        for (fields, field) in refused {
            assert_eq!(Hedging::decode(&wire(fields)).unwrap_err().field, field, "{fields:?}");
        }
        let mut text = wire(&[]);
        text.fields.insert(PERCENTILE.into(), Value { kind: Some(Kind::StringValue("95".into())) });
        assert_eq!(Hedging::decode(&text).unwrap_err().field, PERCENTILE);
    }

    #[test]
    fn a_routes_policy_is_whether_an_attempt_continues_after_its_timeout() {
        let policy = |initial_requests: Option<u32>, hedge_on_per_try_timeout| route::HedgePolicy {
            initial_requests: initial_requests.map(|value| UInt32Value { value }),
            hedge_on_per_try_timeout,
            ..Default::default()
        };
        assert_eq!(on_per_try_timeout(None), Ok(None));
        assert_eq!(on_per_try_timeout(Some(policy(None, false))), Ok(Some(false)));
        assert_eq!(on_per_try_timeout(Some(policy(Some(2), true))), Ok(Some(true)), "as in Envoy");
        assert_eq!(on_per_try_timeout(Some(policy(Some(0), true))).unwrap_err().field, "initial_requests");
    }

    #[test]
    fn the_delay_is_unknown_until_there_are_enough_latencies_and_stays_within_its_bounds() {
        let hedging = |min: u64, max| Hedging { tenths: 950, min_delay: ms(min), max_delay: max };
        assert_eq!(hedging(0, None).delay(&mut of(39, ms(10))), None, "one in twenty is above: 40 have two");
        assert_eq!(hedging(0, Some(ms(70))).delay(&mut of(39, ms(10))), Some(ms(70)));
        let known = hedging(0, None).delay(&mut of(40, ms(10))).unwrap();
        assert!((ms(10)..=ms(12)).contains(&known), "{known:?}");
        assert_eq!(hedging(20, None).delay(&mut of(40, ms(10))), Some(ms(20)));
        assert_eq!(hedging(1, Some(ms(5))).delay(&mut of(40, ms(10))), Some(ms(5)));
    }

    #[test]
    fn the_percentile_follows_the_latency() {
        let mut latencies = of(10_000, ms(1));
        assert!(latencies.percentile(950).unwrap() < ms(2));
        (0..WINDOW).for_each(|_| latencies.record(ms(100)));
        assert!(latencies.percentile(950).unwrap() > ms(99));
    }

    #[test]
    fn waits_of_any_length_are_counted() {
        for latency in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(100), Duration::MAX] {
            let mut latencies = of(100_000, latency);
            assert!(latencies.total < WINDOW && latencies.percentile(500).is_some());
        }
    }

    proptest! {
        #[test]
        fn a_percentile_is_an_eighth_too_long_at_most(
            mut micros in proptest::collection::vec(0u64..100_000_000, 100..1000),
            thousandths in 500u32..=980,
        ) {
            let mut latencies = Latencies::default();
            micros.iter().for_each(|micros| latencies.record(Duration::from_micros(*micros)));
            micros.sort_unstable();
            let exact = micros[(micros.len() * thousandths as usize).div_ceil(1000) - 1];
            let found = latencies.percentile(thousandths).unwrap().as_micros() as u64;
            prop_assert!((exact + 1..=exact + exact / PARTS + 1).contains(&found), "{found} for {exact}");
        }
    }
}
