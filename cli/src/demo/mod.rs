//! `outrigger demo`: a whole mesh on this machine, tested under constant load.
//!
//! Starts a control plane, five services and their sidecars as processes, injects one fault after another, and prints
//! how many requests were sent and how many were lost. Everything uses loopback, free ports, and one temporary
//! directory, which is kept if a check fails.

mod checks;
mod policies;
mod report;

mod intruder;
mod issuer;
mod load;
mod mesh;
mod instance;
mod shop;

mod collector;

use std::cell::Cell;
use std::time::{Duration, Instant};

use clap::Args;

use checks::{Pace, Verdict};
use collector::{Collector, Trace};
use load::{Load, Window};
use mesh::Mesh;
use outrigger::admin;
use outrigger::process::{Process, Usage};
use report::{Cost, Row};

use crate::output::print;
use crate::progress::Spinner;

/// Runs the demo.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// A shorter form for tests: less load, shorter checks, a wider tolerance for traffic shares.
    #[arg(long)]
    quick: bool,
    /// Redirect the connections of the services to their sidecars, as `outrigger run` does, so that they call each other by name, as in
    /// http://cart, and know no sidecar (root).
    #[arg(long)]
    transparent: bool,
    /// Keep the mesh running after the checks, and print what to try with curl. Ends with Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// The address of a Jaeger, such as http://127.0.0.1:16686: spans go to port 4317 of its host (or to
    /// OTEL_EXPORTER_OTLP_ENDPOINT, if that is set), and the link to a trace is printed.
    #[arg(long, value_name = "URL")]
    jaeger: Option<String>,
}

/// Runs every check. Returns an error if the mesh does not start or a check fails.
pub(crate) fn run(args: DemoArgs) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    // Set once all checks have passed and the demo only waits for Ctrl-C.
    let kept = Cell::new(false);
    runtime.block_on(async {
        tokio::select! {
            outcome = demo(args, &kept) => outcome,
            // Dropping the demo kills every process of it.
            _ = tokio::signal::ctrl_c() => match kept.get() {
                true => Ok(()),
                false => Err("interrupted; everything was stopped".into()),
            },
        }
    })
}

/// The lifetime of certificates: two or three renewals in a run.
const TTL: Duration = Duration::from_secs(20);

struct Plan {
    requests_per_second: u32,
    certificate_ttl: Duration,
    pace: Pace,
}

impl Plan {
    fn new(quick: bool) -> Self {
        let seconds = Duration::from_secs_f64;
        let pace = if quick {
            let (measure, watch, away) = (seconds(2.0), seconds(1.0), seconds(1.0));
            Pace { draws: 320, tolerance: 8.0, measure, watch, away }
        } else {
            let (measure, watch, away) = (seconds(2.5), seconds(2.0), seconds(2.0));
            Pace { draws: 2200, tolerance: 3.0, measure, watch, away }
        };
        Self { requests_per_second: if quick { 60 } else { 200 }, certificate_ttl: TTL, pace }
    }
}

async fn demo(args: DemoArgs, kept: &Cell<bool>) -> Result<(), String> {
    let plan = Plan::new(args.quick);
    if args.transparent {
        mesh::can_redirect()?;
    }
    let directory = mesh::directory()?;
    let progress = Progress::new("starting a control plane, ten instances and their sidecars");
    let onward = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT")
        .ok()
        .filter(|endpoint| !endpoint.is_empty())
        .map_or_else(|| args.jaeger.as_deref().map(otlp_of).transpose(), |endpoint| Ok(Some(endpoint)))?;
    let (collector, spans_to) = Collector::start(onward).await?;
    let settings = mesh::Settings {
        directory: directory.path().to_owned(),
        spans_to,
        certificate_ttl: plan.certificate_ttl,
        sampling: 0.1,
        transparent: args.transparent,
    };
    let mut running = Running { progress, collector, plan, checked: Vec::new(), begun: Instant::now() };
    let outcome = match Mesh::start(settings).await {
        Ok(mut mesh) => {
            running.progress.ended("a control plane, ten instances and their sidecars run");
            let outcome = running.checks(&mut mesh, args.jaeger.as_deref()).await;
            if args.keep && outcome.is_ok() {
                kept.set(true);
                keep(&mesh).await;
            }
            mesh.stop().await;
            outcome
        }
        Err(why) => Err(why),
    };
    outcome.map_err(|why| {
        let kept = directory.keep();
        format!("{why}\nlogs and state are kept in {}", kept.display())
    })
}

