//! What is compared: each scenario with the work of its proxies and the load.

use std::net::{Ipv4Addr, SocketAddr};

use super::drive::Load;
use super::http2_backend;
use super::peers::{Paths, Protocol, Setup, Shape, Telemetry, Tracing};
use crate::backend::{self, Service};

/// Routes of every proxy, unless their number is the scenario. A request takes the last one.
const ROUTES: usize = 20;
/// The parts of its capacity at which a proxy's latency is measured, in percent.
pub(super) const RATES: [u32; 2] = [70, 30];

/// One scenario.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// Each is measured with proxies and an application of its own.
    pub(super) variants: &'static [Variant],
    /// All variants run at the same time, and are measured one after the other in every round: their ratios are what counts.
    pub(super) together: bool,
}

/// One load on proxies of one setup.
#[derive(Debug)]
pub(super) struct Variant {
    /// Empty if there is only one.
    pub(super) name: &'static str,
    protocol: Protocol,
    shape: Shape,
    routes: usize,
    paths: Paths,
    access_log: bool,
    /// Percentage of requests.
    traced: u8,
    /// Whether the relay that parses nothing is measured, too.
    floor: bool,
    /// Whether a short comparison has it.
    pub(super) quick: bool,
    /// Whether system calls, instructions and allocations of a request are counted, too.
    pub(super) counted: bool,
    /// The variant that this one is compared with, and the name of that ratio of their first figures.
    pub(super) against: Option<(&'static str, &'static str)>,
    pub(super) work: Work,
}

/// What is done and measured.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    /// CPU of a request in a closed loop.
    Requests {
        load: Load,
        /// Of the response's body.
        size: usize,
    },
    /// Bytes to the application per second of CPU.
    Bulk { connections: usize },
    /// Memory at start, and of each of so many idle connections.
    Idle { connections: usize },
    /// CPU of a new connection with one request.
    Connections { concurrent: usize },
    /// CPU of a gRPC message and its answer, in calls or in streams.
    Grpc { streaming: bool },
    /// CPU of a WebSocket message and its answer.
    WebSocket,
    /// Latency while endpoints change.
    Changes {
        endpoints: usize,
        per_second: u32,
        /// Requests per second, the same for every proxy.
        rate: u32,
    },
    /// Memory and CPU in a mesh with so many other services, which change.
    Mesh { services: usize },
    /// Latency added at parts of the capacity.
    Latency,
}

