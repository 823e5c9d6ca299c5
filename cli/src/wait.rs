//! `outrigger wait`: waits until a control plane or a proxy is ready.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use http::StatusCode;
use outrigger::admin;
use outrigger_control_plane::admin_client::ask;
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
    match args.daemon {
        Daemon::ControlPlane { control_plane, limit } => {
            let address = control_plane.address();
            let ready =
                async || ask(&address, "/ready", None).await.map(drop).map_err(|error| error.to_string());
            block_on(wait("control plane", limit.timeout, ready))
        }
        Daemon::Proxy { proxy, limit } => {
            block_on(wait("proxy", limit.timeout, async || ready(proxy.admin).await))
        }
    }
}

/// Returns what a proxy lacks to be ready.
async fn ready(admin: SocketAddr) -> Result<(), String> {
    let answer = admin::get(admin, "/ready").await?;
    match answer.status() {
        StatusCode::OK => Ok(()),
        StatusCode::SERVICE_UNAVAILABLE => Err(String::from_utf8_lossy(answer.body()).trim().to_owned()),
        status => Err(format!("http://{admin} is not the admin address of a proxy: /ready gives {status}")),
    }
}

/// Calls `ready` until it returns Ok.
async fn wait(
    name: &str,
    timeout: Duration,
    ready: impl AsyncFn() -> Result<(), String>,
) -> Result<(), String> {
    let spinner = Spinner::start(&format!("waiting for the {name}"));
    let deadline = Instant::now() + timeout;
    let outcome = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let missing = match tokio::time::timeout(left, ready()).await {
            Ok(Ok(())) => break Ok(()),
            Ok(Err(missing)) => missing,
            Err(_) => "it accepts connections and answers nothing: it is still starting".to_owned(),
        };
        if Instant::now() + INTERVAL >= deadline {
            break Err(format!("the {name} is not ready after {timeout:?}: {missing}"));
        }
        tokio::time::sleep(INTERVAL).await;
    };
    spinner.finish();
    outcome
}
