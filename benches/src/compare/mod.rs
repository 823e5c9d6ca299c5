//! `compare`: what Outrigger costs beside the proxies that people use otherwise, in one run on this machine.
//!
//! Each scenario runs the same load through Outrigger and through every peer that is installed (`benches/install-peers`), in turn, one
//! proxy core for all. Runs with other load on that core are discarded. Medians, spreads and ratios go to `benches/results`;
//! `docs/benchmarks.md` describes the method.

mod report;
mod rounds;
mod measure;
mod scenarios;
mod drive;
mod idle;
mod peers;
mod http2_backend;
mod certificates;
mod client_tls;
mod account;
mod cores;
mod results;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

pub(crate) use self::account::{Account, Spent};
pub(crate) use self::certificates::Certificates;
pub(crate) use self::cores::Cores;
use self::peers::Peer;
pub(crate) use self::peers::find_program;
pub(crate) use self::report::describe_machine;
use self::results::Results;
use self::rounds::Bench;

/// Compares what proxies cost. Needs two cores.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Two minutes instead of thirty: shorter runs, three of each.
    #[arg(long)]
    quick: bool,
    /// Only these scenarios, as in S1,S3.
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<String>,
    /// Only these peers, beside Outrigger.
    #[arg(long, value_delimiter = ',')]
    peer: Vec<Peer>,
    /// Runs of each peer in each scenario [default: 5, or 3 with --quick].
    #[arg(long)]
    repeat: Option<usize>,
    /// Where the results go.
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,
    /// The binary to measure.
    #[arg(long, default_value = "target/release/outrigger")]
    outrigger: PathBuf,
}

/// How long and how often is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    warm_up: Duration,
    run: Duration,
    repeat: usize,
}

/// An installed peer.
#[derive(Debug)]
struct Found {
    peer: Peer,
    program: PathBuf,
    version: String,
}

/// Measures, prints and writes the results. Returns an error if Outrigger or the machine cannot be measured, or if a peer failed.
pub(crate) async fn run(args: CompareArgs) -> Result<(), String> {
    let begin = Instant::now();
    let known = || scenarios::ALL.iter().map(|scenario| scenario.id).collect::<Vec<_>>().join(", ");
    if let Some(unknown) =
        args.scenario.iter().find(|id| scenarios::ALL.iter().all(|scenario| scenario.id != **id))
    {
        return Err(format!("no scenario {unknown}: there are {}", known()));
    }
    let wanted = |peer: Peer| peer == Peer::Outrigger || args.peer.is_empty() || args.peer.contains(&peer);
    let mut found = Vec::new();
    for peer in Peer::ALL.into_iter().filter(|peer| wanted(*peer)) {
        match peer.find(&args.outrigger) {
            Some((program, version)) => {
                eprintln!("{}: {version}", peer.name());
                found.push(Found { peer, program, version });
            }
            None if peer == Peer::Outrigger => {
                return Err(format!("{} is missing: cargo build --release", args.outrigger.display()));
            }
            None => eprintln!("{} is not installed: benches/install-peers installs it", peer.name()),
        }
    }
    let cores = Cores::divide()?;
    let (warm_up, run, repeat) = match args.quick {
        true => (300, 700, 3),
        false => (1_000, 2_000, 5),
    };
    let plan = Plan {
        warm_up: Duration::from_millis(warm_up),
        run: Duration::from_millis(run),
        repeat: args.repeat.unwrap_or(repeat).max(1),
    };
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let certificates = Certificates::create(directory.path())?;
    let mut bench = Bench {
        plan,
        peers: &found,
        cores,
        certificates: &certificates,
        directory: directory.path(),
        results: Results::default(),
        failures: Vec::new(),
        failed: Vec::new(),
    };
    for scenario in scenarios::ALL {
        if args.scenario.is_empty() || args.scenario.iter().any(|id| id == scenario.id) {
            bench.measure(scenario).await?;
        }
    }
    let Bench { results, failures, .. } = bench;
    report::write(
        &report::Report { results: &results, failures: &failures, peers: &found, plan },
        &args.results,
    )?;
    eprintln!("{} in {:.0} s", args.results.display(), begin.elapsed().as_secs_f64());
    match failures.is_empty() {
        true => Ok(()),
        false => Err(format!("failed: {}", failures.join("; "))),
    }
}
