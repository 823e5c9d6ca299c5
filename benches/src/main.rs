//! Measures what a mesh costs and which faults it survives. Nothing is asserted.
//!
//! `cargo build --release && cargo run --release -p outrigger-benches -- compare` measures Outrigger beside other proxies (docs/benchmarks.md).
//!
//! `cargo run --release -p outrigger-benches -- faults` breaks endpoints under load and prints what was lost (root).
//! `cargo run --release -p outrigger-benches -- instructions` counts the instructions of a request (valgrind).
//! `cargo run --release -p outrigger-benches -- policies` measures what each policy costs a sidecar.
//! `cargo run --release -p outrigger-benches -- heartbeats` measures heartbeats and certificate requests while clients of the
//! whole mesh connect. `cargo run --release -p outrigger-benches -- scale` measures a control plane with 5,000 proxies. `cargo run --release -p outrigger-benches -- load URL` sends load to anything (docs/load-testing.md).
#![allow(clippy::print_stdout, clippy::print_stderr)] // it reports to a person

mod scale;
mod compare;
mod faults;
mod heartbeats;
mod mesh;
mod backend;
mod relay;
mod load;
mod connection;
mod plot;
mod span_sink;
mod callgrind;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Outrigger.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    Compare(compare::CompareArgs),
    Faults(faults::FaultsArgs),
    Heartbeats(heartbeats::HeartbeatsArgs),
    Scale(scale::ScaleArgs),
    Instructions(compare::instructions::InstructionsArgs),
    Policies(compare::policies::PoliciesArgs),
    Load(Box<load::LoadArgs>),
    #[command(hide = true)]
    Endpoint(faults::endpoint::EndpointArgs),
    #[command(hide = true)]
    Limit(faults::limit::LimitArgs),
    #[command(hide = true)]
    Backend(backend::BackendArgs),
    #[command(hide = true)]
    Relay(relay::RelayArgs),
}

fn main() -> ExitCode {
    let bench = Cli::parse().bench;
    let outcome = tokio::runtime::Runtime::new().map_err(|error| error.to_string()).and_then(|runtime| {
        runtime.block_on(async {
            match bench {
                Bench::Load(args) => load::run(*args).await,
                Bench::Backend(args) => backend::run(&args),
                Bench::Relay(args) => relay::run(args),
                Bench::Compare(args) => compare::run(args).await,
                Bench::Instructions(args) => compare::instructions::run(args).await,
                Bench::Policies(args) => compare::policies::run(args).await,
                Bench::Faults(args) => faults::run(args).await,
                Bench::Heartbeats(args) => heartbeats::measure(args).await,
                Bench::Scale(args) => scale::run(args).await,
                Bench::Endpoint(args) => faults::endpoint::serve(args).await,
                Bench::Limit(args) => faults::limit::serve(args).await,
            }
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
