//! The load of a run: a closed loop, which returns an error if a request fails, or a constant rate, over connections that stay open.
//!
//! HTTP/2 in the clear is sent by nghttp2's h2load: like the application, a client on a library would be too slow to keep the fastest
//! proxy busy. All else is sent by our load engine.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::process::Command;

use super::account::{Account, Spent};
use super::cores::Cores;
use super::counters::Meter;
use super::peers::Running;
use crate::load::{self, Measurement, Pace, Protocol, Schedule, Spec, Tally, Tls, Until};
use crate::span_sink::SpanSink;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// CPU time below which a run has too few requests to be a figure.
const LEAST: Duration = Duration::from_millis(20);

/// Where requests go.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) tls: Option<Tls>,
    pub(super) authority: String,
    pub(super) path: String,
}

impl Target {
    pub(super) fn of(peer: &Running, path: String) -> Self {
        Self { address: peer.address, tls: peer.tls.clone(), authority: peer.authority.clone(), path }
    }
}

/// How it is requested.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) connections: usize,
    /// Concurrent requests of one connection. More than one are HTTP/2.
    pub(super) streams: usize,
    /// Bytes of a POST's body, or 0 for GET.
    pub(super) body: usize,
}

/// What is measured, and for how long.
pub(super) struct Run<'run> {
    pub(super) cores: &'run Cores,
    /// The proxies.
    pub(super) processes: &'run [u32],
    /// With the same load, before the measurement.
    pub(super) warm_up: Duration,
    pub(super) duration: Duration,
    /// What the proxies forward to.
    pub(super) application: SocketAddr,
    /// What the proxies send spans to.
    pub(super) collector: Option<&'run SpanSink>,
    /// Counts what the proxies do in the measurement.
    pub(super) meter: Option<&'run Meter<'run>>,
}

/// What was done in the time of a measurement, and what it cost.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) requests: u64,
    /// That the collector received.
    pub(super) spans: usize,
    pub(super) spent: Spent,
}

impl Run<'_> {
    pub(super) fn account(&self) -> Result<Account, String> {
        Account::read(self.processes, self.cores.proxy)
    }

    fn spans(&self) -> usize {
        self.collector.map_or(0, SpanSink::spans)
    }

    /// Begins the measurement.
    async fn begin(&self) -> Result<Account, String> {
        if let Some(meter) = self.meter {
            meter.begin().await?;
        }
        self.account()
    }

    /// Ends it.
    async fn end(&self) -> Result<Account, String> {
        let account = self.account()?;
        if let Some(meter) = self.meter {
            meter.end().await?;
        }
        Ok(account)
    }

    /// Returns what was done. Returns an error if the proxies had too little to do, as where the load hardly gets CPU.
    fn done(&self, done: Done) -> Result<Done, String> {
        if let Some(meter) = self.meter {
            meter.answered(done.requests);
        }
        let cpu = done.spent.cpu();
        match cpu < LEAST {
            true => Err(format!("only {} requests and {cpu:?} of CPU in a run", done.requests)),
            false => Ok(done),
        }
    }
}

/// Sends what `protocol` says over so many connections, each as soon as the one before is answered, with our load engine; with a new
/// connection for each if `connect`. Returns how many were answered in the measurement, and what they cost.
pub(super) async fn closed_loop(
    target: &Target,
    protocol: Protocol,
    connections: usize,
    connect: bool,
    run: &Run<'_>,
) -> Result<Done, String> {
    let running = load::start(Spec {
        connection_per_request: connect,
        until: Until::Elapsed(run.warm_up + run.duration + TIMEOUT),
        ..spec(target, protocol, connections, run.cores.load())
    })?;
    tokio::time::sleep(run.warm_up).await;
    let (before, first, spans) = (run.begin().await?, running.ended(), run.spans());
    tokio::time::sleep(run.duration).await;
    let (last, after) = (running.ended(), run.end().await?);
    let spans = run.spans() - spans;
    running.stop();
    answered(running.finish()?)?;
    run.done(Done { requests: last - first, spans, spent: before.until(&after) })
}

/// Returns an error if a request failed, or none was answered. One that was late or never sent has a latency.
pub(super) fn answered(measurement: Measurement) -> Result<Tally, String> {
    let tally = measurement.tally;
    match tally.failures.iter().next() {
        Some((failure, count)) => Err(format!("{count} requests failed: {failure}")),
        None if tally.answered == 0 => Err("no request was answered".into()),
        None => Ok(tally),
    }
}

