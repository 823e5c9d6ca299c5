//! `instructions`: how many instructions of the proxy processes a request costs, counted by valgrind's callgrind.
//!
//! Times on a shared machine differ by 8 % between runs. This count is almost constant, so it can detect changes that
//! make requests more expensive. It does not include system calls, cache misses and waiting. The requests, proxies and applications are
//! those of the scenarios of `compare`, but one request follows the other over one connection, so that what is counted does not depend on
//! the time. The rows with tracing include the export of the spans, to a collector in this process. The counts in
//! `benches/instructions.txt` hold for one compiler on one kind of processor; with another compiler they are printed and
//! not compared.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::certificates::Certificates;
use super::cores::Cores;
use super::drive::{self, Target};
use super::measure;
use super::peers::{Peer, Running, With};
use super::scenarios::{self, Variant};
use crate::callgrind;
use crate::load::{self, Spec, Until};
use crate::span_sink::SpanSink;

/// The counted variants: scenario and variant.
const ROWS: [(&str, &str); 8] = [
    ("S1", "200 B"),
    ("S1", "16 KiB"),
    ("S2", "200 B"),
    ("S2", "16 KiB"),
    ("S3", ""),
    ("S7", "unary"),
    ("S9", "tracing 1 % and access log"),
    ("S9", "tracing 100 %"),
];

/// Requests before the first count, which open connections and fill caches.
const WARM_UP: u64 = 300;
const COUNTED: u64 = 2_000;
/// Percentage by which a count may exceed the one in the file.
const SLACK: f64 = 3.0;

/// Counts the instructions of a request. Needs valgrind.
#[derive(Debug, Args)]
pub(crate) struct InstructionsArgs {
    /// Fail if a request costs over 3 % more instructions than in the file.
    #[arg(long)]
    check: bool,
    /// Write the counts to the file.
    #[arg(long, conflicts_with = "check")]
    write: bool,
    /// The counts to compare with.
    #[arg(long, default_value = "benches/instructions.txt")]
    baseline: PathBuf,
    /// The binary to measure.
    #[arg(long, default_value = "target/release/outrigger")]
    outrigger: PathBuf,
}

/// Counts and prints. Returns an error if a request fails, or with `--check` if it has become more expensive.
pub(crate) async fn run(args: InstructionsArgs) -> Result<(), String> {
    let counts = measure(&args.outrigger).await?;
    let compiler = compiler().await?;
    if args.write {
        let counts = counts.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        let file = Baseline { compiler, counts }.print();
        return std::fs::write(&args.baseline, file)
            .map_err(|error| format!("{}: {error}", args.baseline.display()));
    }
    let text = std::fs::read_to_string(&args.baseline)
        .map_err(|error| format!("{}: {error}", args.baseline.display()))?;
    let baseline = Baseline::parse(&text).map_err(|why| format!("{}: {why}", args.baseline.display()))?;
    let mut dearer = Vec::new();
    for (name, count) in &counts {
        let before = baseline.count(name)?;
        let change = (*count as f64 / before as f64 - 1.0) * 100.0;
        println!("{name}: {count} instructions a request, {before} in the file ({change:+.1} %)");
        if change > SLACK {
            dearer.push(format!("{name} ({change:+.1} %)"));
        }
    }
    if baseline.compiler != compiler {
        println!("not compared: the file was made by {}, this is {compiler}", baseline.compiler);
        return Ok(());
    }
    match args.check && !dearer.is_empty() {
        true => Err(format!("a request costs over {SLACK} % more instructions: {}", dearer.join(", "))),
        false => Ok(()),
    }
}

/// Returns each row with its instructions per request.
async fn measure(outrigger: &Path) -> Result<Vec<(String, u64)>, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let certificates = Certificates::create(directory.path())?;
    let cores = Cores::divide()?;
    let mut counts = Vec::new();
    for (number, (id, variant)) in ROWS.into_iter().enumerate() {
        let name = if variant.is_empty() { id.to_owned() } else { format!("{id}, {variant}") };
        let directory = directory.path().join(number.to_string());
        std::fs::create_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let with = With { cores: &cores, certificates: &certificates, directory: &directory };
        let variant = scenarios::find(id, variant).ok_or_else(|| format!("no scenario {name}"))?;
        let count = row(variant, outrigger, &with).await.map_err(|why| format!("{name}: {why}"))?;
        eprintln!("{name}: {count}");
        counts.push((name, count));
    }
    Ok(counts)
}

