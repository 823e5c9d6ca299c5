//! The command line of `outrigger-proxy`: every flag with its default, parsed into types that cannot hold a bad value.
//!
//! `outrigger proxy` accepts the same [`Args`]. [`Args::check`] validates combinations of flags before anything is opened.
//! Namespace and service account are not flags, because the certificate contains them.

mod check;
pub(crate) mod app_probe;
mod value;
mod service;
mod address;
pub(crate) mod log_filter;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ArgPredicate;
use clap::{Arg, ArgAction, ValueEnum};
use outrigger_core::duration::parse_duration;
use outrigger_core::identity::TrustDomain;

pub(crate) use self::address::{BoundDestination, Loopback, RemoteAddress};
pub(crate) use self::app_probe::AppProbeFlag;
use self::app_probe::parse_app_probes;
pub(crate) use self::service::ServicePort;
use self::value::{
    is_instance_char, parse_access_log, parse_filter, parse_instance, parse_label, parse_ratio, parse_socket,
    parse_trust_domain, parse_workers,
};

const CONTROL_PLANE: &str = "Control plane";
const WORKLOAD: &str = "Workload";
const TRAFFIC: &str = "Traffic";
const SHUTDOWN: &str = "Shutdown";
const OPERATION: &str = "Operation";

const AFTER_HELP: &str = "\
Environment: a flag that may be given only once is also read from OUTRIGGER_PROXY_<FLAG>, such as OUTRIGGER_PROXY_STATE_DIR.

Examples:
  # The sidecar of an application at port 8080, which serves cart
  outrigger proxy --control-plane 10.0.0.1:15010 --control-plane-ca roots.pem \\
      --token-file token --state-dir /var/lib/outrigger \\
      --service cart=127.0.0.1:8080,listen=10.0.0.5:9080

  # The application sends its requests through it
  curl -x http://127.0.0.1:15001 http://catalog/items";

/// Flags of `outrigger-proxy`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = AFTER_HELP, mut_args = from_environment)]
pub struct Args {
    /// Address of the control plane
    ///
    /// While it is unreachable, the proxy serves its saved configuration and keeps reconnecting.
    #[arg(long, value_name = "HOST:PORT", help_heading = CONTROL_PLANE, value_parser = RemoteAddress::parse)]
    pub control_plane: RemoteAddress,

    /// PEM file of the root certificates that verify the control plane
    ///
    /// The control plane writes it as roots.pem.
    #[arg(long, value_name = "FILE", help_heading = CONTROL_PLANE)]
    pub control_plane_ca: PathBuf,

    /// File with the join token for the first certificate
    ///
    /// Not needed once the state directory holds a valid certificate.
    #[arg(long, value_name = "FILE", help_heading = CONTROL_PLANE)]
    pub token_file: Option<PathBuf>,

    /// How the proxy gets its destinations
    #[arg(long, value_enum, default_value_t = Mode::OnDemand, help_heading = CONTROL_PLANE)]
    pub mode: Mode,

    /// Trust domain of the mesh; the control plane's identity must belong to it
    #[arg(long, value_name = "NAME", default_value = "cluster.local", help_heading = CONTROL_PLANE, value_parser = parse_trust_domain)]
    pub trust_domain: TrustDomain,

    /// DNS domain of the mesh's services; used by --dns, and to complete short names in wildcard mode
    #[arg(long, value_name = "NAME", default_value = "cluster.local", help_heading = CONTROL_PLANE, value_parser = address::parse_dns_name)]
    pub cluster_domain: String,

    /// Name of this workload instance, unique in the mesh [default: host name and process ID]
    #[arg(long, value_name = "NAME", help_heading = WORKLOAD, value_parser = parse_instance)]
    pub instance: Option<String>,

    /// A service that this workload serves: SERVICE[:PORT]=IP:PORT[,...]; may be repeated
    ///
    /// IP:PORT is the application's address; PORT defaults to 80. Options: `,listen=IP:PORT` is the address for inbound
    /// connections (required unless --transparent-inbound is set), `,advertise=IP:PORT` the address that other proxies connect
    /// to, if it differs, and `,protocol=http|http2|grpc|tcp` the application's protocol.
    #[arg(long, value_name = "SERVICE", help_heading = WORKLOAD, value_parser = ServicePort::parse)]
    pub service: Vec<ServicePort>,

    /// Label of this workload, as in version=v2; may be repeated
    ///
    /// The labels version and topology.kubernetes.io/zone are visible to other proxies.
    #[arg(long, value_name = "KEY=VALUE", help_heading = WORKLOAD, value_parser = parse_label)]
    pub label: Vec<(String, String)>,

    /// Directory for the private key, certificate and saved configuration
    ///
    /// Created with mode 0700 if it does not exist.
    #[arg(long, value_name = "DIR", help_heading = WORKLOAD)]
    pub state_dir: PathBuf,

