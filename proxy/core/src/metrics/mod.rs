//! Metric families as plain data: what both daemons expose at a scrape and export by OTLP.
//!
//! A daemon collects its [`Family`] values at each scrape or export. [`text`] encodes them; nothing else knows a format. The
//! unit is the end of the name (`_seconds`, `_bytes`), as Prometheus' naming guide wants it, so that the two cannot differ.

pub mod process;
pub mod text;

use std::time::SystemTime;

use crate::trace::{SpanId, TraceId};

/// All series of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// The full name. That of a counter ends in `_total`.
    pub name: &'static str,
    /// What it counts, in one line.
    pub help: &'static str,
    /// The kind, and the values now.
    pub points: Points,
}

/// The values of a family, by its kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Points {
    /// Values that only rise while the process lives.
    Counter(Vec<Point<f64>>),
    /// Values that rise and fall.
    Gauge(Vec<Point<f64>>),
    /// Distributions.
    Histogram(Vec<Point<Histogram>>),
}

/// One series: its labels and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Point<T> {
    /// Names and values; no value is empty.
    pub labels: Labels,
    /// The value.
    pub value: T,
}

/// The labels of a series.
pub type Labels = Vec<(&'static str, String)>;

/// A distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// The buckets, by rising bound; that of the last is infinite.
    pub buckets: Vec<Bucket>,
    /// The sum of all values.
    pub sum: f64,
}

/// The values of a histogram up to a bound and above the one before.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    /// The highest value.
    pub upper_bound: f64,
    /// How many values it has; not cumulative.
    pub count: u64,
    /// One of these values, and the trace that it belongs to.
    pub exemplar: Option<Exemplar>,
}

/// A value that belongs to a sampled trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exemplar {
    /// The trace.
    pub trace: TraceId,
    /// The span that the value was measured for.
    pub span: SpanId,
    /// The value.
    pub value: f64,
    /// When it was measured.
    pub time: SystemTime,
}

/// A base unit of Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

impl Family {
    /// Returns a counter. `name` ends in `_total`.
    pub fn counter(
        name: &'static str,
        help: &'static str,
        points: impl IntoIterator<Item = (Labels, f64)>,
    ) -> Self {
        Self { name, help, points: Points::Counter(points.into_iter().map(Point::from).collect()) }
    }

    /// Returns a gauge.
    pub fn gauge(
        name: &'static str,
        help: &'static str,
        points: impl IntoIterator<Item = (Labels, f64)>,
    ) -> Self {
        Self { name, help, points: Points::Gauge(points.into_iter().map(Point::from).collect()) }
    }

    /// Returns a histogram.
    pub fn histogram(
        name: &'static str,
        help: &'static str,
        points: impl IntoIterator<Item = (Labels, Histogram)>,
    ) -> Self {
        Self { name, help, points: Points::Histogram(points.into_iter().map(Point::from).collect()) }
    }

    /// Returns the unit, or `None` for a plain number.
    pub fn unit(&self) -> Option<Unit> {
        let base = self.name.strip_suffix("_total").unwrap_or(self.name);
        [Unit::Seconds, Unit::Bytes]
            .into_iter()
            .find(|unit| base.strip_suffix(unit.as_str()).is_some_and(|stem| stem.ends_with('_')))
    }
}

impl Unit {
    /// Returns the word that ends the name of a metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
        }
    }
}

impl<T> From<(Labels, T)> for Point<T> {
    fn from((labels, value): (Labels, T)) -> Self {
        Self { labels, value }
    }
}

impl Histogram {
    /// Returns the number of values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.count).sum()
    }
}

/// Returns the labels that have a value: to Prometheus an empty label is an absent one.
pub fn labels<const N: usize>(pairs: [(&'static str, &str); N]) -> Labels {
    let present = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    present.map(|(name, value)| (name, value.to_owned())).collect()
}

/// Returns the series of a metric without labels.
pub fn single(value: f64) -> [(Labels, f64); 1] {
    [(Labels::new(), value)]
}
