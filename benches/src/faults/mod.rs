//! `faults`: breaks one of three endpoints under load and prints the results for clients, with Envoy and HAProxy for
//! comparison if they are installed. Outrigger has its default configuration.
//!
//! Runs in a network namespace that util-linux's `unshare` creates and that ends with the process. Needs root and `nft`.

pub(crate) mod endpoint;
mod exchange;
mod fault;
mod healthy;
pub(crate) mod limit;
mod load;
mod overload;
mod peers;
mod processes;
mod proxy;
mod report;
mod topology;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use outrigger_test_support::limits::Algorithm;

use fault::{Fault, VICTIM};
use load::Plan;
use proxy::Proxy;
use report::Figures;
use topology::{Settings, TARGET, Topology, application};

/// Breaks endpoints under load and prints what was lost. Needs root.
#[derive(Debug, Clone, Args)]
pub(crate) struct FaultsArgs {
    /// The short form: fewer faults, less time after each.
    #[arg(long)]
    quick: bool,
    /// Only these faults, by their names in the table; `overload` is one of them, and `none`: uneven traffic of which
    /// nothing may be refused.
    #[arg(long, value_delimiter = ',', value_name = "FAULT")]
    only: Vec<String>,
    /// Measure only Outrigger, even if others are installed.
    #[arg(long)]
    no_peers: bool,
    /// Fail if Outrigger lost a GET that another endpoint could have answered.
    #[arg(long)]
    check: bool,
    /// Requests a second.
    #[arg(long, default_value_t = 600)]
    rate: u32,
    /// Clients, with one connection each.
    #[arg(long, default_value_t = 60)]
    clients: u32,
    /// Requests a second in `overload`, of which the applications can process 400.
    #[arg(long, default_value_t = 4000)]
    offered: u32,
    /// Applications of `overload` [default: all of one-thread, six-threads, slows-down, fans-out].
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    application: Vec<String>,
    /// Measure `overload` and `none` also with other algorithms for the limit of an application: all, or some of gradient,
    /// gradient2, vegas, aimd, codel.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    algorithms: Vec<String>,
    /// Minutes of `none`.
    #[arg(long, default_value_t = 60)]
    minutes: u32,
    /// The binary to measure.
    #[arg(long, default_value = "target/release/outrigger")]
    outrigger: PathBuf,
    /// Set by the bench when it runs in its namespace.
    #[arg(long, hide = true)]
    in_namespace: bool,
}

/// Runs every fault against every available proxy, and prints a table. Returns an error if a process does not start, or
/// with `--check` if a request was lost.
pub(crate) async fn run(args: FaultsArgs) -> Result<(), String> {
    if !args.in_namespace {
        return enter_namespace();
    }
    command("ip", &["link", "set", "lo", "up"]).await?;
    let (chosen, kinds, algorithms) =
        (faults(&args)?, overload::kinds(&args.application)?, algorithms(&args)?);
    let mut proxies = vec![Proxy::Plain, Proxy::Mesh];
    if !args.no_peers {
        proxies.extend(installed("envoy").map(Proxy::Envoy));
        proxies.extend(installed("haproxy").map(Proxy::Haproxy));
    }
    let mut rows = Vec::new();
    for fault in chosen {
        for proxy in proxies.iter().filter(|proxy| fault.strikes(proxy)) {
            eprintln!("{}: {}", fault.name(), proxy.name());
            let figures = measure(&args, fault, proxy).await?;
            rows.push((fault.name(), proxy.name(), figures, proxy.is_outrigger() && !fault.may_lose()));
        }
    }
    let lost: usize =
        rows.iter().filter(|(.., must_hold)| *must_hold).map(|(_, _, figures, _)| figures.lost).sum();
    let rows: Vec<_> = rows.into_iter().map(|(fault, proxy, figures, _)| (fault, proxy, figures)).collect();
    if !rows.is_empty() {
        println!("{}", report::table(&rows));
    }
    let mut limits: Vec<_> =
        installed("envoy").filter(|_| !args.no_peers).map(Proxy::EnvoyAdaptive).into_iter().collect();
    let other_algorithms = !algorithms.is_empty();
    limits.extend(algorithms.into_iter().map(Proxy::Limit));
    if overloads(&args) {
        proxies.extend(limits.iter().cloned());
        overload::run(&args.outrigger, args.offered, &kinds, &proxies).await?;
    }
    if args.only.iter().any(|name| name == NONE) {
        let mut proxies = vec![Proxy::Mesh];
        proxies.extend(limits.into_iter().filter(|_| other_algorithms));
        healthy::run(&args.outrigger, args.minutes, &proxies).await?;
    }
    match args.check && lost > 0 {
        true => Err(format!("{lost} GETs were lost that another endpoint could have answered")),
        false => Ok(()),
    }
}

