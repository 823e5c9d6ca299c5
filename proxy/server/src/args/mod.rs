//! The command line of `outrigger-proxy`: every flag with its default, parsed into types that cannot hold a bad value.
//!
//! `outrigger proxy` takes the same [`Args`]. What needs two flags to judge is judged by [`Args::check`], before
//! anything is opened; namespace and service account are no flags, because the certificate says them.

mod check;
mod value;
mod service;
mod address;
mod duration;
pub(crate) mod log_filter;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use outrigger_core::identity::TrustDomain;

pub use self::address::{BoundDestination, Destination, Loopback, RemoteAddress};
pub use self::service::{ServicePort, ServiceProtocol};
use self::value::{
    is_instance_char, parse_access_log, parse_filter, parse_instance, parse_label, parse_ratio, parse_socket,
    parse_trust_domain, parse_workers,
};

/// Flags of `outrigger-proxy`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The control plane's address, HOST:PORT. It may be away: the proxy then serves what it saved, and keeps trying
    #[arg(long, value_name = "HOST:PORT", value_parser = RemoteAddress::parse)]
    pub control_plane: RemoteAddress,

    /// The roots by which the control plane's certificate is verified (PEM; the control plane writes roots.pem)
    #[arg(long, value_name = "FILE")]
    pub control_plane_ca: PathBuf,

    /// A file with a join token, for the first certificate. Not needed once the state directory holds a certificate
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Where key, certificate and saved configuration are kept; made with mode 0700 if it is not there
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,

    /// The name of this workload instance, unique in the mesh [default: host name and process id]
    #[arg(long, value_name = "NAME", value_parser = parse_instance)]
    pub instance: Option<String>,

    /// Whether destinations are asked for when first used, or the control plane sends all that are visible
    #[arg(long, value_enum, default_value_t = Mode::OnDemand)]
    pub mode: Mode,

    /// Worker threads of the data plane
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_workers)]
    pub workers: NonZeroUsize,

    /// The admin endpoint; loopback only, because it has no authentication
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15000", value_parser = Loopback::parse)]
    pub admin: Loopback,

    /// Where the application sends its requests: as http_proxy (CONNECT too), or with Host naming the service
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15001", value_parser = parse_socket)]
    pub outbound: SocketAddr,

    /// A local port bound to one destination, as in 127.0.0.1:5000=stock.shop:9000. May be repeated
    #[arg(long, value_name = "IP:PORT=HOST:PORT", value_parser = BoundDestination::parse)]
    pub bind: Vec<BoundDestination>,

    /// Takes redirected outgoing connections here and asks the kernel where they were going (SO_ORIGINAL_DST)
    #[arg(long, value_name = "IP:PORT", value_parser = parse_socket)]
    pub transparent_outbound: Option<SocketAddr>,

    /// Takes redirected incoming connections here (SO_ORIGINAL_DST)
    #[arg(long, value_name = "IP:PORT", value_parser = parse_socket)]
    pub transparent_inbound: Option<SocketAddr>,

    /// A service that this workload serves: SERVICE[:PORT]=IP:PORT of the application, then `,listen=IP:PORT` (where
    /// others connect; required unless --transparent-inbound), `,advertise=IP:PORT` (what they are told, where that
    /// differs) and `,protocol=http|http2|grpc|tcp`. May be repeated
    #[arg(long, value_name = "SERVICE[:PORT]=IP:PORT[,...]", value_parser = ServicePort::parse)]
    pub service: Vec<ServicePort>,

    /// A label of this workload, as in version=v2 or topology.kubernetes.io/zone=eu-1a; other proxies see those two.
    /// May be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    pub label: Vec<(String, String)>,

    /// What happens to a request whose destination the mesh does not know
    #[arg(long, value_enum, default_value_t = UnknownDestination::Passthrough)]
    pub unknown_destination: UnknownDestination,

    /// How long requests and connections may go on after SIGTERM, as in 30s or 1m30s; everything ends then
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    pub drain_timeout: Duration,

    /// How long after SIGTERM the application can call out at least. It may have been told to end at the same moment, and
    /// makes its last calls (flush, deregister) when it has finished its own work
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    pub drain_minimum: Duration,

    /// How long the application must not have called out, with nothing of its under way, until it counts as done
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    pub drain_quiet: Duration,

    /// The trust domain of this mesh: the control plane is believed only if its identity lies in it
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = parse_trust_domain)]
    pub trust_domain: TrustDomain,

    /// The DNS domain of the mesh's services: completes short names in wildcard mode
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = address::parse_dns_name)]
    pub cluster_domain: String,

    /// What the proxy logs about itself: a level, or directives such as info,outrigger_discovery=debug
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = parse_filter)]
    pub log: String,

    /// How the proxy logs about itself, to stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Where a line for every finished request goes: off, stdout or a file (opened anew on SIGHUP)
    #[arg(long, value_name = "off|stdout|FILE", default_value = "off", value_parser = parse_access_log)]
    pub access_log: AccessLog,

    /// How such a line is written; docs/access-logs.md lists its fields
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    pub access_log_format: LogFormat,

    /// The share of requests without a sampling decision of their own whose trace is recorded, 0 to 1. Where it is not
    /// given, OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG say it, else it is 1
    #[arg(long, value_name = "RATIO", value_parser = parse_ratio)]
    pub trace_sampling: Option<f64>,
}

/// How destinations get into the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Each is asked for when first used; memory does not grow with the mesh.
    OnDemand,
    /// The control plane sends every one that this workload may see.
    Wildcard,
}

/// What happens to a request whose destination the mesh does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnknownDestination {
    /// It goes where it would go without a mesh, without mutual TLS.
    Passthrough,
    /// It is answered 502 (connections: closed).
    Refuse,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where access log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere, and nothing is collected for them.
    Off,
    /// To standard output.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
}

impl Args {
    /// The name of this instance: as given, else the host's name and the process's id.
    pub fn instance_name(&self) -> String {
        self.instance.clone().unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let host: String = host.trim().chars().filter(|&c| is_instance_char(c)).collect();
            let host = if host.is_empty() { "proxy" } else { &host };
            format!("{host}-{}", std::process::id())
        })
    }
}

#[cfg(test)]
mod tests;