struct Running {
    progress: Progress,
    collector: Collector,
    plan: Plan,
    checked: Vec<Checked>,
    /// When the current check began.
    begun: Instant,
}

impl Running {
    async fn checks(&mut self, mesh: &mut Mesh, jaeger: Option<&str>) -> Result<(), String> {
        let (pace, ttl) = (self.plan.pace, self.plan.certificate_ttl);
        let first_serials = checks::serials(mesh).await?;
        let load = Load::start(mesh.instance("shopper-1")?.outbound, self.plan.requests_per_second);
        let (before, begin) = (usage(mesh), Instant::now());
        self.begun = begin;

        self.run(1, "mTLS on every hop", &load, async { checks::mutual_tls(mesh, pace).await }).await;
        self.run(2, "canary", &load, async { checks::canary(mesh, &load, pace).await }).await;
        self.run(3, "instance killed", &load, checks::killed_instance(mesh, pace)).await;
        self.run(4, "rolling restart", &load, checks::rolling_restart(mesh, pace)).await;
        self.run(9, "who may call whom", &load, async { policies::who_may_call(mesh, pace).await }).await;
        self.run(5, "control plane killed", &load, checks::control_plane_away(mesh, &load, pace)).await;
        self.run(7, "invalid YAML", &load, async { checks::broken_file(mesh, pace).await }).await;
        self.run(8, "restart without control plane", &load, checks::restart_alone(mesh, pace)).await;
        self.run(6, "certificates renewed", &load, checks::renewed(mesh, &first_serials, ttl, begin)).await;
        let costs = if mesh.is_transparent() { Vec::new() } else { costs(mesh, &before).await? };
        mesh.check_running()?;
        load.settle().await;
        self.progress.spinner.finish();

        let mut rows: Vec<_> = self.checked.drain(..).map(|check| check.row(&load)).collect();
        rows.sort_by_key(|row| row.number);
        let whole = load.window(begin, Instant::now());
        print(&format!("\n{}\n", report::checks(&rows, &whole)))?;
        let trace = self.checkout_trace().await?;
        let link = jaeger.map(|jaeger| format!("{}/trace/{}\n\n", jaeger.trim_end_matches('/'), trace.id()));
        print(&format!("{}\n{}", report::trace(&trace), link.unwrap_or_default()))?;
        if !costs.is_empty() {
            print(&format!("{}\n", report::costs(&costs)))?;
        }
        verdict(&rows, &whole)
    }

    /// Runs one check. Requests sent since the previous one ended are assigned to it.
    async fn run(
        &mut self,
        number: u8,
        name: &'static str,
        load: &Load,
        check: impl Future<Output = Verdict>,
    ) {
        tokio::pin!(check);
        let mut second = tokio::time::interval(Duration::from_millis(500));
        let verdict = loop {
            tokio::select! {
                verdict = &mut check => break verdict,
                _ = second.tick() => self.progress.current(&format!("{number} {name}"), load.progress()),
            }
        };
        let word = verdict.as_ref().map_or("FAILED", |_| "ok");
        self.progress.ended(&format!("{number} {name}: {word}"));
        let until = Instant::now();
        let from = std::mem::replace(&mut self.begun, until);
        self.checked.push(Checked { number, name, verdict, from, until });
    }