/// Starts the proxies of a variant under callgrind, and returns how many instructions a request costs them.
async fn row(variant: &Variant, outrigger: &Path, with: &With<'_>) -> Result<u64, String> {
    let application = variant.application()?;
    let sink = match variant.is_traced() {
        true => Some(SpanSink::start().await?),
        false => None,
    };
    // The control plane is not counted.
    let program = callgrind::script(outrigger, with.directory, Some("proxy"))?;
    let setup = variant.asks(application, sink.as_ref().map(|sink| sink.address));
    let running = Peer::Outrigger.start(&program, &setup, with).await?;
    let before = after_requests(variant, &running, with, sink.as_ref(), WARM_UP).await?;
    let spans = sink.as_ref().map_or(0, SpanSink::spans);
    let after = after_requests(variant, &running, with, sink.as_ref(), COUNTED).await?;
    let exported = sink.as_ref().map_or(0, SpanSink::spans) - spans;
    if (exported as f64) < COUNTED as f64 * variant.sampling() / 2.0 {
        return Err(format!("{exported} spans of {COUNTED} requests were exported"));
    }
    Ok(after.saturating_sub(before) / COUNTED)
}

/// Sends so many requests one after the other, and returns how many instructions the proxies have executed then. The export of a span is a
/// part of its cost.
async fn after_requests(
    variant: &Variant,
    running: &Running,
    with: &With<'_>,
    sink: Option<&SpanSink>,
    requests: u64,
) -> Result<u64, String> {
    let target = Target::of(running, variant.path());
    let load = load::start(Spec {
        until: Until::Requests(requests),
        ..drive::spec(&target, measure::request(variant.work, &target), 1, with.cores.load())
    })?;
    let finished = tokio::task::spawn_blocking(|| load.finish()).await;
    drive::answered(finished.map_err(|error| error.to_string())??)?;
    if let Some(sink) = sink {
        sink.settle().await;
    }
    callgrind::executed(&running.processes, with.directory).await
}

async fn compiler() -> Result<String, String> {
    let output = tokio::process::Command::new("rustc")
        .arg("--version")
        .output()
        .await
        .map_err(|error| format!("cannot run rustc: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Parses the file: the compiler in the first line, then one scenario and its count per line.
#[derive(Debug, PartialEq)]
struct Baseline<'text> {
    compiler: String,
    counts: Vec<(&'text str, u64)>,
}

impl<'text> Baseline<'text> {
    fn parse(text: &'text str) -> Result<Self, String> {
        let mut lines = text.lines();
        let compiler = lines.next().ok_or("empty")?.to_owned();
        let count = |line: &'text str| {
            let (name, count) = line.rsplit_once(' ').ok_or_else(|| format!("{line:?} has no count"))?;
            Ok((name, count.trim().parse().map_err(|_| format!("{line:?} has no count"))?))
        };
        Ok(Self { compiler, counts: lines.map(count).collect::<Result<_, String>>()? })
    }

    fn print(&self) -> String {
        let mut text = format!("{}\n", self.compiler);
        for (name, count) in &self.counts {
            let _ = writeln!(text, "{name} {count}");
        }
        text
    }

    fn count(&self, name: &str) -> Result<u64, String> {
        let found = self.counts.iter().find(|(known, _)| *known == name);
        found.map(|(_, count)| *count).ok_or_else(|| format!("no count of {name} in the file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_variant() {
        assert!(ROWS.iter().all(|(id, variant)| scenarios::find(id, variant).is_some()));
    }

    #[test]
    fn counts_are_read_as_they_are_written() {
        let counts = vec![("S1, 200 B", 21_000), ("S3", 63_000)];
        let baseline = Baseline { compiler: "rustc 1.95.0".into(), counts };
        let text = baseline.print();
        assert_eq!(Baseline::parse(&text).unwrap(), baseline);
        assert!(baseline.count("S2").is_err() && Baseline::parse("rustc\nS3 many\n").is_err());
    }
}
