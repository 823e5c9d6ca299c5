//! One run of one peer: the work of a variant, and its figures. The first figure stands for the variant in plots and progress.

use std::time::Duration;

use http::{HeaderMap, Method};

use super::account::Spent;
use super::changes;
use super::drive::{self, Done, Load, Run, Target};
use super::idle;
use super::latency;
use super::memory::{held, mebibytes};
use super::mesh;
use super::peers::Running;
use super::results::Figure;
use super::scenarios::{Variant, Work};
use crate::load::{self, Expect, GrpcCall, HttpRequest, Transfer, WebSocketMessage};

/// The age of a process at which its memory is read, at least.
const AGE: Duration = Duration::from_secs(1);
/// Bytes that are written at once in a bulk transfer.
const CHUNK: usize = 256 << 10;
/// Bytes of a response, unless the work says otherwise.
const SMALL: usize = 200;
/// Bytes of a gRPC or WebSocket message.
const MESSAGE: usize = 100;
const GRPC_CONNECTIONS: usize = 16;
const WEBSOCKETS: usize = 32;
/// Of a load at a constant rate.
const CONNECTIONS: usize = 32;

/// Measures once. Returns the figures, and the share of the proxies' core that went to other load.
pub(super) async fn once(
    variant: &Variant,
    peer: &Running,
    run: &Run<'_>,
) -> Result<(Vec<Figure>, f64), String> {
    let target = Target::of(peer, variant.path());
    let request = request(variant.work, &target);
    match variant.work {
        Work::Requests { load, .. } => requests(&target, run, load, request).await,
        Work::Bulk { connections } => bulk(&target, run, connections, request).await,
        Work::Idle { connections } => memory(peer, &target.path, connections).await,
        Work::Connections { concurrent } => {
            let done = drive::closed_loop(&target, request, concurrent, true, run).await?;
            Ok(cost("CPU, µs per connection", &done))
        }
        Work::Grpc { .. } => {
            let done = drive::closed_loop(&target, request, GRPC_CONNECTIONS, false, run).await?;
            Ok(cost("CPU, µs per message", &done))
        }
        Work::WebSocket => {
            let done = drive::closed_loop(&target, request, WEBSOCKETS, false, run).await?;
            Ok(cost("CPU, µs per message", &done))
        }
        Work::Latency => latency::measure(&target, request, CONNECTIONS, run).await,
        Work::Changes { per_second, rate, .. } => {
            let members = peer.members.as_ref().ok_or("its endpoints cannot be changed")?;
            let load = changes::Load { request, connections: CONNECTIONS, rate: f64::from(rate) };
            changes::measure(&target, load, members, per_second, run).await
        }
        Work::Mesh { .. } => mesh::measure(peer, &target, request, run).await,
    }
}

/// One request of such work, for our load engine.
pub(super) fn request(work: Work, target: &Target) -> load::Protocol {
    let http = |method: Method, body: usize, expect: Expect| HttpRequest {
        method,
        authority: target.authority.clone(),
        path: target.path.clone(),
        headers: HeaderMap::new(),
        body: vec![b'y'; body].into(),
        expect,
    };
    let get = |size: usize| http(Method::GET, 0, Expect { length: Some(size as u64), ..Expect::default() });
    match work {
        Work::Requests { load: Load { streams: 1, .. }, size } => load::Protocol::Http1(get(size)),
        Work::Requests { load, size } => load::Protocol::Http2(http(
            Method::POST,
            load.body,
            Expect { length: Some(size as u64), trailers: true, ..Expect::default() },
        )),
        Work::Bulk { .. } => load::Protocol::Tcp(Transfer { send: vec![b'x'; CHUNK].into(), receive: 0 }),
        Work::Connections { .. } => load::Protocol::Http2(get(SMALL)),
        Work::Grpc { streaming } => load::Protocol::Grpc(GrpcCall {
            authority: target.authority.clone(),
            // The last route's prefix is the package.
            path: target.path.clone(),
            metadata: HeaderMap::new(),
            message: vec![b'x'; MESSAGE].into(),
            expect_length: Some(MESSAGE as u64),
            messages_per_stream: streaming.then_some(0),
        }),
        Work::WebSocket => load::Protocol::WebSocket(WebSocketMessage {
            authority: target.authority.clone(),
            path: target.path.clone(),
            headers: HeaderMap::new(),
            message: vec![b'x'; MESSAGE].into(),
            expect_length: Some(MESSAGE as u64),
        }),
        Work::Idle { .. } | Work::Latency | Work::Changes { .. } | Work::Mesh { .. } => {
            load::Protocol::Http1(get(SMALL))
        }
    }
}

async fn requests(
    target: &Target,
    run: &Run<'_>,
    load: Load,
    request: load::Protocol,
) -> Result<(Vec<Figure>, f64), String> {
    let done = match load.streams {
        1 => drive::closed_loop(target, request, load.connections, false, run).await?,
        _ => drive::h2load(target, &load, run).await?,
    };
    let (mut figures, other) = cost("CPU, µs per request", &done);
    let Done { requests, spans, spent } = done;
    figures.extend([
        Figure::new("user, µs per request", each(spent.user, requests)),
        Figure::new("system, µs per request", each(spent.system, requests)),
        Figure::new("requests per second", requests as f64 / spent.wall.as_secs_f64()),
    ]);
    if run.collector.is_some() {
        figures.push(Figure::new("spans per request", spans as f64 / requests as f64));
    }
    Ok((figures, other))
}

async fn bulk(
    target: &Target,
    run: &Run<'_>,
    connections: usize,
    transfer: load::Protocol,
) -> Result<(Vec<Figure>, f64), String> {
    let Done { requests: transfers, spent, .. } =
        drive::closed_loop(target, transfer, connections, false, run).await?;
    let megabytes = transfers as f64 * CHUNK as f64 / 1e6;
    let figures = vec![
        Figure::new("MB per second of CPU", megabytes / spent.cpu().as_secs_f64()),
        Figure::new("MB per second", megabytes / spent.wall.as_secs_f64()),
        share(&spent),
    ];
    Ok((figures, spent.other))
}

/// Other load on the core does not change these figures.
async fn memory(peer: &Running, path: &str, connections: usize) -> Result<(Vec<Figure>, f64), String> {
    tokio::time::sleep(AGE).await;
    let start = held(peer)?;
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        open.push(idle::open(peer, path).await?);
    }
    tokio::time::sleep(AGE).await;
    let after = held(peer)?;
    drop(open);
    let grown = after.anonymous as f64 - start.anonymous as f64;
    let figures = vec![
        Figure::new("KiB private per idle connection", grown / 1024.0 / connections as f64),
        Figure::new("MiB private at start", mebibytes(start.anonymous)),
        Figure::new("MiB PSS at start", mebibytes(start.pss)),
        Figure::new("MiB RSS at start", mebibytes(start.rss)),
    ];
    Ok((figures, 0.0))
}

/// The CPU of one request, and how busy the proxies were; and the share of their core that went to other load.
fn cost(metric: &'static str, done: &Done) -> (Vec<Figure>, f64) {
    let Done { requests, spent, .. } = done;
    (vec![Figure::new(metric, each(spent.cpu(), *requests)), share(spent)], spent.other)
}

fn each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

fn share(spent: &Spent) -> Figure {
    Figure::new("share of the core, %", spent.cpu().as_secs_f64() / spent.wall.as_secs_f64() * 100.0)
}
