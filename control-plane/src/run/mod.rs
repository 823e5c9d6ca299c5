//! The process `outrigger-control-plane`: its flags, logging and signals. [`control_plane`] starts its parts.

pub mod control_plane;
mod backend;
mod error;
pub mod settings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ValueEnum};
use outrigger_core::duration::parse_duration;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use control_plane::ControlPlane;
use error::StartError;
use settings::{IssuerFiles, Settings, SettingsError};

use crate::injection::InjectionArgs;
use crate::kubernetes::client::ClusterAccess;

/// Maximum number of log lines that wait to be written.
const LOG_QUEUE: usize = 4096;

const CONFIGURATION: &str = "Configuration";
const ADDRESSES: &str = "Addresses";
const IDENTITIES: &str = "Identities";
const OPERATION: &str = "Operation";

const AFTER_HELP: &str = "\
Environment: a flag that may be given only once is also read from OUTRIGGER_<FLAG>, such as OUTRIGGER_STATE_DIR.

Examples:
  # Serve the resources of a directory to the proxies of this machine
  outrigger control-plane --config deploy/examples/hello \\
      --state-dir /var/lib/outrigger

  # To the proxies of a network, which reach it as control-plane.example
  outrigger control-plane --config /etc/outrigger \\
      --state-dir /var/lib/outrigger \\
      --listen 10.0.0.1:15010 --server-name control-plane.example

  # To the sidecars of the Kubernetes cluster that it runs in
  outrigger control-plane --kubernetes --listen 0.0.0.0:15010 \\
      --metrics-listen 0.0.0.0:15020";

/// Flags of the control plane.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = AFTER_HELP, mut_args = from_environment)]
pub struct Args {
    /// Directory of Kubernetes YAML (Services, EndpointSlices, Gateway API routes), watched.
    #[arg(long, value_name = "DIR", help_heading = CONFIGURATION, required_unless_present = "kubernetes", requires = "state_dir")]
    pub config: Option<PathBuf>,
    /// Directory for the CA, tokens, registrations and history; created with mode 0700. Required with --config.
    #[arg(long, value_name = "DIR", help_heading = CONFIGURATION, conflicts_with = "kubernetes")]
    pub state_dir: Option<PathBuf>,
    /// Instead of --config: serve the resources and pods of the Kubernetes cluster that this process runs in.
    #[arg(long, help_heading = CONFIGURATION, conflicts_with = "config")]
    pub kubernetes: bool,
    /// Outside of a cluster: the kubeconfig, instead of $KUBECONFIG or ~/.kube/config.
    #[arg(long, value_name = "FILE", help_heading = CONFIGURATION, requires = "kubernetes")]
    pub kubeconfig: Option<PathBuf>,
    /// Outside of a cluster: the context of the kubeconfig, instead of its current one.
    #[arg(long, value_name = "NAME", help_heading = CONFIGURATION, requires = "kubernetes")]
    pub context: Option<String>,
    /// Domain of service names: cart.shop.svc.<DOMAIN>.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local", help_heading = CONFIGURATION)]
    pub cluster_domain: String,
    /// How long a registered workload stays registered without a heartbeat.
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = CONFIGURATION, value_parser = parse_duration)]
    pub lease: Duration,
    /// Where proxies connect: xDS, certificates and registration, over TLS.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15010", help_heading = ADDRESSES)]
    pub listen: SocketAddr,
    /// Read-only pages for operators; a loopback address.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15011", help_heading = ADDRESSES)]
    pub admin: SocketAddr,
    /// For scrapers and probes beyond this machine: /metrics, /ready and /healthz, without authentication.
    ///
    /// Without it, they are on --admin only.
    #[arg(long, value_name = "IP:PORT", help_heading = ADDRESSES)]
    pub metrics_listen: Option<SocketAddr>,
    /// With --kubernetes: where the API server sends pods that are to have a sidecar, over TLS.
    #[arg(long, value_name = "IP:PORT", default_value = "[::]:15017", help_heading = ADDRESSES)]
    pub webhook_listen: SocketAddr,
    /// DNS name or IP address in the control plane's certificate, for other gRPC clients than our proxies; may be repeated.
    ///
    /// localhost, this host's name, loopback and the address of --listen are always in it.
    #[arg(long, value_name = "NAME", help_heading = ADDRESSES)]
    pub server_name: Vec<String>,
    /// SPIFFE trust domain of all identities.
    #[arg(long, value_name = "NAME", default_value = "cluster.local", help_heading = IDENTITIES)]
    pub trust_domain: String,
    /// Lifetime of a certificate if none is requested; at most 24h.
    #[arg(long, value_name = "DURATION", default_value = "24h", help_heading = IDENTITIES, value_parser = parse_duration)]
    pub certificate_ttl: Duration,
    /// With --config: PEM chain of an intermediate CA to sign with, the root last.
    ///
    /// Without it, a root is created on first start. In a cluster, the CA is the Secret outrigger-ca.
    #[arg(long, value_name = "FILE", requires = "ca_key", help_heading = IDENTITIES)]
    pub ca_cert: Option<PathBuf>,
    /// PEM key of that intermediate CA; mode 0600.
    #[arg(long, value_name = "FILE", requires = "ca_cert", help_heading = IDENTITIES)]
    pub ca_key: Option<PathBuf>,
    /// What the webhook adds to pods.
    #[command(flatten)]
    pub injection: InjectionArgs,
    /// Log filter: a level, or directives such as info,outrigger_control_plane=debug.
    #[arg(long, value_name = "FILTER", default_value = "info", help_heading = OPERATION)]
    pub log: String,
    /// Format of the log on stderr.
    #[arg(long, value_name = "FORMAT", default_value = "text", help_heading = OPERATION)]
    pub log_format: LogFormat,
}