/// Sends `rate` requests per second, whether earlier ones are answered or not. Returns an error if that cannot be started: requests that
/// fail are in the measurement.
pub(super) async fn constant_rate(
    target: &Target,
    protocol: Protocol,
    connections: usize,
    rate: f64,
    run: &Run<'_>,
) -> Result<Measurement, String> {
    let running = load::start(Spec {
        pace: Pace::Rate(Schedule::constant(rate, run.duration)?),
        warm_up: run.warm_up,
        until: Until::Elapsed(run.duration),
        ..spec(target, protocol, connections, run.cores.load())
    })?;
    let finished = tokio::task::spawn_blocking(|| running.finish()).await;
    finished.map_err(|error| error.to_string())?
}

/// A closed loop over connections that stay open.
pub(super) fn spec(target: &Target, protocol: Protocol, connections: usize, core: usize) -> Spec {
    Spec {
        address: target.address,
        tls: target.tls.clone(),
        protocol,
        connections,
        streams: 1,
        connection_per_request: false,
        pace: Pace::ClosedLoop,
        // Its own warm-up would hide failures.
        warm_up: Duration::ZERO,
        until: Until::Elapsed(TIMEOUT),
        timeout: TIMEOUT,
        threads: 1,
        cores: vec![core],
    }
}

/// The same in HTTP/2, with h2load. Accounts for its connections' beginning and end, too.
pub(super) async fn h2load(target: &Target, load: &Load, run: &Run<'_>) -> Result<Done, String> {
    run_h2load(target, load, run.warm_up).await?;
    let before = run.begin().await?;
    let requests = run_h2load(target, load, run.duration).await?;
    run.done(Done { requests, spans: 0, spent: before.until(&run.end().await?) })
}

/// Returns how many requests it sent in `duration`. Returns an error if one was not answered by 2xx.
async fn run_h2load(target: &Target, load: &Load, duration: Duration) -> Result<u64, String> {
    let Target { address, authority, path, .. } = target;
    let mut command = Command::new("h2load");
    command
        .args(["-t", "1", "-c", &load.connections.to_string(), "-m", &load.streams.to_string()])
        .args(["-D", &format!("{}ms", duration.as_millis())])
        .arg(format!("--connect-to={address}"));
    let body = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    if load.body > 0 {
        std::fs::write(body.path(), vec![b'y'; load.body]).map_err(|error| error.to_string())?;
        command.arg("-d").arg(body.path());
    }
    command.arg(format!("http://{authority}{path}")).kill_on_drop(true);
    let output =
        command.output().await.map_err(|error| format!("h2load (benches/install-peers): {error}"))?;
    let report = String::from_utf8_lossy(&output.stdout);
    let counts = counts(&report).ok_or_else(|| format!("h2load: {report}"))?;
    match counts.failed {
        0 if counts.succeeded > 0 => Ok(counts.succeeded),
        _ => Err(format!("{} requests succeeded and {} failed", counts.succeeded, counts.failed)),
    }
}

#[derive(Debug, PartialEq)]
struct Counts {
    succeeded: u64,
    failed: u64,
}

/// Reads `status codes: 10 2xx, 0 3xx, 0 4xx, 0 5xx` and the number of errors in `requests: ..., 0 failed, 0 errored, 0 timeout`.
fn counts(report: &str) -> Option<Counts> {
    let line = |name| report.lines().find_map(|line| line.strip_prefix(name));
    let numbers = |line: &str| -> Vec<(u64, String)> {
        line.split(',')
            .filter_map(|part| part.trim().split_once(' '))
            .filter_map(|(number, name)| Some((number.parse().ok()?, name.to_owned())))
            .collect()
    };
    let of = |numbers: &[(u64, String)], name: &str| {
        numbers.iter().find(|(_, known)| known == name).map(|(number, _)| *number)
    };
    let codes = numbers(line("status codes:")?);
    let requests = numbers(line("requests:")?);
    let failed: Option<u64> = ["3xx", "4xx", "5xx"].iter().map(|name| of(&codes, name)).sum();
    Some(Counts {
        succeeded: of(&codes, "2xx")?,
        failed: failed? + of(&requests, "failed")? + of(&requests, "timeout")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_h2load_is_read() {
        let report = "finished in 1.00s, 10 req/s, 1KB/s
requests: 10 total, 12 started, 10 done, 9 succeeded, 1 failed, 1 errored, 0 timeout
status codes: 9 2xx, 0 3xx, 0 4xx, 2 5xx
";
        assert_eq!(counts(report), Some(Counts { succeeded: 9, failed: 3 }));
        assert_eq!(counts("requests: 10 total\n"), None);
    }
}
