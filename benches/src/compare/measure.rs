//! One run of one peer: the work of a variant, and its figures. The first figure stands for the variant in plots and progress.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use outrigger::memory::Memory;

use super::account::Spent;
use super::changes;
use super::drive::{self, Done, Load, Run, Target};
use super::idle;
use super::latency;
use super::peers::Running;
use super::results::Figure;
use super::scenarios::{Variant, Work};
use crate::load::{self, Expect, GrpcCall, HttpRequest, Transfer, WebSocketMessage};

/// The age of a process at which its memory is read, at least.
const AGE: Duration = Duration::from_secs(1);
/// Bytes that are written at once in a bulk transfer.
const CHUNK: usize = 256 << 10;
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
    let path = variant.path();
    let target =
        Target { address: peer.address, tls: peer.tls.clone(), authority: peer.authority.clone(), path };
    match variant.work {
        Work::Requests { load, size } => requests(&target, run, load, size).await,
        Work::Bulk { connections } => bulk(&target, run, connections).await,
        Work::Idle { connections } => memory(peer, &target.path, connections).await,
        Work::Connections { concurrent } => new_connections(&target, run, concurrent).await,
        Work::Grpc { streaming } => grpc(&target, run, streaming).await,
        Work::WebSocket => websocket(&target, run).await,
        Work::Latency => latency::measure(&target, small(&target), CONNECTIONS, run).await,
        Work::Changes => {
            let members = peer.members.as_ref().ok_or("its endpoints cannot be changed")?;
            changes::measure(&target, small(&target), CONNECTIONS, members, run).await
        }
    }
}

async fn requests(
    target: &Target,
    run: &Run<'_>,
    load: Load,
    size: usize,
) -> Result<(Vec<Figure>, f64), String> {
    let Done { requests, spans, spent } = match load.streams {
        1 => {
            let request = load::Protocol::Http1(get(target, size));
            drive::closed_loop(target, request, load.connections, false, run).await?
        }
        _ => drive::h2load(target, &load, run).await?,
    };
    let mut figures = cost("CPU, µs per request", requests, &spent);
    figures.extend([
        Figure::new("user, µs per request", each(spent.user, requests)),
        Figure::new("system, µs per request", each(spent.system, requests)),
        Figure::new("requests per second", requests as f64 / spent.wall.as_secs_f64()),
    ]);
    if run.collector.is_some() {
        figures.push(Figure::new("spans per request", spans as f64 / requests as f64));
    }
    Ok((figures, spent.other))
}

/// A GET that is answered by 200 bytes.
fn small(target: &Target) -> load::Protocol {
    load::Protocol::Http1(get(target, 200))
}

async fn grpc(target: &Target, run: &Run<'_>, streaming: bool) -> Result<(Vec<Figure>, f64), String> {
    let call = GrpcCall {
        authority: target.authority.clone(),
        // The last route's prefix is the package.
        path: target.path.clone(),
        metadata: HeaderMap::new(),
        message: vec![b'x'; MESSAGE].into(),
        expect_length: Some(MESSAGE as u64),
        messages_per_stream: streaming.then_some(0),
    };
    let Done { requests: messages, spent, .. } =
        drive::closed_loop(target, load::Protocol::Grpc(call), GRPC_CONNECTIONS, false, run).await?;
    Ok((cost("CPU, µs per message", messages, &spent), spent.other))
}

async fn websocket(target: &Target, run: &Run<'_>) -> Result<(Vec<Figure>, f64), String> {
    let message = WebSocketMessage {
        authority: target.authority.clone(),
        path: target.path.clone(),
        headers: HeaderMap::new(),
        message: vec![b'x'; MESSAGE].into(),
        expect_length: Some(MESSAGE as u64),
    };
    let Done { requests: messages, spent, .. } =
        drive::closed_loop(target, load::Protocol::WebSocket(message), WEBSOCKETS, false, run).await?;
    Ok((cost("CPU, µs per message", messages, &spent), spent.other))
}

async fn bulk(target: &Target, run: &Run<'_>, connections: usize) -> Result<(Vec<Figure>, f64), String> {
    let transfer = load::Protocol::Tcp(Transfer { send: vec![b'x'; CHUNK].into(), receive: 0 });
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
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let grown = after.anonymous as f64 - start.anonymous as f64;
    let figures = vec![
        Figure::new("KiB private per idle connection", grown / 1024.0 / connections as f64),
        Figure::new("MiB private at start", mebibytes(start.anonymous)),
        Figure::new("MiB PSS at start", mebibytes(start.pss)),
        Figure::new("MiB RSS at start", mebibytes(start.rss)),
    ];
    Ok((figures, 0.0))
}

/// The memory of all processes of a peer.
fn held(peer: &Running) -> Result<Memory, String> {
    let mut sum = Memory { rss: 0, anonymous: 0, pss: 0 };
    for pid in &peer.processes {
        let memory = Memory::of(*pid).ok_or("a measured process has ended")?;
        sum.rss += memory.rss;
        sum.anonymous += memory.anonymous;
        sum.pss += memory.pss;
    }
    Ok(sum)
}

async fn new_connections(
    target: &Target,
    run: &Run<'_>,
    concurrent: usize,
) -> Result<(Vec<Figure>, f64), String> {
    let request = load::Protocol::Http2(get(target, 200));
    let Done { requests: connections, spent, .. } =
        drive::closed_loop(target, request, concurrent, true, run).await?;
    Ok((cost("CPU, µs per connection", connections, &spent), spent.other))
}

fn get(target: &Target, size: usize) -> HttpRequest {
    HttpRequest {
        method: Method::GET,
        authority: target.authority.clone(),
        path: target.path.clone(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        expect: Expect { length: Some(size as u64), ..Expect::default() },
    }
}

/// The CPU of one of `count`, and how busy the proxies were.
fn cost(metric: &'static str, count: u64, spent: &Spent) -> Vec<Figure> {
    vec![Figure::new(metric, each(spent.cpu(), count)), share(spent)]
}

fn each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

fn share(spent: &Spent) -> Figure {
    Figure::new("share of the core, %", spent.cpu().as_secs_f64() / spent.wall.as_secs_f64() * 100.0)
}
