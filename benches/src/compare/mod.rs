//! `compare`: what Outrigger costs beside the proxies that people use otherwise, in one run on this machine.
//!
//! Each scenario runs the same load through Outrigger and through every peer that is installed (`benches/install-peers`), in turn, one
//! proxy core for all. Runs with other load on that core are discarded. Medians, spreads and ratios go to `benches/results`;
//! `docs/benchmarks.md` describes the method.

pub(crate) mod instructions;
pub(crate) mod policies;
mod report;
mod rounds;
mod plan;
mod counting;
mod measure;
mod changes;
mod latency;
mod mesh;
mod memory;
mod scenarios;
mod drive;
mod counters;
mod idle;
mod peers;
mod http2_backend;
mod certificates;
mod client_tls;
mod account;
mod cores;
mod results;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

pub(crate) use self::account::{Account, Spent};
pub(crate) use self::certificates::Certificates;
pub(crate) use self::cores::Cores;
use self::peers::Peer;
pub(crate) use self::peers::find_program;
use self::plan::{Clock, Plan, minutes};
pub(crate) use self::report::describe_machine;
use self::results::Results;
use self::rounds::Bench;

/// Compares what proxies cost. Needs two cores.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Two minutes instead of thirty: one shorter run of each, and fewer variants.
    #[arg(long)]
    quick: bool,
    /// Only these scenarios, as in S1,S3.
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<String>,
    /// Only these peers, beside Outrigger.
    #[arg(long, value_delimiter = ',')]
    peer: Vec<Peer>,
    /// Runs of each peer in each scenario [default: 5, or 1 with --quick].
    #[arg(long)]
    repeat: Option<usize>,
    /// Count the instructions of a request under valgrind's callgrind, too, which takes some minutes more.
    #[arg(long)]
    callgrind: bool,
    /// Where the results go.
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,
    /// The binary to measure.
    #[arg(long, default_value = "target/release/outrigger")]
    outrigger: PathBuf,
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
    let plan = Plan { callgrind: args.callgrind, ..Plan::new(args.quick, args.repeat) };
    let wanted: Vec<_> = scenarios::ALL
        .iter()
        .filter(|scenario| args.scenario.is_empty() || args.scenario.iter().any(|id| id == scenario.id))
        .collect();
    let peers: Vec<_> = found.iter().map(|found| found.peer).collect();
    let nowhere = (std::net::Ipv4Addr::LOCALHOST, 0).into();
    let estimate = plan.estimate(&wanted, &peers, |variant| variant.asks(nowhere, Some(nowhere)));
    eprintln!("this takes about {}", minutes(estimate));
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let certificates = Certificates::create(directory.path())?;
    let mut bench = Bench {
        plan,
        clock: Clock::start(estimate),
        spare: Plan::spare(estimate),
        peers: &found,
        cores,
        certificates: &certificates,
        directory: directory.path(),
        results: Results::default(),
        failures: Vec::new(),
        failed: Vec::new(),
        uncounted: Vec::new(),
    };
    for scenario in wanted {
        bench.measure(scenario).await?;
    }
    let Bench { results, failures, uncounted, .. } = bench;
    report::write(
        &report::Report {
            results: &results,
            failures: &failures,
            uncounted: &uncounted,
            peers: &found,
            plan,
        },
        &args.results,
    )?;
    eprintln!("{} in {}", args.results.display(), minutes(begin.elapsed()));
    match failures.is_empty() {
        true => Ok(()),
        false => Err(format!("failed: {}", failures.join("; "))),
    }
}
