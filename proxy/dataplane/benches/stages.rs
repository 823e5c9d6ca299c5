//! What single stages of a request cost in the data path: the pick of an endpoint, the record of a finished request with metrics and
//! spans, and the field sections of HTTP/2. Run by a person (docs/benchmarks.md).
#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used)] // the values are its own

use std::hint::black_box;
use std::time::{Duration, SystemTime};

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_core::record::{AttemptRecord, Direction, Protocol, RequestRecord, Text, Upstream};
use outrigger_core::trace::{SpanId, TraceContext, TraceId};
use outrigger_dataplane::Sinks;
use outrigger_dataplane::stages::{FieldSections, Picks, Records};
use tokio::sync::mpsc;

criterion_group!(benches, picks, records, fields);
criterion_main!(benches);

/// The default balancer, among hosts that are all usable.
fn picks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick by P2C");
    for hosts in [2, 10, 1_000] {
        let mut picks = Picks::new(hosts);
        group.bench_function(BenchmarkId::from_parameter(hosts), |bencher| bencher.iter(|| picks.pick()));
    }
    group.finish();
}

/// Requests that are counted alone: with the labels of the one before, and with others in turn; and requests whose spans are sent.
fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    let counting = Records::new(Sinks::default());
    let mut bench = |name: &str, statuses: [u16; 2]| {
        let mut turn = 0;
        group.bench_function(name, |bencher| {
            let next = || {
                turn += 1;
                RequestRecord { status: statuses[turn % 2], ..record() }
            };
            bencher.iter_batched(next, |record| counting.finish(record), BatchSize::SmallInput);
        });
    };
    bench("metrics, the same labels", [200, 200]);
    bench("metrics, two sets of labels in turn", [200, 404]);
    assert!(counting.counted() > 0);

    let (spans, mut sent) = mpsc::channel(1);
    let sampled = Records::new(Sinks { spans: Some(spans), ..Sinks::default() });
    group.bench_function("metrics and a span", |bencher| {
        let record_and_take = |record| {
            sampled.finish(record);
            sent.try_recv().unwrap()
        };
        bencher.iter_batched(traced, record_and_take, BatchSize::SmallInput);
    });
    group.finish();
}

/// A request to `cart`, answered with 200 by the first attempt.
fn record() -> RequestRecord {
    RequestRecord {
        started: SystemTime::UNIX_EPOCH,
        duration: Duration::from_millis(3),
        listener: "outbound".into(),
        direction: Direction::Outbound,
        protocol: Protocol::Http11,
        status: 200,
        grpc_status: None,
        reason: None,
        authorization: None,
        source: None,
        client: ([127, 0, 0, 1], 40_000).into(),
        tls: None,
        destination: Some("cart.shop.svc.cluster.local:80".into()),
        route: Some("httproute/shop/cart/0".into()),
        route_template: None,
        bytes_received: 0,
        bytes_sent: 200,
        until_first_attempt: Duration::from_micros(10),
        upstream: Some(Upstream {
            cluster: "cart.shop.svc.cluster.local:80".into(),
            connected: true,
            peer: None,
            tls: None,
        }),
        attempts: Vec::new(),
        trace: None,
        text: None,
    }
}

/// The same with what its spans need.
fn traced() -> RequestRecord {
    let attempt = AttemptRecord {
        offset: Duration::from_micros(10),
        duration: Duration::from_millis(2),
        cluster: "cart.shop.svc.cluster.local:80".into(),
        endpoint: Some(([10, 0, 0, 7], 8080).into()),
        instance: None,
        resend_count: 0,
        peer: None,
        tls: None,
        protocol: Some(Protocol::Http11),
        until_connected: Duration::ZERO,
        until_first_byte: Some(Duration::from_millis(2)),
        status: 200,
        grpc_status: None,
        reason: None,
        reached: None,
        span: SpanId::new(9),
    };
    let trace = TraceContext {
        trace: TraceId::new(7).unwrap(),
        span: SpanId::new(8).unwrap(),
        parent: None,
        sampled: true,
    };
    let text = Text {
        method: "GET".into(),
        authority: "cart.shop".into(),
        scheme: "http",
        path: "/items".into(),
        user_agent: "benches".into(),
        ..Text::default()
    };
    RequestRecord { attempts: vec![attempt], trace: Some(trace), text: Some(Box::new(text)), ..record() }
}

/// Sections of a request with ten fields: with all fields in the tables of both sides, and with a path and an ID that are new each time.
fn fields(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("HPACK");
    for (name, changing) in [("known fields", false), ("a new path and a new ID", true)] {
        let heads: Vec<_> = (0..1_000).map(|at| head(if changing { at } else { 0 })).collect();
        let mut sections = FieldSections::default();
        let mut blocks = Vec::new();
        for (path, fields) in &heads {
            let mut block = Vec::new();
            sections.encode(path, fields, &mut block);
            blocks.push(block);
        }
        let (mut turn, mut out) = (0, Vec::with_capacity(1_024));
        group.bench_function(format!("encode, {name}"), |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % heads.len();
                let (path, fields) = &heads[turn];
                out.clear();
                sections.encode(path, fields, &mut out);
                out.len()
            });
        });
        // A decoder must see blocks in the order in which they were encoded: each batch begins a connection.
        group.bench_function(format!("decode 1,000, {name}"), |bencher| {
            let all = |mut sections: FieldSections| {
                for block in &blocks {
                    black_box(sections.decode(block).unwrap());
                }
            };
            bencher.iter_batched(FieldSections::default, all, BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn head(number: usize) -> (String, HeaderMap) {
    let fields = [
        ("accept", "text/html,application/json;q=0.9,*/*;q=0.8"),
        ("accept-encoding", "gzip, deflate, br"),
        ("accept-language", "en-GB,en;q=0.5"),
        ("cookie", "session=0123456789abcdef; theme=dark"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("x-version", "v2"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("content-type", "application/json"),
        ("te", "trailers"),
    ];
    let mut fields: HeaderMap = fields
        .into_iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect();
    let id = format!("6f9619ff-8b86-d011-b42d-{number:012}");
    fields.insert("x-request-id", id.parse().unwrap());
    (format!("/items/{number}"), fields)
}