    /// Waits for the complete trace of a checkout, which passes every service that speaks HTTP or gRPC.
    async fn checkout_trace(&self) -> Result<Trace, String> {
        let services = ["shopper", "web", "cart", "catalog", "payments"];
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let traces = self.collector.complete_traces();
            let everywhere = |trace: &Trace| {
                let seen = trace.services();
                services.iter().all(|service| seen.contains(service))
            };
            if let Some(trace) = traces.into_iter().rfind(everywhere) {
                return Ok(trace);
            }
            if Instant::now() > deadline {
                return Err("no complete trace of a checkout arrived".into());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// A finished check. Its requests are evaluated at the end of the demo, since one without an answer counts as lost only after 5 s.
struct Checked {
    number: u8,
    name: &'static str,
    verdict: Verdict,
    from: Instant,
    until: Instant,
}

impl Checked {
    fn row(self, load: &Load) -> Row {
        let Self { number, name, verdict, from, until } = self;
        Row { number, name, verdict, window: load.window(from, until) }
    }
}

fn verdict(rows: &[Row], whole: &Window) -> Result<(), String> {
    let why = |row: &Row| match &row.verdict {
        Err(why) => Some(format!("check {} ({}): {why}", row.number, row.name)),
        Ok(_) => None,
    };
    let mut failed: Vec<_> = rows.iter().filter_map(why).collect();
    if let [first, ..] = whole.lost()[..] {
        failed.push(format!("{} requests lost, the first: {first}", whole.lost().len()));
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

type Usages = Vec<(&'static str, Instant, Option<Usage>)>;

fn usage(mesh: &Mesh) -> Usages {
    mesh.instances()
        .iter()
        .map(|one| (one.name, Instant::now(), one.sidecar.as_ref().and_then(Process::usage)))
        .collect()
}

/// The resources that each sidecar used since `before`, or since its start if it was restarted meanwhile.
async fn costs(mesh: &Mesh, before: &Usages) -> Result<Vec<Cost>, String> {
    let mut costs = Vec::new();
    for (instance, (_, since, earlier)) in mesh.instances().iter().zip(before) {
        let Some(sidecar) = &instance.sidecar else { continue };
        let Some(now) = sidecar.usage() else { continue };
        let page = admin::text(instance.admin, "/metrics").await?;
        let requests: f64 = admin::series(&page, "outrigger_requests_total")
            .map(|(_, count)| count)
            .fold(0.0, std::ops::Add::add);
        let (spent, seconds) = match earlier {
            Some(earlier) if now.age >= since.elapsed() => {
                (now.cpu.saturating_sub(earlier.cpu), since.elapsed())
            }
            _ => (now.cpu, now.age),
        };
        let seconds = seconds.as_secs_f64();
        costs.push(Cost {
            name: instance.name.to_owned(),
            per_second: requests / seconds,
            cpu: spent.as_secs_f64() / seconds * 100.0,
            memory: sidecar.memory(),
        });
    }
    Ok(costs)
}

async fn keep(mesh: &Mesh) {
    let (Some(shopper), Some(cart)) =
        (mesh.instances().first(), mesh.instances().iter().find(|one| one.name == "cart-1"))
    else {
        return;
    };
    let _ = print(&format!(
        "The mesh keeps running. Examples:
  curl -i -H 'Host: web' http://{0}/
  curl -i -x http://{0} -d 'one hull' http://web/checkout
  curl http://{1}/clusters
  outrigger status --admin {2}
  edit {3}/catalog-route.yaml
Ctrl-C stops it.
",
        shopper.outbound,
        cart.admin,
        mesh.control_plane_admin,
        mesh.config().display()
    ));
    std::future::pending::<()>().await;
}

/// Returns the OTLP/gRPC endpoint on the host of a Jaeger UI.
fn otlp_of(jaeger: &str) -> Result<String, String> {
    let uri: http::Uri = jaeger.parse().map_err(|error| format!("--jaeger {jaeger:?}: {error}"))?;
    let host = uri.host().ok_or_else(|| format!("--jaeger {jaeger:?}: not of the form http://host:port"))?;
    Ok(format!("http://{host}:4317"))
}

/// Progress on stderr: a line for each check that has ended, and one for the current check if stderr is a terminal.
struct Progress {
    begin: Instant,
    spinner: Spinner,
}

impl Progress {
    fn new(what: &str) -> Self {
        Self { begin: Instant::now(), spinner: Spinner::start(what) }
    }

    fn ended(&self, what: &str) {
        self.spinner.line(&format!("[{:5.1} s] {what}", self.begin.elapsed().as_secs_f64()));
    }

    fn current(&self, what: &str, (finished, lost): (usize, usize)) {
        self.spinner.message(format!("{what}: {finished} requests, {lost} lost"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_otlp_endpoint_is_on_the_host_of_jaeger() {
        assert_eq!(otlp_of("http://127.0.0.1:16686/").unwrap(), "http://127.0.0.1:4317");
        assert_eq!(otlp_of("http://jaeger").unwrap(), "http://jaeger:4317");
        for bad in ["/x", "http://", ""] {
            assert!(otlp_of(bad).unwrap_err().starts_with(&format!("--jaeger {bad:?}: ")), "{bad}");
        }
    }
}
