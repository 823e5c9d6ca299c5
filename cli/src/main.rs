//! `outrigger`: the command line.
//!
//! One module for each command. The demo and its sample services are implemented here; every other command calls a library: the
//! two daemons, and what queries or changes them. An error is one line on stderr and exit code 1; a usage error is exit code 2.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command line prints

mod check;
mod completions;
mod demo;
mod history;
mod inject;
mod install;
mod man;
mod policy;
mod proxy_config;
mod rate_limit;
mod run;
mod sample;
mod schema;
mod status;
mod token;
mod version;
mod wait;

mod flags;
mod progress;
mod output;
mod runtime;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// Outrigger, a service mesh: a small L7 proxy beside each service, and a small control plane.
#[derive(Debug, Parser)]
#[command(
    name = "outrigger",
    version,
    after_help = "\
Exit codes: 0 success, 1 failure, 2 invalid usage. Errors are one line on stderr.

Example: outrigger demo runs a whole mesh on this machine, under load and faults."
)]
struct Outrigger {
    #[command(subcommand)]
    command: Command,
    /// Exit when the parent process exits.
    #[arg(long, global = true, hide = true)]
    exit_with_parent: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole mesh on this machine, inject faults under load, and report lost requests.
    #[command(after_help = "\
Examples:
  # About 40 seconds
  outrigger demo

  # Keep the mesh afterwards, and send its traces to a Jaeger
  outrigger demo --keep --jaeger http://127.0.0.1:16686")]
    Demo(demo::DemoArgs),
    /// Run a control plane (the same as outrigger-control-plane).
    ControlPlane(outrigger_control_plane::run::Args),
    /// Run a sidecar (the same as outrigger-proxy).
    Proxy(outrigger_proxy::Args),
    /// Run a service of global rate limits, which sidecars ask.
    RateLimit(rate_limit::RateLimitArgs),
    /// Run a program with a sidecar that its connections are redirected to (root).
    #[command(after_help = "\
The program needs no change: its TCP connections, except those to loopback addresses, go through
the sidecar, which also answers its DNS queries for names of the mesh. It starts when the sidecar
is ready, gets the signals of run, and its exit code is that of run. Nothing else on the machine is
redirected.

Examples:
  # A service that listens on port 8080 of loopback, at port 9080 for the mesh
  outrigger run --control-plane 10.0.0.1:15010 --control-plane-ca roots.pem \\
      --token-file token --state-dir /var/lib/outrigger/cart \\
      --service cart=127.0.0.1:8080,listen=0.0.0.0:9080 \\
      --user cart -- /usr/bin/cart --port 8080")]
    Run(Box<run::RunArgs>),
    /// Redirect this network namespace's connections to a sidecar, and verify it (root).
    #[command(after_help = "\
Examples:
  # As the capture container of a pod does
  outrigger capture --exclude-inbound-ports 22

  # Put everything back
  outrigger capture --remove")]
    Capture(outrigger_proxy::CaptureArgs),
    /// Wait until a control plane or a proxy is ready.
    Wait(wait::WaitArgs),
    /// Print the objects of the mesh in a Kubernetes cluster, for kubectl apply.
    Install(install::InstallArgs),
    /// Print what install has created, for kubectl delete.
    Uninstall(install::UninstallArgs),
    /// Report what is wrong with configuration files.
    Check(check::CheckArgs),
    /// Print the JSON Schema of configuration files, for editors.
    Schema(schema::SchemaArgs),
    /// Add sidecars to manifests of pods, as the webhook does.
    Inject(inject::InjectArgs),
    /// Create join tokens, with which workloads get their first certificates.
    Token(token::TokenArgs),
    /// Print the proxies of a running control plane, and what is wrong in the mesh.
    Status(status::StatusArgs),
    /// Print the configuration of a proxy: listeners, routes, clusters, endpoints, certificates.
    ProxyConfig(proxy_config::ProxyConfigArgs),
    /// Print the log of configuration changes: time, source, change, accepted or refused.
    History(history::HistoryArgs),
    /// Print which policies apply to a service.
    Policy(policy::PolicyArgs),
    /// Print the versions of this program, the control plane and the proxies.
    Version(version::VersionArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
    /// Print or write manual pages.
    Man(man::ManArgs),
    /// Run one of the demo's sample services.
    #[command(after_help = "\
Examples:
  # The catalog, whose responses have x-version: v2
  outrigger sample catalog --listen 127.0.0.1:8080 --version v2")]
    Sample(sample::SampleArgs),
}

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|program| outrigger_proxy::is_cni_plugin(&program)) {
        return outrigger_proxy::run_cni_plugin();
    }
    let outrigger = Outrigger::parse();
    if outrigger.exit_with_parent {
        exit_with_parent();
    }
    let outcome = match outrigger.command {
        Command::Demo(args) => demo::run(args),
        Command::Proxy(args) => outrigger_proxy::run(args).map_err(|error| error.to_string()),
        Command::ControlPlane(args) => {
            outrigger_control_plane::run::run(args).map_err(|error| error.to_string())
        }
        Command::Run(args) => match run::run(*args) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Command::Install(args) => install::install(args),
        Command::Uninstall(args) => install::uninstall(args),
        Command::Capture(args) => outrigger_proxy::capture(&args).map_err(|error| error.to_string()),
        Command::Check(args) => check::check(args),
        Command::Schema(args) => schema::print_schema(args),
        Command::Inject(args) => inject::run(args),
        Command::Token(args) => token::run(args),
        Command::Status(args) => status::run(args),
        Command::History(args) => history::run(args),
        Command::ProxyConfig(args) => proxy_config::run(args),
        Command::Policy(args) => policy::run(args),
        Command::RateLimit(args) => rate_limit::run(args),
        Command::Wait(args) => wait::run(args),
        Command::Version(args) => version::run(args),
        Command::Completions(args) => completions::run(args, Outrigger::command()),
        Command::Man(args) => man::run(args, Outrigger::command()),
        Command::Sample(args) => sample::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&format!("outrigger: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Makes the kernel kill this process when its parent dies (prctl(2), PR_SET_PDEATHSIG), so that a killed demo leaves no
/// process behind. Linux only.
fn exit_with_parent() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

#[cfg(test)]
mod tests;