/// Sets the environment variable of a flag, `OUTRIGGER_` and its name, unless it may be repeated.
fn from_environment(flag: Arg) -> Arg {
    if matches!(flag.get_action(), ArgAction::Append) {
        return flag;
    }
    let variable = format!("OUTRIGGER_{}", flag.get_id().as_str().to_uppercase());
    flag.env(variable).hide_env(true)
}

/// Formats of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why the process ends with exit code 1, as one line.
#[derive(Debug, Error)]
pub enum RunError {
    /// A flag has an invalid value.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The control plane could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The filter in `--log` is invalid.
    #[error("--log {0}: {1}")]
    Log(String, String),
    /// The runtime or a signal handler could not be created.
    #[error("the runtime cannot be started: {0}")]
    Runtime(std::io::Error),
    /// The server failed.
    #[error("the server failed: {0}")]
    Serve(String),
}

/// Runs until SIGTERM or SIGINT, then shuts down gracefully.
///
/// One thread serves all connections. Slow work (signing, disk access, parsing YAML) runs on separate threads.
pub fn run(args: Args) -> Result<(), RunError> {
    let _log = start_log(&args.log, args.log_format)?;
    let settings = settings(args)?;
    outrigger_core::descriptors::raise_limit();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::Runtime)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Runtime)?;
        // On Kubernetes, the start takes as long as the API server is away.
        let mut running = tokio::select! {
            started = ControlPlane::start(settings) => started?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        let metrics = running.metrics().map(tracing::field::display);
        tracing::info!(listen = %running.listen(), admin = %running.admin(), metrics, "serving");
        tokio::select! {
            _ = terminate.recv() => {
                tracing::info!("shutting down");
                tokio::select! {
                    () = running.leave() => {}
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            _ = interrupt.recv() => tracing::info!("shutting down"),
            error = running.failed() => return Err(RunError::Serve(error)),
        }
        running.shut_down().await;
        Ok(())
    })
}

fn settings(args: Args) -> Result<Settings, SettingsError> {
    let Args {
        config,
        state_dir,
        kubernetes: _,
        kubeconfig,
        context,
        listen,
        admin,
        metrics_listen,
        trust_domain,
        cluster_domain,
        certificate_ttl,
        lease,
        ca_cert,
        ca_key,
        server_name,
        webhook_listen,
        injection,
        log: _,
        log_format: _,
    } = args;
    let issuer = ca_cert.zip(ca_key).map(|(chain, key)| IssuerFiles { chain, key });
    // clap requires either both of these or --kubernetes.
    let settings = match config.zip(state_dir) {
        Some((config, state_dir)) => Settings::new(config, state_dir, listen, admin, &trust_domain)?,
        None => {
            let access = ClusterAccess { kubeconfig, context };
            Settings::kubernetes(access, listen, admin, &trust_domain)?
        }
    };
    let settings = settings.with_cluster_domain(cluster_domain)?.with_lifetimes(certificate_ttl, lease)?;
    let settings = settings.with_webhook(webhook_listen, injection);
    let settings = settings.with_server_names(&server_name)?.with_metrics_listen(metrics_listen);
    match issuer {
        Some(files) => settings.with_issuer(files),
        None => Ok(settings),
    }
}

/// Installs the process's tracing subscriber, unless there is one already. A thread writes the lines, and drops lines if stderr is a
/// pipe whose reader has stopped. It writes the last ones when the guard is dropped.
fn start_log(filter: &str, format: LogFormat) -> Result<WorkerGuard, RunError> {
    // The reflectors report each failure once; kube logs every attempt.
    let filter = EnvFilter::try_new(format!("{filter},kube_client::client::builder=off"))
        .map_err(|error| RunError::Log(filter.into(), error.to_string()))?;
    let writer = NonBlockingBuilder::default().buffered_lines_limit(LOG_QUEUE).thread_name("own-log");
    let (writer, guard) = writer.finish(std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let _ = match format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    Ok(guard)
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command};

    use super::*;

    #[test]
    fn every_flag_has_a_heading_and_an_environment_variable_if_it_may_be_given_once() {
        for flag in Args::augment_args(Command::new("test")).get_arguments() {
            let name = flag.get_long().unwrap();
            assert!(flag.get_help_heading().is_some(), "--{name}");
            let variable = format!("OUTRIGGER_{}", name.replace('-', "_").to_uppercase());
            let expected = (!matches!(flag.get_action(), ArgAction::Append)).then_some(variable.as_ref());
            assert_eq!(flag.get_env(), expected, "--{name}");
        }
    }
}
