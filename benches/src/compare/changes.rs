//! Latency while endpoints of the service change many times a second, beside the same load while none changes.
//!
//! A change removes one endpoint and adds the one that was removed before. The number of updates that the proxy receives is a separate figure: its control
//! plane may merge changes. Requests that fail are counted, not refused. Returns an error if a change fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::drive::{self, Run, Target};
use super::latency::{lateness, milliseconds};
use super::peers::Members;
use super::results::Figure;
use crate::load::{Protocol, Tally};

/// Longer than a control plane waits for further changes.
const MERGED: Duration = Duration::from_millis(600);

/// What is sent meanwhile.
pub(super) struct Load {
    pub(super) request: Protocol,
    pub(super) connections: usize,
    /// Requests per second.
    pub(super) rate: f64,
}

/// Measures once without changes and once with them. Returns the figures, and the share of the proxies' core that went to other load.
pub(super) async fn measure(
    target: &Target,
    Load { request, connections, rate }: Load,
    members: &Members,
    per_second: u32,
    run: &Run<'_>,
) -> Result<(Vec<Figure>, f64), String> {
    let before = run.account()?;
    let still = drive::constant_rate(target, request.clone(), connections, rate, run).await?.tally;
    let updates = members.applied().await?;
    let changing = Changing::start(members.clone(), Duration::from_secs(1) / per_second)?;
    let load = drive::constant_rate(target, request, connections, rate, run).await;
    let (changes, elapsed) = changing.stop().await?;
    let moving = load?.tally;
    tokio::time::sleep(MERGED).await;
    let updates = match (updates, members.applied().await?) {
        (Some(before), Some(after)) => after - before,
        _ => changes as f64,
    };
    let other = before.until(&run.account()?).other;
    let mut figures = of_latencies(&still, &moving);
    figures.extend([
        Figure::new("changes per second", changes as f64 / elapsed.as_secs_f64()),
        Figure::new("updates of the proxy per second", updates / elapsed.as_secs_f64()),
    ]);
    Ok((figures, other))
}

fn of_latencies(still: &Tally, moving: &Tally) -> Vec<Figure> {
    let [before, during] = [still, moving].map(|tally| milliseconds(tally, 0.99));
    let lost = |tally: &Tally| (tally.failed() + tally.unsent) as f64;
    vec![
        Figure::new("p99 with changes, ms", during),
        Figure::new("p99 without changes, ms", before),
        Figure::new("p99 with changes / without", during / before),
        Figure::new("p50 with changes, ms", milliseconds(moving, 0.5)),
        Figure::new("lost requests", lost(still) + lost(moving)),
        Figure::new("p99 of the load's own lateness, ms", lateness(moving)),
    ]
}

/// A thread that changes the endpoints. Dropping it ends it after its current change.
struct Changing {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u64, String>>>,
    begin: Instant,
}

impl Changing {
    fn start(members: Members, every: Duration) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let begin = Instant::now();
        let asked = Arc::clone(&stop);
        let run = move || {
            let mut changes = 0;
            while !asked.load(Ordering::Relaxed) {
                members.change()?;
                changes += 1;
                let due = begin + every * changes as u32;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            Ok(changes)
        };
        let thread = std::thread::Builder::new().name("changes".into()).spawn(run);
        Ok(Self { stop, thread: Some(thread.map_err(|error| error.to_string())?), begin })
    }

    /// Ends it. Returns the number of changes, and their time. Returns an error if one failed.
    async fn stop(mut self) -> Result<(u64, Duration), String> {
        self.stop.store(true, Ordering::Relaxed);
        let elapsed = self.begin.elapsed();
        let thread = self.thread.take().ok_or("it has ended")?;
        let ended = tokio::task::spawn_blocking(move || thread.join()).await;
        let changes = ended.map_err(|error| error.to_string())?.map_err(|_| "the changes panicked")??;
        Ok((changes, elapsed))
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Failure;

    #[test]
    fn latencies_are_compared_and_lost_requests_are_counted() {
        let tally = |latency: u64| {
            let mut tally = Tally::new();
            tally.latency.record(latency * 1_000_000).unwrap();
            tally
        };
        let mut moving = tally(3);
        moving.failures.insert(Failure::Status(503), 2);
        moving.unsent = 1;
        let figures = of_latencies(&tally(2), &moving);
        let value = |name| figures.iter().find(|figure| figure.metric == name).unwrap().value;
        assert!((value("p99 with changes / without") - 1.5).abs() < 0.01);
        assert_eq!(value("lost requests"), 3.0);
    }
}
