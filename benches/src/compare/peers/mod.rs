//! The proxies that are compared: Outrigger and its peers, one file each. All get the same work: routing on as many routes, counters,
//! one thread, connections to the application that are used again.

mod envoy;
mod haproxy;
mod nginx;
mod outrigger;
mod pingora;
mod relay;
mod daemon;
mod members;

use std::any::Any;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use self::daemon::Daemon;
pub(crate) use self::daemon::find as find_program;
pub(super) use self::members::Members;
use super::certificates::Certificates;
use super::cores::Cores;
use crate::load::Tls;

/// What the proxies of a scenario are to do.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// Between client and proxy, and between proxy and application.
    pub(super) protocol: Protocol,
    pub(super) shape: Shape,
    /// Routes `/r0` and so on, all to the application.
    pub(super) routes: usize,
    pub(super) paths: Paths,
    pub(super) telemetry: Telemetry,
    /// The application.
    pub(super) backend: SocketAddr,
    /// 0: the application is one endpoint. Otherwise it is so many, which can be changed.
    pub(super) endpoints: usize,
    /// Other services of the mesh, which nobody calls and which can be changed.
    pub(super) services: usize,
    /// The relay that parses nothing is measured, too.
    pub(super) floor: bool,
}

impl Setup {
    /// The addresses of the application.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        match self.endpoints {
            0 => vec![self.backend],
            count => (1..=count)
                .map(|host| {
                    (Ipv4Addr::new(127, 1, (host >> 8) as u8, host as u8), self.backend.port()).into()
                })
                .collect(),
        }
    }
}

/// How routes match a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paths {
    /// `/r0` and everything below it.
    Prefix,
    /// `/r0/items` alone.
    Exact,
}

/// What a proxy reports about requests, beside its counters.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Telemetry {
    /// A line for each request, in the proxy's default format, to `/dev/null`.
    pub(super) access_log: bool,
    pub(super) tracing: Option<Tracing>,
}

/// Spans of a part of all requests go to a collector, over OTLP/gRPC.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tracing {
    /// 1 to 100.
    pub(super) percent: u8,
    pub(super) collector: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    /// With prior knowledge.
    Http2,
    /// Bytes that no proxy looks at.
    Tcp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One proxy, all in the clear.
    One,
    /// Two proxies with mutual TLS between them, and HTTP/2 in it unless the protocol is TCP.
    Pair,
    /// The second one of such a pair: clients speak HTTP/2 in mutual TLS to it.
    Inbound,
}

/// A proxy that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Peer {
    Outrigger,
    Haproxy,
    Envoy,
    Nginx,
    Pingora,
    /// Parses nothing.
    Relay,
}

impl Peer {
    /// All of them, in the order of the tables.
    pub(super) const ALL: [Self; 6] =
        [Self::Outrigger, Self::Haproxy, Self::Envoy, Self::Nginx, Self::Pingora, Self::Relay];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Outrigger => "Outrigger",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::Nginx => "nginx",
            Self::Pingora => "pingora",
            Self::Relay => "floor (a relay)",
        }
    }

    /// Returns its program and the line in which it tells its version. Returns None if it is not installed.
    pub(super) fn find(self, outrigger: &Path) -> Option<(PathBuf, String)> {
        let (program, flag) = match self {
            Self::Outrigger => (Some(outrigger.to_owned()).filter(|file| file.is_file()), "--version"),
            Self::Haproxy => (daemon::find("haproxy"), "-v"),
            Self::Envoy => (daemon::find("envoy"), "--version"),
            Self::Nginx => (daemon::find("nginx"), "-v"),
            Self::Pingora => (daemon::find("peer-pingora"), "--version"),
            Self::Relay => (relay::find(), "--version"),
        };
        let program = program?;
        let version = daemon::version(&program, flag)?;
        Some((program, version))
    }

    /// Whether it can do this work at all.
    pub(super) fn supports(self, setup: &Setup) -> bool {
        let Telemetry { access_log, tracing } = setup.telemetry;
        // Only Outrigger is configured by a control plane here.
        if setup.services > 0 {
            return self == Self::Outrigger;
        }
        match self {
            Self::Relay => setup.floor && setup.shape == Shape::One,
            Self::Outrigger | Self::Envoy => true,
            // Debian's has no tracer.
            Self::Haproxy => tracing.is_none(),
            // It speaks HTTP/1 to endpoints, whatever clients speak. Debian's has no tracer, and endpoints change by a new worker.
            Self::Nginx => {
                setup.protocol == Protocol::Http1
                    && setup.shape != Shape::Pair
                    && tracing.is_none()
                    && setup.endpoints == 0
            }
            // The library is of HTTP, and leaves routing, logs, traces and endpoints to its user.
            Self::Pingora => {
                setup.protocol != Protocol::Tcp
                    && setup.routes <= 20
                    && setup.paths == Paths::Prefix
                    && !access_log
                    && tracing.is_none()
                    && setup.endpoints == 0
            }
        }
    }

    /// Starts it, on the proxies' core. Returns an error if it does not accept connections after some time.
    pub(super) async fn start(
        self,
        program: &Path,
        setup: &Setup,
        with: &With<'_>,
    ) -> Result<Running, String> {
        let started = match self {
            Self::Outrigger => outrigger::start(program, setup, with).await,
            Self::Haproxy => haproxy::start(program, setup, with).await,
            Self::Envoy => envoy::start(program, setup, with).await,
            Self::Nginx => nginx::start(program, setup, with).await,
            Self::Pingora => pingora::start(program, setup, with).await,
            Self::Relay => relay::start(program, setup, with).await,
        };
        started.map_err(|why| format!("{}: {why}", self.name()))
    }
}