/// All scenarios, in the order in which they are measured.
pub(super) const ALL: &[Scenario] = &[
    scenario(
        "S1",
        "HTTP/1.1, GET over 32 connections",
        &[floor(counted(get("200 B", Shape::One, 200))), floor(counted(get("16 KiB", Shape::One, 16 << 10)))],
    ),
    scenario(
        "S2",
        "Two proxies with mutual TLS and HTTP/2 between them, HTTP/1.1 GET over 32 connections; both proxies' CPU",
        &[counted(get("200 B", Shape::Pair, 200)), counted(get("16 KiB", Shape::Pair, 16 << 10))],
    ),
    scenario(
        "S3",
        "HTTP/2 in the clear, POST of 100 B, response of 100 B with a trailer, 16 connections x 10 streams",
        &[Variant {
            protocol: Protocol::Http2,
            counted: true,
            floor: true,
            ..variant(
                "",
                Shape::One,
                Work::Requests { load: Load { connections: 16, streams: 10, body: 100 }, size: 100 },
            )
        }],
    ),
    scenario(
        "S4",
        "TCP, bulk upload over 4 connections",
        &[bulk("mTLS, two proxies", Shape::Pair), floor(bulk("plain", Shape::One))],
    ),
    scenario(
        "S5",
        "Memory, at start and with 1,000 idle connections after one GET each",
        &[
            variant("HTTP/1.1", Shape::One, Work::Idle { connections: 1_000 }),
            long(variant("mTLS with HTTP/2", Shape::Inbound, Work::Idle { connections: 1_000 })),
        ],
    ),
    scenario(
        "S6",
        "New mutual TLS connection with HTTP/2 and one GET",
        &[variant("", Shape::Inbound, Work::Connections { concurrent: 8 })],
    ),
    scenario(
        "S7",
        "gRPC in the clear, messages of 100 B, 16 connections",
        &[floor(counted(grpc("unary", false))), floor(counted(grpc("streaming", true)))],
    ),
    Scenario {
        together: true,
        ..scenario(
            "S8",
            "Routes by path, of which requests take the last; else as S1 with 200 B",
            &[
                routes("1 prefix", 1, Paths::Prefix, None),
                routes("1,000 prefixes", 1_000, Paths::Prefix, Some(PREFIX)),
                long(routes("10,000 prefixes", 10_000, Paths::Prefix, Some(PREFIX))),
                long(routes("1 exact path", 1, Paths::Exact, None)),
                long(routes("1,000 exact paths", 1_000, Paths::Exact, Some(EXACT))),
                long(routes("10,000 exact paths", 10_000, Paths::Exact, Some(EXACT))),
            ],
        )
    },
    Scenario {
        together: true,
        ..scenario(
            "S9",
            "Access log and tracing; else as S1 with 200 B",
            &[
                get("off", Shape::One, 200),
                long(reporting("access log", true, 0)),
                long(reporting("tracing 1 %", false, 1)),
                long(reporting("tracing 100 %", false, 100)),
                reporting("tracing 1 % and access log", true, 1),
            ],
        )
    },
    scenario(
        "S10",
        "Latency while one endpoint is exchanged 100 times a second; with 10,000 endpoints, 10 times a second; else as S1 with 200 B",
        &[
            changes("20 endpoints, 2,000 requests a second", 20, 100, 2_000),
            long(changes("10,000 endpoints, 500 requests a second", 10_000, 10, 500)),
        ],
    ),
    scenario(
        "S11",
        "WebSocket, messages of 100 B, 32 connections",
        &[floor(variant("", Shape::One, Work::WebSocket))],
    ),
    scenario(
        "S12",
        "Latency added to that without proxy, at 70 % and 30 % of each proxy's capacity",
        &[
            variant("as S1 with 200 B", Shape::One, Work::Latency),
            long(variant("as S2 with 200 B", Shape::Pair, Work::Latency)),
        ],
    ),
    Scenario {
        together: true,
        ..scenario(
            "S13",
            "Memory and CPU of a sidecar that uses one service of a mesh, while others change",
            &[
                long(mesh("10 other services", 10, None)),
                long(mesh(
                    "10,000 other services",
                    10_000,
                    Some(("10 other services", "memory / memory with 10")),
                )),
            ],
        )
    },
];

/// Returns the variant of this name in a scenario.
pub(super) fn find(id: &str, name: &str) -> Option<&'static Variant> {
    let scenario = ALL.iter().find(|scenario| scenario.id == id)?;
    scenario.variants.iter().find(|variant| variant.name == name)
}

const PREFIX: (&str, &str) = ("1 prefix", "CPU / CPU with 1 route");
const EXACT: (&str, &str) = ("1 exact path", "CPU / CPU with 1 route");

const fn scenario(id: &'static str, title: &'static str, variants: &'static [Variant]) -> Scenario {
    Scenario { id, title, variants, together: false }
}

/// HTTP/1.1 with prefixes, in short comparisons.
const fn variant(name: &'static str, shape: Shape, work: Work) -> Variant {
    Variant {
        name,
        protocol: Protocol::Http1,
        shape,
        routes: ROUTES,
        paths: Paths::Prefix,
        access_log: false,
        traced: 0,
        floor: false,
        quick: true,
        counted: false,
        against: None,
        work,
    }
}

/// With counts of what a request does.
const fn counted(variant: Variant) -> Variant {
    Variant { counted: true, ..variant }
}

/// With the relay that parses nothing.
const fn floor(variant: Variant) -> Variant {
    Variant { floor: true, ..variant }
}

/// Not in short comparisons.
const fn long(variant: Variant) -> Variant {
    Variant { quick: false, ..variant }
}

const fn get(name: &'static str, shape: Shape, size: usize) -> Variant {
    variant(name, shape, Work::Requests { load: Load { connections: 32, streams: 1, body: 0 }, size })
}

const fn bulk(name: &'static str, shape: Shape) -> Variant {
    Variant { protocol: Protocol::Tcp, ..variant(name, shape, Work::Bulk { connections: 4 }) }
}

const fn changes(name: &'static str, endpoints: usize, per_second: u32, rate: u32) -> Variant {
    variant(name, Shape::One, Work::Changes { endpoints, per_second, rate })
}

const fn mesh(name: &'static str, services: usize, against: Option<(&'static str, &'static str)>) -> Variant {
    Variant { against, ..variant(name, Shape::One, Work::Mesh { services }) }
}

const fn grpc(name: &'static str, streaming: bool) -> Variant {
    Variant { protocol: Protocol::Http2, ..variant(name, Shape::One, Work::Grpc { streaming }) }
}

