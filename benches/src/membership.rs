//! `membership`: latency of requests while the endpoints of their cluster change.
//!
//! A cluster of that many endpoints (addresses of 127.0.0.0/8, all served by one application) gets a steady load through
//! a sidecar: first without changes, then while one endpoint is removed or added ten times a second.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::mesh::Mesh;
use crate::traffic;

/// Endpoints of one EndpointSlice, as in Kubernetes.
const OF_SLICE: usize = 1_000;
const CONNECTIONS: u32 = 10;
const CHANGES_A_SECOND: u32 = 10;

/// Measures requests to a cluster whose endpoints change.
#[derive(Debug, Args)]
pub(crate) struct MembershipArgs {
    /// How many endpoints the cluster has.
    #[arg(long, default_value_t = 10_000)]
    endpoints: usize,
    /// Requests a second.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Duration of each of the two measurements, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// The binary to measure.
    #[arg(long, default_value = "target/release/outrigger")]
    outrigger: PathBuf,
}

/// Measures and prints. Returns an error if the mesh does not start or a response is not 200.
pub(crate) async fn run(args: MembershipArgs) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mesh = Mesh::new(&args.outrigger, directory.path())?;
    let app = SocketAddr::from((Ipv4Addr::UNSPECIFIED, mesh.app.port()));
    traffic::application(app).await?;
    let slices = args.endpoints.div_ceil(OF_SLICE);
    for slice in 0..slices {
        write(&mesh, &args, slice, false)?;
    }
    let control_plane = mesh.control_plane().await?;
    let client = mesh.client().await?;
    drive(mesh.outbound, args.rate, 2).await?;

    let cpu = || client.usage().map(|usage| usage.cpu).unwrap_or_default();
    let before = cpu();
    report(&args, "no endpoint changes", drive(mesh.outbound, args.rate, args.seconds).await?);
    let quiet = cpu() - before;
    let load = drive(mesh.outbound, args.rate, args.seconds);
    let changes = async {
        let mut changes = 0;
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / CHANGES_A_SECOND);
        loop {
            ticks.tick().await;
            changes += 1;
            // The last endpoint of the first slice is in the middle of the list if there are more slices.
            if let Err(error) = write(&mesh, &args, 0, changes % 2 == 1) {
                return error;
            }
        }
    };
    let latencies = tokio::select! {
        latencies = load => latencies?,
        error = changes => return Err(error),
    };
    let changing = (cpu() - before).saturating_sub(quiet);
    report(&args, &format!("one changes {CHANGES_A_SECOND} times a second"), latencies);
    println!(
        "the sidecar's CPU: {:.2} s without changes, {:.2} s with them",
        quiet.as_secs_f64(),
        changing.as_secs_f64()
    );
    drop(control_plane);
    Ok(())
}

/// Writes a slice of the service's endpoints, without the last one if `short`. The first slice includes the Service.
fn write(mesh: &Mesh<'_>, args: &MembershipArgs, slice: usize, short: bool) -> Result<(), String> {
    let first = slice * OF_SLICE;
    let last = args.endpoints.min(first + OF_SLICE) - usize::from(short);
    let mut yaml = String::new();
    if slice == 0 {
        yaml.push_str(
            "apiVersion: v1
kind: Service
metadata: {name: many, namespace: mesh}
spec: {ports: [{name: main, port: 80, appProtocol: http}]}
---
",
        );
    }
    let _ = write!(
        yaml,
        "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: many-{slice}
  namespace: mesh
  labels: {{kubernetes.io/service-name: many}}
addressType: IPv4
ports: [{{name: main, port: {}, protocol: TCP}}]
endpoints:
",
        mesh.app.port()
    );
    for endpoint in first..last {
        let (high, low) = (endpoint / 250, endpoint % 250 + 1);
        let _ = writeln!(yaml, "- {{addresses: [\"127.1.{high}.{low}\"]}}");
    }
    mesh.write_file(&format!("many-{slice}"), &yaml)
}

/// Sends `rate` requests a second and returns their latencies, measured from their scheduled times.
async fn drive(proxy: SocketAddr, rate: u32, seconds: u32) -> Result<Vec<Duration>, String> {
    let mut clients = JoinSet::new();
    for client in 0..CONNECTIONS {
        clients.spawn(async move {
            let each = Duration::from_secs(1) * CONNECTIONS / rate;
            let mut stream = TcpStream::connect(proxy).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            let start = Instant::now() + each * client / CONNECTIONS;
            let mut ticks = tokio::time::interval_at(start, each);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut latencies = Vec::new();
            for _ in 0..rate * seconds / CONNECTIONS {
                let due = ticks.tick().await;
                stream
                    .write_all(b"GET / HTTP/1.1\r\nHost: many.mesh\r\n\r\n")
                    .await
                    .map_err(|error| error.to_string())?;
                let mut answer = [0; 4096];
                let read = stream.read(&mut answer).await.map_err(|error| error.to_string())?;
                if !answer[..read].starts_with(b"HTTP/1.1 200") {
                    return Err(String::from_utf8_lossy(&answer[..read]).into_owned());
                }
                latencies.push(due.elapsed());
            }
            Ok(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = clients.join_next().await {
        all.extend(ended.map_err(|error| error.to_string())??);
    }
    all.sort_unstable();
    Ok(all)
}

fn report(args: &MembershipArgs, when: &str, latencies: Vec<Duration>) {
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "{} endpoints, {when}: {} requests, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
        args.endpoints,
        latencies.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}
