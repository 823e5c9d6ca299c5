//! The command line of `outrigger-proxy`: every flag with its default, parsed into types that cannot hold a bad value.
//!
//! `outrigger proxy` takes the same [`Args`]. What needs two flags to judge is judged by [`Args::check`], before
//! anything is opened; namespace and service account are no flags, because the certificate says them.

mod service;
mod address;
mod duration;
pub(crate) mod log_filter;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use outrigger_core::identity::TrustDomain;

pub use self::address::{BoundDestination, Destination, Loopback, RemoteAddress};
pub use self::service::{ServicePort, ServiceProtocol};
use crate::error::Error;

/// More workers than this are a typing error, not a machine.
const MAX_WORKERS: usize = 256;

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
    /// Judges what needs more than one flag: that every service has a place where others connect, and that no
    /// address is named twice.
    pub fn check(&self) -> Result<(), Error> {
        for service in &self.service {
            if service.listen.is_none() && self.transparent_inbound.is_none() {
                return Err(service_problem(service, "needs `,listen=IP:PORT`, or --transparent-inbound"));
            }
        }
        let mut taken = HashSet::new();
        let mut take = |flag, address: SocketAddr| {
            if address.port() == 0 || taken.insert(address) {
                return Ok(());
            }
            let problem = "another flag names the same address".to_owned();
            Err(Error::Flag { flag, value: address.to_string(), problem })
        };
        take("--admin", self.admin.get())?;
        take("--outbound", self.outbound)?;
        self.bind.iter().try_for_each(|bound| take("--bind", bound.local))?;
        self.transparent_outbound.into_iter().try_for_each(|at| take("--transparent-outbound", at))?;
        self.transparent_inbound.into_iter().try_for_each(|at| take("--transparent-inbound", at))?;
        self.check_service_addresses(take)?;
        let mut keys = HashSet::new();
        match self.label.iter().find(|(key, _)| !keys.insert(key)) {
            None => Ok(()),
            Some((key, value)) => {
                let problem = "another flag sets the same label".to_owned();
                Err(Error::Flag { flag: "--label", value: format!("{key}={value}"), problem })
            }
        }
    }

    /// Several services may share one inbound address if they mean the same application there.
    fn check_service_addresses(
        &self,
        mut take: impl FnMut(&'static str, SocketAddr) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (index, service) in self.service.iter().enumerate() {
            let earlier = &self.service[..index];
            if earlier.iter().any(|other| other.service == service.service && other.port == service.port) {
                return Err(service_problem(service, "the same service and port are named twice"));
            }
            let Some(listen) = service.listen else { continue };
            match earlier.iter().find(|other| other.listen == Some(listen)) {
                None => take("--service", listen)?,
                Some(other) if other.application == service.application => {}
                Some(_) => {
                    return Err(service_problem(
                        service,
                        "another service listens there for another application",
                    ));
                }
            }
        }
        Ok(())
    }

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

fn service_problem(service: &ServicePort, problem: &str) -> Error {
    Error::Flag { flag: "--service", value: service.to_string(), problem: problem.to_owned() }
}

fn is_instance_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Names end up in node IDs, labels and logs: letters, digits, `-`, `_` and `.`, at most 253 bytes.
fn parse_instance(name: &str) -> Result<String, String> {
    if name.is_empty() || name.len() > 253 || !name.chars().all(is_instance_char) {
        return Err("an instance name is 1 to 253 letters, digits, `-`, `_` or `.`".to_owned());
    }
    Ok(name.to_owned())
}