const fn routes(
    name: &'static str,
    routes: usize,
    paths: Paths,
    against: Option<(&'static str, &'static str)>,
) -> Variant {
    Variant { routes, paths, against, ..get(name, Shape::One, 200) }
}

const fn reporting(name: &'static str, access_log: bool, traced: u8) -> Variant {
    Variant {
        access_log,
        traced,
        against: Some(("off", "CPU / CPU with neither")),
        ..get(name, Shape::One, 200)
    }
}

impl Variant {
    /// Starts the application, and returns its address.
    pub(super) fn application(&self) -> Result<SocketAddr, String> {
        match (self.protocol, self.work) {
            (_, Work::Grpc { .. }) => backend::start(Service::Grpc),
            (_, Work::WebSocket) => backend::start(Service::WebSocket),
            (_, Work::Changes { .. }) => {
                let any = backend::start_on(Ipv4Addr::UNSPECIFIED, Service::Http1 { size: 200 })?;
                Ok((Ipv4Addr::LOCALHOST, any.port()).into())
            }
            (Protocol::Http1, Work::Requests { size, .. }) => backend::start(Service::Http1 { size }),
            (Protocol::Http1, _) => backend::start(Service::Http1 { size: 200 }),
            (Protocol::Http2, _) => http2_backend::start(),
            (Protocol::Tcp, _) => backend::start(Service::TcpSink),
        }
    }

    /// Returns the work of the proxies with this application, and with this collector if the variant is traced.
    pub(super) fn asks(&self, backend: SocketAddr, collector: Option<SocketAddr>) -> Setup {
        let tracing = collector
            .filter(|_| self.is_traced())
            .map(|collector| Tracing { percent: self.traced, collector });
        Setup {
            protocol: self.protocol,
            shape: self.shape,
            routes: self.routes,
            paths: self.paths,
            telemetry: Telemetry { access_log: self.access_log, tracing },
            backend,
            endpoints: if let Work::Changes { endpoints, .. } = self.work { endpoints } else { 0 },
            services: if let Work::Mesh { services } = self.work { services } else { 0 },
            floor: self.floor,
        }
    }

    /// Whether proxies need a collector of spans.
    pub(super) fn is_traced(&self) -> bool {
        self.traced > 0
    }

    /// The part of requests that is traced, 0 to 1.
    pub(super) fn sampling(&self) -> f64 {
        f64::from(self.traced) / 100.0
    }

    /// The path of requests: of the last route.
    pub(super) fn path(&self) -> String {
        format!("/r{}/items", self.routes - 1)
    }

    /// Whether every run needs proxies that have just started.
    pub(super) fn starts_fresh(&self) -> bool {
        matches!(self.work, Work::Idle { .. } | Work::Mesh { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_have_ids_of_their_own_and_named_variants() {
        for (at, scenario) in ALL.iter().enumerate() {
            assert!(ALL[..at].iter().all(|before| before.id != scenario.id), "{}", scenario.id);
            let unnamed = scenario.variants.iter().filter(|variant| variant.name.is_empty()).count();
            assert!(unnamed == 0 || scenario.variants.len() == 1, "{}", scenario.id);
        }
    }

    #[test]
    fn what_is_compared_with_a_variant_is_measured_together_with_it() {
        for scenario in ALL {
            for variant in scenario.variants {
                let Some((base, _)) = variant.against else { continue };
                let base = scenario.variants.iter().find(|other| other.name == base);
                let measured = base.is_some_and(|base| base.quick || !variant.quick);
                assert!(scenario.together && measured, "{}", variant.name);
            }
        }
    }

    #[test]
    fn a_variant_asks_for_what_it_measures() {
        let address = "127.0.0.1:1".parse().unwrap();
        let asks = |id, name| find(id, name).unwrap().asks(address, Some(address));
        let both = asks("S9", "tracing 1 % and access log").telemetry;
        assert!(both.access_log && both.tracing.unwrap().percent == 1);
        let off = asks("S9", "off").telemetry;
        assert!(!off.access_log && off.tracing.is_none());
        let many = asks("S10", "10,000 endpoints, 500 requests a second").addresses();
        assert!(many.len() == 10_000 && many.is_sorted_by(|one, other| one < other));
        assert_eq!(asks("S13", "10,000 other services").services, 10_000);
        let exact = asks("S8", "10,000 exact paths");
        assert_eq!((exact.routes, exact.paths), (10_000, Paths::Exact));
    }
}
