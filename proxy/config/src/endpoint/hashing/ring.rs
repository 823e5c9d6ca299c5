//! A ring of points, several for each endpoint. A hash belongs to the first point that is not below it (ketama).

use std::fmt::Write;

use twox_hash::XxHash64;

use super::{Entry, HashFunction, murmur};

/// The ring. Points are in ascending order.
#[derive(Clone)]
pub(super) struct Ring {
    points: Box<[u64]>,
    /// The index of each point's endpoint.
    hosts: Box<[u32]>,
}

impl Ring {
    /// Builds a ring with a number of points from `min` to `max`, or none without endpoints.
    ///
    /// The endpoint with the least share gets a whole number of points. The points of the others are counted over all of them, so
    /// that the fractions add up.
    pub(super) fn new(entries: &[Entry<'_>], min: u64, max: u64, function: HashFunction) -> Self {
        let least = entries.iter().map(|entry| entry.share).fold(1.0, f64::min);
        let scale = ((least * min as f64).ceil() / least).min(max as f64);
        let mut points = Vec::new();
        let (mut target, mut text) = (0.0, String::new());
        for entry in entries {
            target += scale * entry.share;
            for number in 0u64.. {
                if points.len() as f64 >= target {
                    break;
                }
                text.clear();
                // Writing to a text cannot fail.
                let _ = write!(text, "{}_{number}", entry.key);
                let point = match function {
                    HashFunction::XxHash => XxHash64::oneshot(0, text.as_bytes()),
                    HashFunction::Murmur2 => murmur::hash(text.as_bytes()),
                };
                points.push((point, entry.at));
            }
        }
        points.sort_unstable();
        let (points, hosts): (Vec<_>, Vec<_>) = points.into_iter().unzip();
        Self { points: points.into(), hosts: hosts.into() }
    }

    /// Returns the endpoints of all points from that of `hash` on, once round.
    pub(super) fn from(&self, hash: u64) -> impl Iterator<Item = u32> {
        let (before, from) = self.hosts.split_at(self.points.partition_point(|point| *point < hash));
        from.iter().chain(before).copied()
    }

    /// Returns the number of points.
    pub(super) fn len(&self) -> usize {
        self.points.len()
    }
}
