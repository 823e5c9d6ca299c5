//! `instructions`: how many instructions of the proxy process a request costs, counted by valgrind's callgrind.
//!
//! Times on a shared machine differ by 8 % between runs. This count is almost constant, so it can detect changes that
//! make requests more expensive. It does not include system calls, cache misses and waiting. The rows with tracing include the
//! export of the spans, to a collector in this process. The counts in
//! `benches/instructions.txt` hold for one compiler on one kind of processor; with another compiler they are printed and
//! not compared.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use outrigger::process::Process;

use crate::callgrind;
use crate::mesh::Mesh;
use crate::span_sink::SpanSink;
use crate::traffic;

/// Requests before the first count, which open connections and fill caches.
const WARM_UP: usize = 300;
const COUNTED: usize = 2_000;
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

/// Returns each scenario with its instructions per request.
async fn measure(outrigger: &Path) -> Result<Vec<(&'static str, u64)>, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut mesh = Mesh::new(outrigger, directory.path())?;
    mesh.sidecar = callgrind::script(outrigger, directory.path(), None)?;
    for service in 0..5 {
        mesh.write(service, 0)?;
    }
    mesh.write_plain("plain", "http", mesh.app)?;
    mesh.write_plain("plain2", "kubernetes.io/h2c", mesh.http2_app)?;
    let _control_plane = mesh.control_plane().await?;
    traffic::application(mesh.app).await?;
    traffic::http2_application(mesh.http2_app).await?;
    let server = mesh.server().await?;
    let client = mesh.client().await?;
    let mut counts = Vec::new();
    for (name, host, http2, processes) in [
        ("http1", "plain", false, &[&client][..]),
        ("http2", "plain2", true, &[&client]),
        ("mtls-pair", "s0", false, &[&client, &server]),
    ] {
        traffic::in_turn(mesh.outbound, host, http2, WARM_UP).await?;
        let before = executed(processes, directory.path()).await?;
        traffic::in_turn(mesh.outbound, host, http2, COUNTED).await?;
        let after = executed(processes, directory.path()).await?;
        counts.push((name, after.saturating_sub(before) / COUNTED as u64));
    }
    client.kill().await?;
    let sink = SpanSink::start().await?;
    for (name, account, sampling) in
        [("http1-traced-1%", "traced-some", 0.01), ("http1-traced-100%", "traced-all", 1.0)]
    {
        let client = mesh.traced_client(account, sampling, sink.address).await?;
        traffic::in_turn(mesh.outbound, "plain", false, WARM_UP).await?;
        sink.settle().await;
        let (before, spans) = (executed(&[&client], directory.path()).await?, sink.spans());
        traffic::in_turn(mesh.outbound, "plain", false, COUNTED).await?;
        // The export of a span is a part of its cost.
        sink.settle().await;
        let after = executed(&[&client], directory.path()).await?;
        counts.push((name, after.saturating_sub(before) / COUNTED as u64));
        let (exported, expected) = (sink.spans() - spans, COUNTED as f64 * sampling);
        if (exported as f64) < expected / 2.0 {
            return Err(format!("{name}: {exported} spans of {COUNTED} requests were exported"));
        }
        client.kill().await?;
    }
    Ok(counts)
}

/// Returns the total number of instructions that `processes` have executed.
async fn executed(processes: &[&Process], directory: &Path) -> Result<u64, String> {
    let ids: Option<Vec<_>> = processes.iter().map(|process| process.id()).collect();
    callgrind::executed(&ids.ok_or("a sidecar has ended")?, directory).await
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
            let (name, count) = line.split_once(' ').ok_or_else(|| format!("{line:?} has no count"))?;
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
    fn counts_are_read_as_they_are_written() {
        let counts = vec![("http1", 21_000), ("mtls-pair", 63_000)];
        let baseline = Baseline { compiler: "rustc 1.95.0".into(), counts };
        let text = baseline.print();
        assert_eq!(Baseline::parse(&text).unwrap(), baseline);
        assert!(baseline.count("http2").is_err() && Baseline::parse("rustc\nhttp1 many\n").is_err());
    }
}
