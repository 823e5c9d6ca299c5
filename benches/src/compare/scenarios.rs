//! What is compared: each scenario with the work of its proxies and the load.

use super::drive::Load;
use super::http2_backend;
use super::peers::{Protocol, Setup, Shape};
use crate::backend::{self, Service};

/// Routes of every proxy, unless their number is the scenario. A request takes the last one.
const ROUTES: usize = 20;

/// One scenario.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// Each is measured with proxies and an application of its own.
    pub(super) variants: &'static [Variant],
}

/// One load on proxies of one setup.
#[derive(Debug)]
pub(super) struct Variant {
    /// Empty if there is only one.
    pub(super) name: &'static str,
    protocol: Protocol,
    shape: Shape,
    routes: usize,
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
}

/// All scenarios, in the order in which they are measured.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        id: "S1",
        title: "HTTP/1.1, GET over 32 connections",
        variants: &[get("200 B", Shape::One, 200), get("16 KiB", Shape::One, 16 << 10)],
    },
    Scenario {
        id: "S2",
        title: "Two proxies with mutual TLS and HTTP/2 between them, HTTP/1.1 GET over 32 connections; both proxies' CPU",
        variants: &[get("200 B", Shape::Pair, 200), get("16 KiB", Shape::Pair, 16 << 10)],
    },
    Scenario {
        id: "S3",
        title: "HTTP/2 in the clear, POST of 100 B, response of 100 B with a trailer, 16 connections x 10 streams",
        variants: &[Variant {
            name: "",
            protocol: Protocol::Http2,
            shape: Shape::One,
            routes: ROUTES,
            work: Work::Requests { load: Load { connections: 16, streams: 10, body: 100 }, size: 100 },
        }],
    },
    Scenario {
        id: "S4",
        title: "TCP, bulk upload over 4 connections",
        variants: &[bulk("mTLS, two proxies", Shape::Pair), bulk("plain", Shape::One)],
    },
    Scenario {
        id: "S5",
        title: "Memory, at start and with 1,000 idle connections after one GET each",
        variants: &[idle("HTTP/1.1", Shape::One), idle("mTLS with HTTP/2", Shape::Inbound)],
    },
    Scenario {
        id: "S6",
        title: "New mutual TLS connection with HTTP/2 and one GET",
        variants: &[Variant {
            name: "",
            protocol: Protocol::Http1,
            shape: Shape::Inbound,
            routes: ROUTES,
            work: Work::Connections { concurrent: 8 },
        }],
    },
    Scenario {
        id: "S7",
        title: "gRPC in the clear, messages of 100 B, 16 connections",
        variants: &[grpc("unary", false), grpc("streaming", true)],
    },
    Scenario {
        id: "S8",
        title: "Routes by path prefix, of which requests take the last; else as S1 with 200 B",
        variants: &[routes("1 route", 1), routes("1,000 routes", 1_000), routes("10,000 routes", 10_000)],
    },
    Scenario {
        id: "S11",
        title: "WebSocket, messages of 100 B, 32 connections",
        variants: &[Variant {
            name: "",
            protocol: Protocol::Http1,
            shape: Shape::One,
            routes: ROUTES,
            work: Work::WebSocket,
        }],
    },
];

const fn get(name: &'static str, shape: Shape, size: usize) -> Variant {
    let load = Load { connections: 32, streams: 1, body: 0 };
    Variant { name, protocol: Protocol::Http1, shape, routes: ROUTES, work: Work::Requests { load, size } }
}

const fn bulk(name: &'static str, shape: Shape) -> Variant {
    Variant { name, protocol: Protocol::Tcp, shape, routes: ROUTES, work: Work::Bulk { connections: 4 } }
}

const fn idle(name: &'static str, shape: Shape) -> Variant {
    Variant {
        name,
        protocol: Protocol::Http1,
        shape,
        routes: ROUTES,
        work: Work::Idle { connections: 1_000 },
    }
}

const fn grpc(name: &'static str, streaming: bool) -> Variant {
    let work = Work::Grpc { streaming };
    Variant { name, protocol: Protocol::Http2, shape: Shape::One, routes: ROUTES, work }
}

const fn routes(name: &'static str, routes: usize) -> Variant {
    Variant { routes, ..get(name, Shape::One, 200) }
}

impl Variant {
    /// Starts the application, and returns the work of the proxies.
    pub(super) fn setup(&self) -> Result<Setup, String> {
        let Self { protocol, shape, routes, work, .. } = *self;
        let backend = match (protocol, work) {
            (_, Work::Grpc { .. }) => backend::start(Service::Grpc)?,
            (_, Work::WebSocket) => backend::start(Service::WebSocket)?,
            (Protocol::Http1, Work::Requests { size, .. }) => backend::start(Service::Http1 { size })?,
            (Protocol::Http1, _) => backend::start(Service::Http1 { size: 200 })?,
            (Protocol::Http2, _) => http2_backend::start()?,
            (Protocol::Tcp, _) => backend::start(Service::TcpSink)?,
        };
        Ok(Setup { protocol, shape, routes, backend })
    }

    /// The path of requests: of the last route.
    pub(super) fn path(&self) -> String {
        format!("/r{}/items", self.routes - 1)
    }

    /// Whether every run needs proxies that have just started.
    pub(super) fn starts_fresh(&self) -> bool {
        matches!(self.work, Work::Idle { .. })
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
}