async fn measure(args: &FaultsArgs, fault: Fault, proxy: &Proxy) -> Result<Figures, String> {
    let (before, after) = if args.quick { (2, 8) } else { (5, 25) };
    let [before, after] = [before, after].map(Duration::from_secs);
    let settings = Settings {
        outrigger: args.outrigger.clone(),
        certificate_ttl: fault.certificate_ttl(),
        concurrency: 10_000,
        asked: None,
    };
    let mut topology = Topology::start(proxy, settings).await?;
    fault.prepare(&topology).await?;
    let plan = Plan {
        clients: args.clients,
        per_second: args.rate,
        patience: fault.patience(),
        length: before + after,
        path: "/items",
        at_once: false,
    };
    let load = tokio::spawn(load::run(TARGET, plan));
    tokio::time::sleep(before).await;
    // Requests in flight now count on both sides, which cancels out at one execution per request.
    let executed = executed(fault, &topology).await?;
    let struck = fault.strike(&mut topology, after).await;
    let samples = load.await.map_err(|error| error.to_string())?;
    fault::clear().await?;
    struck?;
    let victim = application(VICTIM).ip().to_string();
    let mut figures = Figures::of(&samples, before, plan.length, args.rate, &victim);
    if let (Some(earlier), Some(now)) = (executed, self::executed(fault, &topology).await?) {
        figures.executions = Some((now - earlier) as f64 / figures.sent.max(1) as f64);
    }
    topology.stop().await?;
    Ok(figures)
}

/// Returns the number of executions, for faults after which all applications still respond.
async fn executed(fault: Fault, topology: &Topology) -> Result<Option<u64>, String> {
    match fault {
        Fault::AllUnavailable | Fault::FailsFast | Fault::Slow => topology.executed().await.map(Some),
        _ => Ok(None),
    }
}

fn faults(args: &FaultsArgs) -> Result<Vec<Fault>, String> {
    if args.only.is_empty() {
        return Ok(if args.quick { Fault::QUICK.to_vec() } else { Fault::ALL.to_vec() });
    }
    let by_name = |name: &String| {
        let known = Fault::ALL.into_iter().find(|fault| fault.name() == name);
        known.ok_or_else(|| {
            let names: Vec<_> = Fault::ALL.map(Fault::name).to_vec();
            format!("no fault {name:?}; there are: {}, {OVERLOAD}, {NONE}", names.join(", "))
        })
    };
    args.only.iter().filter(|name| ![OVERLOAD, NONE].contains(&name.as_str())).map(by_name).collect()
}

fn algorithms(args: &FaultsArgs) -> Result<Vec<Algorithm>, String> {
    match args.algorithms.as_slice() {
        [all] if all == "all" => Ok(Algorithm::ALL.to_vec()),
        some => some.iter().map(|name| limit::algorithm(name)).collect(),
    }
}

const OVERLOAD: &str = "overload";
const NONE: &str = "none";

fn overloads(args: &FaultsArgs) -> bool {
    args.only.iter().any(|name| name == OVERLOAD) || args.only.is_empty() && !args.quick
}

/// Starts this program again in a new network namespace. Returns only on failure.
fn enter_namespace() -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let error = std::process::Command::new("unshare")
        .args(["--net", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .arg("--in-namespace")
        .exec();
    Err(format!("cannot run unshare (util-linux, as root): {error}"))
}

/// Returns the path of a program.
fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

async fn command(program: &str, args: &[&str]) -> Result<(), String> {
    let output = tokio::process::Command::new(program)
        .args(args)
        .output()
        .await
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
        }
    }
}
