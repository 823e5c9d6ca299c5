//! Maglev's table (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", section 3.4), with weights as in
//! Envoy: an endpoint with a third of the greatest weight takes its next entry in every third round.

use twox_hash::XxHash64;

use super::Entry;

/// An endpoint that is still taking entries.
struct Taking<'a> {
    of: Entry<'a>,
    offset: u64,
    skip: u64,
    /// How many places of its permutation it has seen.
    next: u64,
    /// The weight that it must have gathered for its next entry.
    due: f64,
}

/// Returns the table, whose entries are indexes of endpoints. It is empty if there is no endpoint. `size` is a prime.
pub(super) fn table(mut entries: Vec<Entry<'_>>, size: u64) -> Box<[u32]> {
    if entries.is_empty() || size < 2 {
        return Box::default();
    }
    // The order in which places are taken matters, and that of the list is arbitrary.
    entries.sort_unstable_by(|one, other| one.key.cmp(other.key));
    let greatest = entries.iter().map(|entry| entry.share).fold(0.0, f64::max);
    let mut takers: Vec<_> = entries.into_iter().map(|entry| Taking::new(entry, size)).collect();
    let mut table: Vec<Option<u32>> = vec![None; size as usize];
    let (mut left, mut round) = (size, 1.0);
    loop {
        for taker in &mut takers {
            if round * taker.of.share < taker.due {
                continue;
            }
            taker.due += greatest;
            // Each permutation visits all places, since the size is a prime and the skip is less.
            while table[taker.place(size)].is_some() {
                taker.next += 1;
            }
            table[taker.place(size)] = Some(taker.of.at);
            taker.next += 1;
            left -= 1;
            if left == 0 {
                return table.into_iter().flatten().collect();
            }
        }
        round += 1.0;
    }
}

impl<'a> Taking<'a> {
    fn new(of: Entry<'a>, size: u64) -> Self {
        let hash = |seed| XxHash64::oneshot(seed, of.key.as_bytes());
        Self { offset: hash(0) % size, skip: hash(1) % (size - 1) + 1, next: 0, due: 0.0, of }
    }

    fn place(&self, size: u64) -> usize {
        ((self.offset + self.skip * self.next) % size) as usize
    }
}