/// What a peer is started with.
pub(super) struct With<'run> {
    pub(super) cores: &'run Cores,
    pub(super) certificates: &'run Certificates,
    /// An empty directory of its own, for configuration and logs.
    pub(super) directory: &'run Path,
}

/// Returns the processes that `setup` needs, the first one in the path of a request last: its name, and where it listens and
/// connects with which of `sides`: in the clear, or what is between two proxies.
fn chain<S: Copy>(setup: &Setup, listen: SocketAddr, link: SocketAddr, [clear, mtls]: [S; 2]) -> Vec<Hop<S>> {
    let app = (setup.backend, clear);
    match setup.shape {
        Shape::One => vec![Hop { name: "proxy", from: (listen, clear), to: app }],
        Shape::Inbound => vec![Hop { name: "inbound", from: (listen, mtls), to: app }],
        Shape::Pair => vec![
            Hop { name: "inbound", from: (link, mtls), to: app },
            Hop { name: "outbound", from: (listen, clear), to: (link, mtls) },
        ],
    }
}

/// One proxy of a peer.
struct Hop<S> {
    name: &'static str,
    from: (SocketAddr, S),
    to: (SocketAddr, S),
}

/// The started processes of a peer that is not Outrigger.
fn running(
    daemons: Vec<Daemon>,
    address: SocketAddr,
    setup: &Setup,
    with: &With<'_>,
) -> Result<Running, String> {
    let tls = (setup.shape == Shape::Inbound).then(|| with.certificates.client()).transpose()?;
    Ok(Running {
        processes: daemons.iter().flat_map(Daemon::processes).collect(),
        address,
        tls,
        authority: "app.mesh".into(),
        members: None,
        keep: Box::new(daemons),
    })
}

/// A started peer. Dropping it ends its processes.
pub(super) struct Running {
    /// The measured processes.
    pub(super) processes: Vec<u32>,
    /// Where clients connect.
    pub(super) address: SocketAddr,
    /// TLS of clients, if they connect with it.
    pub(super) tls: Option<Tls>,
    /// The authority of requests.
    pub(super) authority: String,
    /// Changes the endpoints, or the other services, if the setup has some.
    pub(super) members: Option<Members>,
    /// Processes and files, until they are dropped.
    #[expect(dead_code, reason = "held")]
    keep: Box<dyn Any>,
}

#[cfg(test)]
mod testing {
    use super::*;

    /// One proxy of HTTP/1.1 with two routes.
    pub(super) fn setup() -> Setup {
        Setup {
            protocol: Protocol::Http1,
            shape: Shape::One,
            routes: 2,
            paths: Paths::Prefix,
            telemetry: Telemetry::default(),
            backend: (Ipv4Addr::LOCALHOST, 80).into(),
            endpoints: 0,
            services: 0,
            floor: false,
        }
    }

    /// Names of files that are not there.
    pub(super) fn certificates() -> Certificates {
        let [roots, chain, key, combined] = ["roots", "chain", "key", "combined"].map(PathBuf::from);
        Certificates { roots, chain, key, combined }
    }

    #[test]
    fn peers_without_a_feature_are_left_out() {
        let takes_part = |setup: &Setup| Peer::ALL.map(|peer| peer.supports(setup));
        assert_eq!(takes_part(&setup()), [true, true, true, true, true, false]);
        assert_eq!(takes_part(&Setup { floor: true, ..setup() }), [true; 6]);
        let mut logging = setup();
        logging.telemetry.access_log = true;
        assert_eq!(takes_part(&logging), [true, true, true, true, false, false]);
        let tracing = Tracing { percent: 1, collector: logging.backend };
        logging.telemetry.tracing = Some(tracing);
        assert_eq!(takes_part(&logging), [true, false, true, false, false, false]);
        let changing = Setup { endpoints: 20, ..setup() };
        assert_eq!(takes_part(&changing), [true, true, true, false, false, false]);
        let large = Setup { services: 10, ..setup() };
        assert_eq!(takes_part(&large), [true, false, false, false, false, false]);
    }
}
