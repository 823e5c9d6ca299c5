//! `scale`: a control plane with thousands of services and thousands of proxies.
//!
//! Starts a control plane on a core of its own and simulates the proxies in this process: each has a connection, a certificate, a
//! delta ADS stream and five destinations, one of which all of them use. Measures a start of all proxies at once, the time from a
//! change of the shared endpoint to the last proxy, a reconnect of all, and the control plane's CPU and private memory. The same
//! for go-control-plane, if `benches/install-peers` has built its program. The proxies register no workloads and send no
//! heartbeats, as in Kubernetes. A phase that does not end in time ends the run with an error.

mod subject;
mod fleet;
mod proxy;
mod subscriptions;
mod report;
mod results;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use outrigger::memory::Memory;
use outrigger::process::Process;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use self::results::{Cpu, Results};
use self::subject::{FIRST_PORT, Subject};
use crate::compare::{Account, Cores};
use crate::load::allow_files;

/// Time within which all proxies must have started.
const COLD_START: Duration = Duration::from_secs(300);
/// Time within which all proxies must have a change.
const CHANGE: Duration = Duration::from_secs(60);
/// Pause before a change. It is no multiple of the control plane's debounce.
const PAUSE: Duration = Duration::from_millis(330);
/// Pause after which memory is read, and how long the mesh is then observed at rest.
const SETTLE: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_secs(20);
/// Descriptors of this process beside those of the proxies.
const OTHER_FILES: usize = 200;

/// Measures a control plane with thousands of proxies. Needs two cores.
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// How many proxies are simulated [default: 5000, or 500 with --quick].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    proxies: Option<u32>,
    /// How many services the control plane serves [default: 10000, or 1000 with --quick].
    #[arg(long, value_parser = clap::value_parser!(u32).range(10..=60_000))]
    services: Option<u32>,
    /// How often the shared endpoint changes [default: 20, or 5 with --quick].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    changes: Option<u16>,
    /// A tenth of the mesh, in less than a minute.
    #[arg(long)]
    quick: bool,
    /// Where the results go.
    #[arg(long, default_value = "benches/results")]
    results: PathBuf,
    /// The binary to measure.
    #[arg(long, default_value = "target/release/outrigger")]
    outrigger: PathBuf,
}

/// The size of a run.
#[derive(Debug, Clone, Copy)]
struct Size {
    proxies: usize,
    services: usize,
    changes: u16,
}

/// Measures, prints and writes the results. Returns an error if a control plane does not start, or if a proxy has not what it
/// needs in time.
pub(crate) async fn run(args: ScaleArgs) -> Result<(), String> {
    let or =
        |given: Option<u32>, full, quick| given.unwrap_or(if args.quick { quick } else { full }) as usize;
    let size = Size {
        proxies: or(args.proxies, 5_000, 500),
        services: or(args.services, 10_000, 1_000),
        changes: args.changes.unwrap_or(if args.quick { 5 } else { 20 }),
    };
    allow_files(size.proxies + OTHER_FILES)?;
    let cores = Cores::divide()?;
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    for subject in [
        Some(Subject::outrigger(&args.outrigger, directory.path(), size.services)?),
        Subject::go_control_plane(directory.path(), size.services)?,
    ] {
        match subject {
            Some(subject) => all.push(Box::pin(measure(&subject, size, cores)).await?),
            None => eprintln!("go-control-plane is not installed: benches/install-peers installs it"),
        }
    }
    for results in &all {
        println!("{}", results.table());
    }
    report::write(&all, &args.results)
}

async fn measure(subject: &Subject<'_>, size: Size, cores: Cores) -> Result<Results, String> {
    let Size { proxies, services, changes } = size;
    let begin = Instant::now();
    let mut run = Run::start(subject, cores).await?;
    let name = subject.name();
    eprintln!("{name} with {services} services ready after {:.1} s", begin.elapsed().as_secs_f64());
    let mut fleet = subject.fleet(proxies).await?;

    tokio::time::sleep(SETTLE).await;
    let before = run.memory()?;
    run.cpu()?;
    let started = fleet.cold_start(COLD_START).await?;
    let cold_cpu = run.cpu()?;
    let cold_failures = fleet.take_failures();
    eprintln!("{name}: all proxies have their resources");
    tokio::time::sleep(SETTLE).await;
    let cold = run.memory()?;
    run.cpu()?;
    tokio::time::sleep(REST).await;
    let idle_cpu = run.cpu()?;

    let mut times = Vec::new();
    for port in FIRST_PORT + 1..=FIRST_PORT + changes {
        tokio::time::sleep(PAUSE).await;
        let since = Instant::now();
        subject.change(port).await?;
        times.push(fleet.received(port, since, CHANGE).await?);
        run.check()?;
    }
    let changes_cpu = run.cpu()?;
    tokio::time::sleep(SETTLE).await;
    let changed = run.memory()?;
    run.cpu()?;
    let reconnected = fleet.reconnect(COLD_START).await?;
    let reconnect_cpu = run.cpu()?;
    Ok(Results {
        name,
        proxies,
        services,
        certified: if subject.signs() { started.certified } else { Vec::new() },
        configured: started.configured,
        cold_failures,
        later_failures: fleet.take_failures(),
        cold_cpu,
        changes: times,
        changes_cpu,
        reconnected,
        reconnect_cpu,
        idle_cpu,
        memory: [before, cold, changed],
    })
}

/// The control plane that is measured, and the CPU time until the last reading.
struct Run {
    control_plane: Process,
    core: usize,
    read: (Account, Duration),
}

impl Run {
    /// Starts the control plane on its core, from the thread that runs `main`: it polls this future alone.
    async fn start(subject: &Subject<'_>, cores: Cores) -> Result<Self, String> {
        let pinned = cores.on_proxy_core()?;
        let control_plane = subject.start().await?;
        drop(pinned);
        let read = account(&control_plane, cores.proxy)?;
        Ok(Self { control_plane, core: cores.proxy, read })
    }

    fn check(&mut self) -> Result<(), String> {
        self.control_plane.check_running()
    }

    /// Returns the control plane's private memory in bytes.
    fn memory(&mut self) -> Result<u64, String> {
        self.check()?;
        let memory = self.control_plane.id().and_then(Memory::of);
        memory.map(|memory| memory.anonymous).ok_or_else(|| "the control plane has no memory in /proc".into())
    }

    /// Returns the CPU time since the last call.
    fn cpu(&mut self) -> Result<Cpu, String> {
        self.check()?;
        let now = account(&self.control_plane, self.core)?;
        let (last, fleet) = &self.read;
        let cpu = Cpu { control_plane: last.until(&now.0), fleet: now.1.saturating_sub(*fleet) };
        self.read = now;
        Ok(cpu)
    }
}

/// Reads the CPU time of the control plane, and of this process.
fn account(control_plane: &Process, core: usize) -> Result<(Account, Duration), String> {
    let id = control_plane.id().ok_or("the control plane has ended")?;
    let fleet = clock_gettime(ClockId::ProcessCPUTime);
    Ok((Account::read(&[id], core)?, Duration::new(fleet.tv_sec as u64, fleet.tv_nsec as u32)))
}