    /// Address for the application's outbound requests
    ///
    /// They are sent either through http_proxy (including CONNECT) or with a Host header that names the service. With
    /// --transparent-outbound, there is such an address only if this flag is given.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15001", default_value_if("transparent_outbound", ArgPredicate::IsPresent, None),
        help_heading = TRAFFIC, value_parser = parse_socket)]
    pub outbound: Option<SocketAddr>,

    /// Binds a local port to one destination, as in 127.0.0.1:5000=stock.shop:9000; may be repeated
    #[arg(long, value_name = "IP:PORT=HOST:PORT", help_heading = TRAFFIC, value_parser = BoundDestination::parse)]
    pub bind: Vec<BoundDestination>,

    /// Address for redirected outbound connections; may be repeated
    ///
    /// Their original destination is read from the kernel (SO_ORIGINAL_DST). An IPv6 address after the first is left out where there
    /// is no IPv6.
    #[arg(long, value_name = "IP:PORT", help_heading = TRAFFIC, value_parser = parse_socket)]
    pub transparent_outbound: Vec<SocketAddr>,

    /// Address for redirected inbound connections
    ///
    /// Their original destination is read from the kernel (SO_ORIGINAL_DST).
    #[arg(long, value_name = "IP:PORT", help_heading = TRAFFIC, value_parser = parse_socket)]
    pub transparent_inbound: Option<SocketAddr>,

    /// Address of the DNS answerer, over UDP and TCP; loopback only; may be repeated
    ///
    /// It answers queries for names of the mesh, and forwards all others. Without this flag there is none. An IPv6 address after the
    /// first is left out where there is no IPv6.
    #[arg(long, value_name = "IP:PORT", help_heading = TRAFFIC, value_parser = Loopback::parse)]
    pub dns: Vec<Loopback>,

    /// Name server to which --dns forwards queries, as in 10.0.0.2:53; may be repeated [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "IP:PORT", help_heading = TRAFFIC, value_parser = parse_socket)]
    pub dns_upstream: Vec<SocketAddr>,

    /// What to do with a request whose destination is not in the mesh
    #[arg(long, value_enum, value_name = "ACTION", default_value_t = UnknownDestination::Passthrough, help_heading = TRAFFIC)]
    pub unknown_destination: UnknownDestination,

    /// Number of worker threads of the data plane
    #[arg(long, value_name = "N", default_value = "1", help_heading = TRAFFIC, value_parser = parse_workers)]
    pub workers: NonZeroUsize,

    /// Time limit for the shutdown, counted from SIGTERM, as in 30s or 1m30s
    ///
    /// Remaining requests and connections are then closed.
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = SHUTDOWN, value_parser = parse_duration)]
    pub drain_timeout: Duration,

    /// Minimum time after SIGTERM during which the application can still send requests
    ///
    /// The application may have received SIGTERM at the same time and sends its last requests (flush, deregister) when its own
    /// work is done.
    #[arg(long, value_name = "DURATION", default_value = "5s", help_heading = SHUTDOWN, value_parser = parse_duration)]
    pub drain_minimum: Duration,

    /// How long the application must have had nothing open to count as finished
    ///
    /// No outbound request, tunnel or TCP connection.
    #[arg(long, value_name = "DURATION", default_value = "5s", help_heading = SHUTDOWN, value_parser = parse_duration)]
    pub drain_quiet: Duration,

    /// Address of the admin endpoint; loopback only, because it has no authentication
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15000", help_heading = OPERATION, value_parser = Loopback::parse)]
    pub admin: Loopback,

    /// Address for scrapers and probes beyond this machine: /metrics, /ready and /healthz, without authentication
    ///
    /// Without it, they are on --admin only.
    #[arg(long, value_name = "IP:PORT", help_heading = OPERATION, value_parser = parse_socket)]
    pub metrics_listen: Option<SocketAddr>,

    /// Probes of the application, as JSON, which --metrics-listen serves in its place; injection writes them
    ///
    /// The kubelet has no certificate, so that its own probes would be refused.
    #[arg(long, value_name = "JSON", requires = "pod_ip", requires = "metrics_listen", help_heading = OPERATION, value_parser = parse_app_probes)]
    pub(crate) app_probes: Option<AppProbeFlag>,

    /// Address of the pod, at which the application's probes are performed
    #[arg(long, value_name = "IP", help_heading = OPERATION)]
    pub pod_ip: Option<IpAddr>,

    /// Filter for the proxy's own log: a level, or directives such as info,outrigger_discovery=debug
    #[arg(long, value_name = "FILTER", default_value = "info", help_heading = OPERATION, value_parser = parse_filter)]
    pub log: String,

    /// Format of the proxy's own log, which goes to stderr
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text, help_heading = OPERATION)]
    pub log_format: LogFormat,

    /// Where the access log goes, with one line per finished request: off, stdout, or a file
    ///
    /// A file is reopened on SIGHUP. OTEL_LOGS_EXPORTER=otlp exports the access log to an OpenTelemetry collector, with or
    /// without this flag; docs/otlp.md has all such variables.
    #[arg(long, value_name = "off|stdout|FILE", default_value = "off", help_heading = OPERATION, value_parser = parse_access_log)]
    pub access_log: AccessLog,

    /// Format of the access log; docs/access-logs.md lists the fields
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Json, help_heading = OPERATION)]
    pub access_log_format: LogFormat,

    /// Fraction of traces to sample, 0 to 1, for requests without a sampling decision
    ///
    /// If it is not set, OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG apply; without them it is 1.
    #[arg(long, value_name = "RATIO", help_heading = OPERATION, value_parser = parse_ratio)]
    pub trace_sampling: Option<f64>,
}

/// Sets the environment variable of a flag, `OUTRIGGER_PROXY_` and its name, unless it may be repeated.
fn from_environment(flag: Arg) -> Arg {
    if matches!(flag.get_action(), ArgAction::Append) {
        return flag;
    }
    let variable = format!("OUTRIGGER_PROXY_{}", flag.get_id().as_str().to_uppercase());
    flag.env(variable).hide_env(true)
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
    /// Accepts redirected connections at `outbound` and redirected DNS queries at `dns`, ports of the loopback addresses.
    pub fn accept_redirected(&mut self, outbound: u16, dns: Option<u16>) {
        let of_both_families =
            |port| [(IpAddr::from(Ipv4Addr::LOCALHOST), port), (Ipv6Addr::LOCALHOST.into(), port)];
        self.transparent_outbound = of_both_families(outbound).map(SocketAddr::from).into();
        self.dns = dns.into_iter().flat_map(of_both_families).map(|at| Loopback(at.into())).collect();
    }

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
