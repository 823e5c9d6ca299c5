//! The hosts that may get an attempt, as every kind of balancing sees them.

use fastrand::Rng;

/// The hosts that may get an attempt, by their index.
pub(in crate::upstream) enum Candidates<'a> {
    /// The usable ones of so many, which are all alike.
    Alike {
        /// How many there are, usable or not.
        count: usize,
        /// Whether one is.
        usable: &'a dyn Fn(usize) -> bool,
    },
    /// These.
    Listed {
        /// In ascending order.
        list: &'a [usize],
        /// What each is worth; None if they are all alike.
        weight: Option<&'a dyn Fn(usize) -> u32>,
    },
}

impl Candidates<'_> {
    /// Whether weights decide how often each is drawn.
    pub(super) fn weigh(&self) -> bool {
        matches!(self, Self::Listed { weight: Some(_), .. })
    }

    /// One by chance, in proportion to its weight, and another than `not` if there is one.
    ///
    /// By weight `not` may be drawn again: otherwise both of two would always be drawn, and their weights would not count.
    pub(super) fn draw(&self, not: Option<usize>, rng: &mut Rng) -> Option<usize> {
        match self {
            Self::Listed { list, weight: Some(weight) } => by_weight(list, weight, rng),
            Self::Alike { .. } | Self::Listed { weight: None, .. } => self.draw_evenly(not, rng),
        }
    }

    /// One by chance, whatever its weight, other than `not`: a few draws, then a walk from a random start.
    pub(super) fn draw_evenly(&self, not: Option<usize>, rng: &mut Rng) -> Option<usize> {
        let count = match self {
            Self::Alike { count, .. } => *count,
            Self::Listed { list, .. } => list.len(),
        };
        if count == 0 {
            return None;
        }
        let fits = |place: usize| self.at(place).filter(|index| Some(*index) != not);
        for _ in 0..3 {
            if let Some(index) = fits(rng.usize(..count)) {
                return Some(index);
            }
        }
        let start = rng.usize(..count);
        (0..count).find_map(|step| fits((start + step) % count))
    }

    /// The first at or after `turn`, or else the first of all.
    pub(super) fn next(&self, turn: usize) -> Option<usize> {
        match self {
            Self::Alike { count, usable } => {
                (0..*count).map(|step| (turn + step) % count).find(|index| usable(*index))
            }
            Self::Listed { list, .. } => {
                let at = list.partition_point(|index| *index < turn);
                list.get(at).or(list.first()).copied()
            }
        }
    }

    /// Whether there are at most `count`, usable or not.
    pub(super) fn at_most(&self, count: usize) -> bool {
        match self {
            Self::Alike { count: all, .. } => *all <= count,
            Self::Listed { list, .. } => list.len() <= count,
        }
    }

    /// All of them, beginning anywhere, so that of equal ones none is always the first.
    pub(super) fn all(&self, rng: &mut Rng) -> Vec<usize> {
        match self {
            Self::Alike { count: 0, .. } => Vec::new(),
            Self::Alike { count, usable } => {
                let start = rng.usize(..*count);
                (0..*count).map(|step| (start + step) % count).filter(|index| usable(*index)).collect()
            }
            Self::Listed { list, .. } => list.to_vec(),
        }
    }

    fn at(&self, place: usize) -> Option<usize> {
        match self {
            Self::Alike { usable, .. } => usable(place).then_some(place),
            Self::Listed { list, .. } => list.get(place).copied(),
        }
    }
}

fn by_weight(list: &[usize], weight: impl Fn(usize) -> u32, rng: &mut Rng) -> Option<usize> {
    let total: u64 = list.iter().map(|index| u64::from(weight(*index))).sum();
    if total == 0 {
        return None;
    }
    let mut point = rng.u64(..total);
    let holds = |index: &usize| {
        let weight = u64::from(weight(*index));
        let here = point < weight;
        point = point.saturating_sub(weight);
        here
    };
    list.iter().copied().find(holds)
}
