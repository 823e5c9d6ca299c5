//! The two text formats of a scrape: Prometheus' 0.0.4 and OpenMetrics 1.0.
//!
//! They differ little: OpenMetrics names the family of a counter without `_total`, has units and exemplars, writes the bounds
//! of buckets with a decimal point, and ends with `# EOF`. A scraper chooses by `Accept`; one that does not list
//! OpenMetrics gets 0.0.4, as from Prometheus' own client libraries.

use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Bucket, Exemplar, Family, Histogram, Labels, Point, Points};

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// Returns the format that the `Accept` fields of a request prefer (RFC 9110 section 12.5.1): the one with the highest
    /// weight, the first of equals, and [`Format::Prometheus`] if none is listed.
    pub fn negotiated<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let mut best = (Self::Prometheus, 0.0);
        for range in accept.into_iter().flat_map(|field| field.split(',')) {
            if let Some((format, weight)) = Self::of_range(range)
                && weight > best.1
            {
                best = (format, weight);
            }
        }
        best.0
    }

    /// Returns the format of one media range, with its weight.
    fn of_range(range: &str) -> Option<(Self, f64)> {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next()?.to_ascii_lowercase();
        let (mut version, mut weight) = (None, 1.0);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "version" => version = Some(value.trim().trim_matches('"')),
                "q" => weight = value.trim().parse().unwrap_or(0.0),
                _ => {}
            }
        }
        let format = match (media_type.as_str(), version) {
            ("application/openmetrics-text", None | Some("1.0.0")) => Self::OpenMetrics,
            ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => Self::Prometheus,
            _ => return None,
        };
        Some((format, weight))
    }

    /// Returns the value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Returns `families` as text. A family without series is left out.
pub fn encode(families: &[Family], format: Format) -> String {
    let mut text = String::new();
    for family in families {
        // Writing to a String cannot fail.
        let _ = write_family(&mut text, family, format);
    }
    if format == Format::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn write_family(out: &mut String, family: &Family, format: Format) -> fmt::Result {
    let (kind, empty) = match &family.points {
        Points::Counter(points) => ("counter", points.is_empty()),
        Points::Gauge(points) => ("gauge", points.is_empty()),
        Points::Histogram(points) => ("histogram", points.is_empty()),
    };
    if empty {
        return Ok(());
    }
    let Family { name, help, points } = family;
    let described = match format {
        Format::Prometheus => name,
        Format::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
    };
    writeln!(out, "# HELP {described} {help}")?;
    writeln!(out, "# TYPE {described} {kind}")?;
    if let (Format::OpenMetrics, Some(unit)) = (format, family.unit()) {
        writeln!(out, "# UNIT {described} {}", unit.as_str())?;
    }
    match points {
        Points::Counter(points) | Points::Gauge(points) => {
            for Point { labels, value } in points {
                out.push_str(name);
                write_labels(out, labels, None)?;
                writeln!(out, " {}", Number(*value))?;
            }
        }
        Points::Histogram(points) => {
            points.iter().try_for_each(|point| write_histogram(out, name, point, format))?;
        }
    }
    Ok(())
}

fn write_histogram(
    out: &mut String,
    name: &str,
    Point { labels, value }: &Point<Histogram>,
    format: Format,
) -> fmt::Result {
    let mut count = 0;
    for Bucket { upper_bound, count: more, exemplar } in &value.buckets {
        count += more;
        write!(out, "{name}_bucket")?;
        let bound = match format {
            Format::OpenMetrics if upper_bound.is_finite() => format!("{upper_bound:?}"),
            _ => Number(*upper_bound).to_string(),
        };
        write_labels(out, labels, Some(("le", &bound)))?;
        write!(out, " {count}")?;
        if let (Format::OpenMetrics, Some(exemplar)) = (format, exemplar) {
            write_exemplar(out, exemplar)?;
        }
        out.push('\n');
    }
    write!(out, "{name}_sum")?;
    write_labels(out, labels, None)?;
    write!(out, " {}\n{name}_count", Number(value.sum))?;
    write_labels(out, labels, None)?;
    writeln!(out, " {count}")
}

fn write_exemplar(out: &mut String, exemplar: &Exemplar) -> fmt::Result {
    let Exemplar { trace, span, value, time } = exemplar;
    write!(
        out,
        " # {{trace_id=\"{trace}\",span_id=\"{span}\"}} {} {:.3}",
        Number(*value),
        unix_seconds(*time)
    )
}

fn write_labels(out: &mut String, labels: &Labels, last: Option<(&str, &str)>) -> fmt::Result {
    let all = labels.iter().map(|(name, value)| (*name, value.as_str())).chain(last);
    let mut before = '{';
    for (name, value) in all {
        out.push(before);
        before = ',';
        write!(out, "{name}=\"")?;
        for character in value.chars() {
            match character {
                '\\' => out.push_str(r"\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str(r"\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    if before == ',' {
        out.push('}');
    }
    Ok(())
}

/// Returns a time as the value of a metric, in seconds since the Unix epoch; negative before it.
pub fn unix_seconds(time: SystemTime) -> f64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

/// A number as both formats write it.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            number => write!(f, "{number}"),
        }
    }
}

#[cfg(test)]
mod tests;
