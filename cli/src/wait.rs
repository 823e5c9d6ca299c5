//! `outrigger wait`: waits until a control plane or a proxy is ready.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use http::StatusCode;
use outrigger::admin;
use outrigger_core::duration::parse_duration;

use crate::flags::{ControlPlaneArgs, ProxyArgs};
use crate::progress::Spinner;
use crate::runtime::block_on;

/// Time between two requests.
const INTERVAL: Duration = Duration::from_millis(100);

/// Waits until a daemon on this machine is ready.
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 0 once the daemon is ready. Otherwise it exits with 1 when the time limit has passed, and prints what is missing.

Examples:
  # After the start of a control plane in the background
  outrigger wait control-plane

  # Before an application starts that needs its sidecar
  outrigger wait proxy --timeout 1m")]
pub(crate) struct WaitArgs {
    #[command(subcommand)]
    daemon: Daemon,
}

#[derive(Debug, Subcommand)]
enum Daemon {
    /// Wait until the control plane serves.
    ControlPlane {
        #[command(flatten)]
        control_plane: ControlPlaneArgs,
        #[command(flatten)]
        limit: TimeoutArgs,
    },
    /// Wait until the proxy has its identity, configuration and listeners.
    Proxy {
        #[command(flatten)]
        proxy: ProxyArgs,
        #[command(flatten)]
        limit: TimeoutArgs,
    },
}

#[derive(Debug, Args)]
struct TimeoutArgs {
    /// Time limit: 30s, 1m30s.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
}

/// Returns an error that names the cause if the daemon is not ready in time.
pub(crate) fn run(args: WaitArgs) -> Result<(), String> {
    let (name, admin, limit) = match args.daemon {
        Daemon::ControlPlane { control_plane, limit } => ("control plane", control_plane.admin, limit),
        Daemon::Proxy { proxy, limit } => ("proxy", proxy.admin, limit),
    };
    let spinner = Spinner::start(&format!("waiting for the {name} at {admin}"));
    let outcome = block_on(wait(name, admin, limit.timeout));
    spinner.finish();
    outcome
}

async fn wait(name: &str, admin: SocketAddr, timeout: Duration) -> Result<(), String> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let attempt = tokio::time::timeout(left, admin::get(admin, "/ready")).await;
        let missing = match attempt {
            Ok(Ok(answer)) if answer.status() == StatusCode::OK => return Ok(()),
            Ok(Ok(answer)) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => {
                String::from_utf8_lossy(answer.body()).trim().to_owned()
            }
            Ok(Ok(answer)) => {
                format!(
                    "http://{admin}/ready: {}: this is not the admin address of a {name}",
                    answer.status()
                )
            }
            Ok(Err(error)) => error,
            Err(_) => format!("http://{admin}/ready: no answer in time: it is still starting"),
        };
        if Instant::now() + INTERVAL >= deadline {
            return Err(format!("the {name} is not ready after {timeout:?}: {missing}"));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
