//! The figures of all runs, and their medians, spreads and ratios. Filled by `compare`, read by its reports.

use std::collections::BTreeMap;

use serde::Serialize;

/// One figure of one run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figure {
    /// What was measured, with its unit, as in `CPU µs per request`.
    pub(super) metric: &'static str,
    pub(super) value: f64,
}

impl Figure {
    pub(super) fn new(metric: &'static str, value: f64) -> Self {
        Self { metric, value }
    }
}

/// What a figure is of: its place in the tables.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// `S1`.
    scenario: String,
    /// `200 B`, `16 KiB`; empty if the scenario has one variant.
    variant: String,
    metric: String,
    peer: String,
}

/// All figures of one key.
#[derive(Debug, Default, Clone, Serialize)]
pub(super) struct Samples {
    /// Of the runs that were used.
    pub(super) values: Vec<f64>,
    /// Runs that were discarded because of other load.
    pub(super) discarded: usize,
    /// Used although there was other load, because no attempt was undisturbed.
    pub(super) disturbed: usize,
}

/// The middle and the spread of several values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
    /// Median of the absolute deviations from the median.
    pub(super) mad: f64,
}

impl Summary {
    /// Returns None for no values.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let middle = median(values)?;
        let deviations: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
        Some(Self {
            median: middle,
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            mad: median(&deviations)?,
        })
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let (low, high) = (sorted.get((sorted.len().max(1) - 1) / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

/// The figures of a whole run.
#[derive(Debug, Default)]
pub(super) struct Results {
    samples: BTreeMap<Key, Samples>,
    /// In the order of the first figure of each, for the tables.
    order: Vec<(String, String, String)>,
}

impl Results {
    /// Adds the figures of one run. `disturbed`: there was other load.
    pub(super) fn add(&mut self, at: &Place<'_>, figures: &[Figure], disturbed: bool) {
        for figure in figures {
            let samples = self.samples(at, figure.metric);
            samples.values.push(figure.value);
            samples.disturbed += usize::from(disturbed);
        }
    }

    /// Counts a discarded run of these figures.
    pub(super) fn discard(&mut self, at: &Place<'_>, figures: &[Figure]) {
        for figure in figures {
            self.samples(at, figure.metric).discarded += 1;
        }
    }

    fn samples(&mut self, at: &Place<'_>, metric: &str) -> &mut Samples {
        let row = (at.scenario.to_owned(), at.variant.to_owned(), metric.to_owned());
        if !self.order.contains(&row) {
            self.order.push(row);
        }
        self.samples.entry(at.key(metric)).or_default()
    }

    /// Scenario, variant and metric of each row of the tables, in order.
    pub(super) fn rows(&self) -> &[(String, String, String)] {
        &self.order
    }

    /// The figures of one peer in one row.
    pub(super) fn get(&self, row: &(String, String, String), peer: &str) -> Option<(&Samples, Summary)> {
        let (scenario, variant, metric) = row;
        let samples = self.samples.get(&Place { scenario, variant, peer }.key(metric))?;
        Some((samples, Summary::of(&samples.values)?))
    }
}

/// Where the figures of a run belong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'run> {
    pub(super) scenario: &'run str,
    pub(super) variant: &'run str,
    pub(super) peer: &'run str,
}

impl Place<'_> {
    fn key(&self, metric: &str) -> Key {
        let Self { scenario, variant, peer } = *self;
        Key {
            scenario: scenario.to_owned(),
            variant: variant.to_owned(),
            metric: metric.to_owned(),
            peer: peer.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_spread_of_values() {
        assert_eq!(Summary::of(&[]), None);
        let odd = Summary::of(&[3.0, 1.0, 10.0]).unwrap();
        assert_eq!(odd, Summary { median: 3.0, min: 1.0, max: 10.0, mad: 2.0 });
        assert_eq!(Summary::of(&[4.0, 2.0]).unwrap().median, 3.0);
    }

    #[test]
    fn rows_keep_the_order_in_which_they_were_measured() {
        let mut results = Results::default();
        let place = |scenario, peer| Place { scenario, variant: "", peer };
        results.add(&place("S3", "a"), &[Figure::new("µs", 1.0)], false);
        results.add(&place("S1", "a"), &[Figure::new("µs", 2.0), Figure::new("KiB", 3.0)], true);
        results.add(&place("S3", "b"), &[Figure::new("µs", 4.0)], false);
        results.discard(&place("S3", "b"), &[Figure::new("µs", 9.0)]);
        let rows: Vec<_> =
            results.rows().iter().map(|(scenario, _, metric)| format!("{scenario} {metric}")).collect();
        assert_eq!(rows, ["S3 µs", "S1 µs", "S1 KiB"]);
        let (samples, summary) = results.get(&results.rows()[0], "b").unwrap();
        assert_eq!((samples.discarded, summary.median), (1, 4.0));
        assert_eq!(results.get(&results.rows()[1], "a").unwrap().0.disturbed, 1);
        assert!(results.get(&results.rows()[1], "b").is_none());
    }
}