/// As Kubernetes has labels: a key of up to 63 characters behind an optional DNS prefix, a value of up to 63.
fn parse_label(label: &str) -> Result<(String, String), String> {
    let (key, value) = label.split_once('=').ok_or("say KEY=VALUE, as in version=v2")?;
    let short = |part: &str| part.len() <= 63 && part.chars().all(is_instance_char);
    let name = match key.split_once('/') {
        Some((prefix, name)) => address::parse_dns_name(prefix).map(|_| name)?,
        None => key,
    };
    if name.is_empty() || !short(name) || !short(value) {
        return Err("a label's key and value are up to 63 letters, digits, `-`, `_` or `.`".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_workers(count: &str) -> Result<NonZeroUsize, String> {
    let workers: usize = count.parse().map_err(|_| "not a number".to_owned())?;
    NonZeroUsize::new(workers)
        .filter(|workers| workers.get() <= MAX_WORKERS)
        .ok_or_else(|| format!("between 1 and {MAX_WORKERS} are possible"))
}

fn parse_socket(address: &str) -> Result<SocketAddr, String> {
    address::socket(address)
}

fn parse_trust_domain(name: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(name).map_err(|error| error.to_string())
}

fn parse_filter(filter: &str) -> Result<String, String> {
    log_filter::parse(filter).map(|_| filter.to_owned())
}

fn parse_access_log(place: &str) -> Result<AccessLog, String> {
    match place {
        "" => Err("say off, stdout or the path of a file".to_owned()),
        "off" => Ok(AccessLog::Off),
        "stdout" => Ok(AccessLog::Stdout),
        path => Ok(AccessLog::File(path.into())),
    }
}

fn parse_ratio(ratio: &str) -> Result<f64, String> {
    match ratio.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        Ok(_) => Err("a ratio lies between 0 and 1".to_owned()),
        Err(_) => Err("not a number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(args_override_self = true)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    const NEEDED: [&str; 7] = [
        "outrigger-proxy",
        "--control-plane",
        "localhost:15010",
        "--control-plane-ca",
        "roots.pem",
        "--state-dir",
        "state",
    ];

    fn parse(more: &[&str]) -> Result<Args, String> {
        Command::try_parse_from(NEEDED.iter().chain(more))
            .map(|command| command.args)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.admin.get().to_string(), "127.0.0.1:15000");
        assert_eq!(args.outbound.to_string(), "127.0.0.1:15001");
        assert_eq!(args.mode, Mode::OnDemand);
        assert_eq!(args.workers.get(), 1);
        assert_eq!(args.drain_timeout, Duration::from_secs(30));
        assert_eq!((args.drain_minimum, args.drain_quiet), (Duration::from_secs(5), Duration::from_secs(5)));
        assert_eq!(args.unknown_destination, UnknownDestination::Passthrough);
        assert_eq!(args.access_log, AccessLog::Off);
        assert_eq!(args.trace_sampling, None);
        args.check().unwrap();
    }

    #[test]
    fn a_bad_value_is_refused_by_flag_and_value() {
        for (flag, value, problem) in [
            ("--control-plane", "localhost", "HOST:PORT"),
            ("--control-plane", "localhost:0", "port"),
            ("--admin", "0.0.0.0:15000", "loopback"),
            ("--admin", "localhost:15000", "IP:PORT"),
            ("--outbound", "127.0.0.1", "IP:PORT"),
            ("--bind", "127.0.0.1:5000", "IP:PORT=HOST:PORT"),
            ("--bind", "127.0.0.1:5000=stock", "stock"),
            ("--service", "cart:80", "SERVICE[:PORT]=IP:PORT"),
            ("--service", "cart:80=8080", "IP:PORT"),
            ("--service", "cart:80=127.0.0.1:8080,protocol=carrier-pigeon", "http, http2, grpc or tcp"),
            ("--service", "cart:80=127.0.0.1:8080,color=red", "color"),
            ("--service", "Cart!:80=127.0.0.1:8080", "Cart!"),
            ("--label", "version", "KEY=VALUE"),
            ("--label", "a/b/c=v2", "letters"),
            ("--label", "version=v 2", "letters"),
            ("--workers", "0", "between 1 and 256"),
            ("--workers", "many", "not a number"),
            ("--mode", "telepathy", "on-demand"),
            ("--drain-timeout", "soon", "30s"),
            ("--drain-timeout", "-3s", "negative"),
            ("--drain-minimum", "later", "30s"),
            ("--drain-quiet", "-1s", "negative"),
            ("--trace-sampling", "1.5", "between 0 and 1"),
            ("--trace-sampling", "NaN", "between 0 and 1"),
            ("--instance", "a b", "instance name"),
            ("--trust-domain", "UPPER", "UPPER"),
            ("--log", "outrigger=shout", "no level"),
            ("--log", "inof", "no level"),
            ("--log-format", "xml", "json"),
            ("--unknown-destination", "guess", "passthrough"),
            ("--access-log", "", "stdout"),
        ] {
            // `=`, so that a value with a dash is not taken for a flag
            let error = parse(&[&format!("{flag}={value}")]).expect_err(&format!("{flag} {value}"));
            assert!(error.contains(flag), "{flag} {value}: {error}");
            assert!(error.contains(value), "{flag} {value}: {error}");
            assert!(error.contains(problem), "{flag} {value}: wanted `{problem}` in: {error}");
        }
    }

    #[test]
    fn a_service_needs_a_place_where_others_connect() {
        let args = parse(&["--service", "cart=127.0.0.1:8080"]).unwrap();
        let error = args.check().unwrap_err().to_string();
        assert!(error.starts_with("--service cart:80=127.0.0.1:8080: needs"), "{error}");
        let transparent = ["--service", "cart=127.0.0.1:8080", "--transparent-inbound", "0.0.0.0:15006"];
        parse(&transparent).unwrap().check().unwrap();
    }

    #[test]
    fn an_address_named_twice_is_refused() {
        let twice = ["--bind", "127.0.0.1:15001=stock.shop:9000"];
        let error = parse(&twice).unwrap().check().unwrap_err().to_string();
        assert_eq!(error, "--bind 127.0.0.1:15001: another flag names the same address");
    }

    #[test]
    fn labels_are_pairs_each_key_once() {
        let args = parse(&["--label", "version=v2", "--label", "topology.kubernetes.io/zone=eu-1a"]).unwrap();
        assert_eq!(args.label[0], ("version".to_owned(), "v2".to_owned()));
        args.check().unwrap();
        let error = parse(&["--label", "a=1", "--label", "a=2"]).unwrap().check().unwrap_err();
        assert_eq!(error.to_string(), "--label a=2: another flag sets the same label");
    }

    #[test]
    fn services_share_an_inbound_address_only_for_one_application() {
        let first = "cart:80=127.0.0.1:8080,listen=127.0.0.1:9080";
        let same = "basket:80=127.0.0.1:8080,listen=127.0.0.1:9080";
        let other = "basket:80=127.0.0.1:8081,listen=127.0.0.1:9080";
        parse(&["--service", first, "--service", same]).unwrap().check().unwrap();
        let error = parse(&["--service", first, "--service", other]).unwrap().check().unwrap_err();
        assert!(error.to_string().contains("another application"), "{error}");
        assert!(parse(&["--service", first, "--service", first]).unwrap().check().is_err());
    }

    #[test]
    fn an_instance_without_a_name_gets_one_of_host_and_process() {
        let name = parse(&[]).unwrap().instance_name();
        assert!(name.ends_with(&std::process::id().to_string()) && parse_instance(&name).is_ok(), "{name}");
    }
}
