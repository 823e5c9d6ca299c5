//! `heartbeats`: how long heartbeats and certificate requests take while clients of the whole mesh connect.
//!
//! Starts a control plane that serves that many services. Ten registered workloads send heartbeats over one connection, and
//! another connection requests certificates. They are measured three times: without any other client; while one wildcard
//! client connects, for which everything is translated; and while four connect at once, which share the translation. A
//! wildcard client has connected when it has every cluster, endpoint, listener and route.

pub(crate) mod client;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::mesh::Mesh;
use client::{Registered, Renewals, connect, join, watch_everything};

/// Streams that send heartbeats, evenly spread over [`PACE`].
const WORKLOADS: usize = 10;
/// Time between two heartbeats of one stream, and between two certificate requests: the control plane's rate limit.
const PACE: Duration = Duration::from_millis(100);
/// Duration of the measurement without other clients.
const IDLE: Duration = Duration::from_secs(10);
/// Time within which the wildcard clients must have everything.
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures heartbeats and certificate requests while clients of the whole mesh connect.
#[derive(Debug, Args)]
pub(crate) struct HeartbeatsArgs {
    /// How many services the control plane serves.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// The binary to measure.
    #[arg(long, default_value = "target/release/outrigger")]
    outrigger: PathBuf,
}

/// Measures and prints. Returns an error if the control plane does not start or refuses a request.
pub(crate) async fn measure(args: HeartbeatsArgs) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mesh = Mesh::new(&args.outrigger, directory.path())?;
    for service in 0..args.services {
        mesh.write(service, 0)?;
    }
    let _control_plane = mesh.control_plane().await?;
    let identity = join(&mesh).await?;
    let (samples, mut taken) = mpsc::unbounded_channel();
    // Dropped, which stops the tasks, when this function returns.
    let mut probes = JoinSet::new();
    let channel = connect(&mesh, Some(&identity)).await?;
    for number in 0..WORKLOADS {
        let workload = Registered::open(channel.clone(), number).await?;
        tokio::time::sleep(PACE / WORKLOADS as u32).await;
        probes.spawn(Probe::Heartbeat(workload).run(samples.clone()));
    }
    let renewals = Renewals::open(connect(&mesh, Some(&identity)).await?)?;
    probes.spawn(Probe::Certificate(renewals).run(samples));
    // The registrations themselves change the mesh.
    tokio::time::sleep(Duration::from_secs(2)).await;

    while taken.try_recv().is_ok() {}
    tokio::time::sleep(IDLE).await;
    report("no other client", &mut taken);
    for clients in [1, 4] {
        let begin = Instant::now();
        let mut connecting = JoinSet::new();
        for number in 0..clients {
            let channel = connect(&mesh, Some(&identity)).await?;
            let instance = format!("wildcard-{clients}-{number}");
            connecting.spawn(watch_everything(channel, instance, args.services));
        }
        let all = async {
            while let Some(connected) = connecting.join_next().await {
                connected.map_err(|error| error.to_string())??;
            }
            Ok::<_, String>(())
        };
        timeout(PATIENCE, all).await.map_err(|_| "a client has not received the whole mesh in time")??;
        let took = begin.elapsed().as_secs_f64();
        let clients = if clients == 1 { "one client".into() } else { format!("{clients} clients") };
        report(&format!("{clients} of {} services in {took:.1} s", args.services), &mut taken);
    }
    match probes.try_join_next() {
        Some(ended) => ended.map_err(|error| error.to_string())?,
        None => Ok(()),
    }
}

type Samples = mpsc::UnboundedSender<(&'static str, Duration)>;

enum Probe {
    Heartbeat(Registered),
    Certificate(Renewals),
}

impl Probe {
    /// Sends requests at [`PACE`] until one is refused, and reports how long each took.
    async fn run(mut self, samples: Samples) -> Result<(), String> {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            let begin = Instant::now();
            let name = match &mut self {
                Self::Heartbeat(workload) => {
                    workload.heartbeat().await?;
                    "heartbeat"
                }
                Self::Certificate(renewals) => {
                    renewals.renew().await?;
                    "certificate"
                }
            };
            if samples.send((name, begin.elapsed())).is_err() {
                return Ok(());
            }
        }
    }
}

/// Prints the samples since the last report.
fn report(when: &str, taken: &mut mpsc::UnboundedReceiver<(&'static str, Duration)>) {
    let all: Vec<_> = std::iter::from_fn(|| taken.try_recv().ok()).collect();
    print!("{when}:");
    for name in ["heartbeat", "certificate"] {
        let mut times: Vec<_> = all.iter().filter(|(of, _)| *of == name).map(|(_, took)| *took).collect();
        times.sort_unstable();
        let at = |share: f64| {
            let index = (times.len() as f64 * share) as usize;
            times
                .get(index.min(times.len().saturating_sub(1)))
                .map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
        };
        print!("  {name} median {:.1} p99 {:.1} max {:.1} ms ({})", at(0.5), at(0.99), at(1.0), times.len());
    }
    println!();
}
