//! One limit: whom it applies to, its rate and its buckets.
//!
//! Buckets outlive the configuration: the next version of a resource takes over those of the limits that it still has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use outrigger_proto::xds::common_ratelimit::{self, rate_limit_descriptor::Entry};

use super::bucket::{Bucket, Rate, Taken};
use crate::descriptor::Descriptor;
use crate::field::{Unusable, each, non_empty, required};

/// A limit.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    pub(super) rate: Rate,
    /// The descriptor that it applies to. `None` for all requests.
    entries: Option<Box<[(String, Value)]>>,
    /// Whether it only counts.
    pub(super) shadow: bool,
    /// How many values of [`Value::Each`] have buckets of their own at a time.
    most_values: usize,
    buckets: OnceLock<Arc<Buckets>>,
}

/// The value of a descriptor's entry that a limit applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    This(String),
    /// Any value; each has its own bucket.
    Each,
}

#[derive(Debug, Default)]
struct Buckets {
    all: Bucket,
    by_value: Mutex<HashMap<Box<[String]>, Used>>,
}

/// A bucket, and the time of its last use.
type Used = (Arc<Bucket>, Duration);

impl Limit {
    /// Creates the limit of all requests.
    pub(super) fn of_all(rate: Rate) -> Self {
        Self { rate, entries: None, shadow: false, most_values: 0, buckets: OnceLock::new() }
    }

    pub(super) fn decode(
        wire: common_ratelimit::LocalRateLimitDescriptor,
        most_values: usize,
    ) -> Result<Self, Unusable> {
        let common_ratelimit::LocalRateLimitDescriptor { entries, token_bucket, shadow_mode } = wire;
        required("entries", entries.first())?;
        let entries = each("entries", entries, |Entry { key, value }| {
            let value = if value.is_empty() { Value::Each } else { Value::This(value) };
            Ok((non_empty("key", key)?, value))
        })?;
        let rate = Rate::decode(required("token_bucket", token_bucket)?);
        Ok(Self {
            rate: rate.map_err(|bad| bad.within("token_bucket"))?,
            entries: Some(entries.into()),
            shadow: shadow_mode,
            most_values,
            buckets: OnceLock::new(),
        })
    }

    /// Returns whether it applies to `descriptor`.
    pub(super) fn applies_to(&self, descriptor: &Descriptor) -> bool {
        self.entries.as_ref().is_some_and(|entries| {
            entries.len() == descriptor.len()
                && entries.iter().zip(descriptor).all(|((key, value), (of_key, of_value))| {
                    key == of_key && (*value == Value::Each || *value == Value::This(of_value.clone()))
                })
        })
    }

    /// Takes a token for a request with `descriptor`.
    pub(super) fn take(&self, descriptor: &[(String, String)], now: Duration) -> Taken {
        let buckets = self.buckets.get_or_init(Arc::default);
        let entries = self.entries.iter().flatten().zip(descriptor);
        let values: Box<[String]> = entries
            .filter(|((_, value), _)| *value == Value::Each)
            .map(|(_, (_, value))| value.clone())
            .collect();
        if values.is_empty() {
            return buckets.all.take(self.rate, now);
        }
        buckets.of(values, self.most_values, now).take(self.rate, now)
    }

    /// Takes over the buckets of `before`, unless this limit has been used already.
    pub(super) fn adopt(&self, before: &Self) {
        // Fails only if there are buckets, which are in use.
        let _ = self.buckets.set(Arc::clone(before.buckets.get_or_init(Arc::default)));
    }

    /// Returns whether it is another version of the same limit.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl Buckets {
    /// Returns the bucket of `values`. The one that was not used for longest is dropped for a new one.
    fn of(&self, values: Box<[String]>, most: usize, now: Duration) -> Arc<Bucket> {
        let mut buckets = self.by_value.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((bucket, used)) = buckets.get_mut(&values) {
            *used = now;
            return Arc::clone(bucket);
        }
        while buckets.len() >= most.max(1) {
            let oldest = buckets.iter().min_by_key(|(_, (_, used))| *used).map(|(values, _)| values.clone());
            oldest.map(|values| buckets.remove(&values));
        }
        let bucket = Arc::<Bucket>::default();
        buckets.insert(values, (Arc::clone(&bucket), now));
        bucket
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::{protobuf, types};

    use super::*;

    fn per_hour(most: u32, value: &str) -> Limit {
        let token_bucket = types::TokenBucket {
            max_tokens: most,
            tokens_per_fill: None,
            fill_interval: Some(protobuf::Duration { seconds: 3600, nanos: 0 }),
        };
        let entries = vec![Entry { key: "caller".into(), value: value.into() }];
        let wire = common_ratelimit::LocalRateLimitDescriptor {
            entries,
            token_bucket: Some(token_bucket),
            shadow_mode: false,
        };
        Limit::decode(wire, 2).unwrap()
    }

    fn caller(name: &str) -> Descriptor {
        vec![("caller".to_owned(), name.to_owned())]
    }

    fn taken(limit: &Limit, name: &str, seconds: u64) -> usize {
        let take = |_: &i32| limit.take(&caller(name), Duration::from_secs(seconds)).taken;
        (0..100).take_while(take).count()
    }

    #[test]
    fn each_caller_has_a_bucket_of_its_own_if_the_value_is_open() {
        let each = per_hour(3, "");
        assert_eq!([taken(&each, "a", 1), taken(&each, "a", 2), taken(&each, "b", 3)], [3, 0, 3]);
        // There are buckets for two values; that of `a` was used before that of `b`.
        assert_eq!([taken(&each, "c", 4), taken(&each, "b", 5), taken(&each, "a", 6)], [3, 0, 3]);
        let one = per_hour(3, "a");
        assert!(one.applies_to(&caller("a")) && !one.applies_to(&caller("b")));
        let two = [caller("a"), caller("a")].concat();
        assert!(!one.applies_to(&two) && !each.applies_to(&two) && each.applies_to(&caller("z")));
    }

    #[test]
    fn the_next_version_of_a_limit_has_the_same_buckets() {
        let (old, new) = (per_hour(3, "a"), per_hour(5, "a"));
        assert_eq!(taken(&old, "a", 1), 3);
        assert!(new.is_same(&old) && !new.is_same(&per_hour(5, "b")));
        new.adopt(&old);
        assert_eq!(taken(&new, "a", 1), 0);
    }
}
