//! The command line of `outrigger-proxy`: every flag with its default, parsed into types that cannot hold a bad value.
//!
//! `outrigger proxy` accepts the same [`Args`]. [`Args::check`] validates combinations of flags before anything is opened.
//! Namespace and service account are not flags, because the certificate contains them.

mod check;
mod value;
mod service;
mod address;
pub(crate) mod log_filter;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use outrigger_core::duration::parse_duration;
use outrigger_core::identity::TrustDomain;

pub(crate) use self::address::{BoundDestination, Loopback, RemoteAddress};
pub(crate) use self::service::ServicePort;
use self::value::{
    is_instance_char, parse_access_log, parse_filter, parse_instance, parse_label, parse_ratio, parse_socket,
    parse_trust_domain, parse_workers,
};

/// Flags of `outrigger-proxy`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Address of the control plane. While it is unreachable, the proxy serves its saved configuration and keeps reconnecting
    #[arg(long, value_name = "HOST:PORT", value_parser = RemoteAddress::parse)]
    pub control_plane: RemoteAddress,

    /// PEM file of the root certificates that verify the control plane (the control plane writes it as roots.pem)
    #[arg(long, value_name = "FILE")]
    pub control_plane_ca: PathBuf,

    /// File with the join token for the first certificate. Not needed once the state directory holds a valid certificate
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Directory for the private key, certificate and saved configuration; created with mode 0700 if it does not exist
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,

    /// Name of this workload instance, unique in the mesh [default: host name and process ID]
    #[arg(long, value_name = "NAME", value_parser = parse_instance)]
    pub instance: Option<String>,

    /// How the proxy gets its destinations
    #[arg(long, value_enum, default_value_t = Mode::OnDemand)]
    pub mode: Mode,

    /// Number of worker threads of the data plane
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_workers)]
    pub workers: NonZeroUsize,

    /// Address of the admin endpoint; loopback only, because the endpoint has no authentication
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15000", value_parser = Loopback::parse)]
    pub admin: Loopback,

    /// Address for the application's outbound requests, sent either through http_proxy (including CONNECT) or with a Host
    /// header that names the service
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15001", value_parser = parse_socket)]
    pub outbound: SocketAddr,

    /// Binds a local port to one destination, as in 127.0.0.1:5000=stock.shop:9000. May be repeated
    #[arg(long, value_name = "IP:PORT=HOST:PORT", value_parser = BoundDestination::parse)]
    pub bind: Vec<BoundDestination>,

    /// Address for redirected outbound connections; their original destination is read from the kernel (SO_ORIGINAL_DST)
    #[arg(long, value_name = "IP:PORT", value_parser = parse_socket)]
    pub transparent_outbound: Option<SocketAddr>,

    /// Address for redirected inbound connections; their original destination is read from the kernel (SO_ORIGINAL_DST)
    #[arg(long, value_name = "IP:PORT", value_parser = parse_socket)]
    pub transparent_inbound: Option<SocketAddr>,

    /// A service that this workload serves: SERVICE[:PORT]=IP:PORT, where IP:PORT is the application's address and PORT
    /// defaults to 80. Options: `,listen=IP:PORT` is the address for inbound connections (required unless
    /// --transparent-inbound is set), `,advertise=IP:PORT` the address that other proxies connect to, if it differs, and
    /// `,protocol=http|http2|grpc|tcp` the application's protocol. May be repeated
    #[arg(long, value_name = "SERVICE[:PORT]=IP:PORT[,...]", value_parser = ServicePort::parse)]
    pub service: Vec<ServicePort>,

    /// Label of this workload, as in version=v2 or topology.kubernetes.io/zone=eu-1a; these two keys are visible to other
    /// proxies. May be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    pub label: Vec<(String, String)>,

    /// What to do with a request whose destination is not in the mesh
    #[arg(long, value_enum, default_value_t = UnknownDestination::Passthrough)]
    pub unknown_destination: UnknownDestination,

    /// Time limit for the shutdown, counted from SIGTERM, as in 30s or 1m30s. Remaining requests and connections are then
    /// closed
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub drain_timeout: Duration,

    /// Minimum time after SIGTERM during which the application can still send requests. The application may have received
    /// SIGTERM at the same time and sends its last requests (flush, deregister) when its own work is done
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub drain_minimum: Duration,

    /// How long the application must have had no outbound request, tunnel or TCP connection open before it counts as finished
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub drain_quiet: Duration,

    /// Trust domain of the mesh. The control plane's identity must belong to it
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = parse_trust_domain)]
    pub trust_domain: TrustDomain,

    /// DNS domain of the mesh's services; used to complete short names in wildcard mode
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = address::parse_dns_name)]
    pub cluster_domain: String,

    /// Filter for the proxy's own log: a level, or directives such as info,outrigger_discovery=debug
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = parse_filter)]
    pub log: String,

    /// Format of the proxy's own log, which goes to stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Where the access log goes, with one line per finished request: off, stdout, or a file (reopened on SIGHUP)
    #[arg(long, value_name = "off|stdout|FILE", default_value = "off", value_parser = parse_access_log)]
    pub access_log: AccessLog,

    /// Format of the access log; docs/access-logs.md lists the fields
    #[arg(long, value_enum, default_value_t = LogFormat::Json)]
    pub access_log_format: LogFormat,

    /// Fraction of traces to sample, 0 to 1, for requests that carry no sampling decision. If it is not set,
    /// OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG apply; without them it is 1
    #[arg(long, value_name = "RATIO", value_parser = parse_ratio)]
    pub trace_sampling: Option<f64>,
}

/// How the proxy gets its destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Subscribe to a destination when it is first used; memory does not grow with the mesh.
    OnDemand,
    /// The control plane sends every destination that is visible to this workload.
    Wildcard,
}

/// What to do with a request whose destination is not in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnknownDestination {
    /// Forward it to the address that it names, without mutual TLS.
    Passthrough,
    /// Answer a request with 502; close a connection.
    Refuse,
}

/// Format of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable lines.
    Text,
    /// One JSON object per line.
    Json,
}

/// Where access log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// No access log; nothing is collected.
    Off,
    /// To standard output.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
}

impl Args {
    /// Returns the name of this instance. Defaults to the host name and the process ID.
    pub(crate) fn instance_name(&self) -> String {
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
