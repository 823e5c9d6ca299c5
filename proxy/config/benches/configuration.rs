//! What configuration costs a proxy: to find a route among many, to test and change fields of a head, and to decode and build the
//! clusters of a large mesh. Run by a person (docs/benchmarks.md).
#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::panic)] // the messages are its own

#[allow(dead_code, reason = "it has more messages than are used here")]
#[path = "../tests/resources/fixture.rs"]
mod fixture;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use outrigger_config::build::Builder;
use outrigger_config::compiled::{Compiled, Raw};
use outrigger_config::resources::Resources;
use outrigger_config::route::RouteTable;
use outrigger_policy::header_match::{Head, HeaderMatcher};
use outrigger_policy::header_mutation::HeaderMutation;
use outrigger_proto::kind::Kind;
use outrigger_proto::xds::route::header_matcher::HeaderMatchSpecifier;
use outrigger_proto::xds::route::route_match::PathSpecifier;
use outrigger_proto::xds::{core, matcher, route};

/// Clusters of a large mesh.
const CLUSTERS: usize = 10_000;

criterion_group!(benches, routes, fields, clusters);
criterion_main!(benches);

/// The last of several routes, by prefix and by exact path.
fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for count in [1, 1_000, 10_000] {
        for exact in [false, true] {
            let table = table(count, exact);
            let (headers, path) = (head_fields(), format!("/r{}/items", count - 1));
            let head = Head {
                method: &Method::GET,
                scheme: "http",
                authority: "cart.shop",
                path: &path,
                headers: &headers,
            };
            assert_eq!(table.find(&head, 0).map(|route| &*route.name), Some(&*(count - 1).to_string()));
            let name = if exact { "exact path" } else { "prefix" };
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| table.find(black_box(&head), 0).is_some());
            });
        }
    }
    group.finish();
}

/// A table of `count` routes: `/r0/` and so on, or `/r0/items` if they are exact.
fn table(count: usize, exact: bool) -> Arc<RouteTable> {
    let mut wire = fixture::table("many", fixture::CART);
    wire.virtual_hosts[0].routes = (0..count)
        .map(|at| {
            let path = match exact {
                true => PathSpecifier::Path(format!("/r{at}/items")),
                false => PathSpecifier::Prefix(format!("/r{at}/")),
            };
            route::Route {
                name: at.to_string(),
                r#match: Some(route::RouteMatch { path_specifier: Some(path), ..Default::default() }),
                ..fixture::forward(fixture::CART)
            }
        })
        .collect();
    let mut mesh = fixture::Mesh::default();
    fixture::accept(&mut mesh, "many", "1", fixture::table_body(wire));
    Arc::clone(&mesh.build().unwrap().routes["many"])
}

/// The fields that a browser sends, about.
fn head_fields() -> HeaderMap {
    [
        ("accept", "text/html,application/json;q=0.9,*/*;q=0.8"),
        ("accept-encoding", "gzip, deflate, br"),
        ("accept-language", "en-GB,en;q=0.5"),
        ("cookie", "session=0123456789abcdef; theme=dark"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("x-request-id", "6f9619ff-8b86-d011-b42d-00c04fc964ff"),
        ("x-version", "v2"),
        ("x-internal", "1"),
    ]
    .into_iter()
    .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
    .collect()
}

/// A matcher on one field, and a header modifier that sets one field, adds one and removes one.
fn fields(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("header rules");
    let headers = head_fields();
    let head =
        Head { method: &Method::GET, scheme: "http", authority: "cart.shop", path: "/", headers: &headers };
    let exact = matcher::string_matcher::MatchPattern::Exact("v2".into());
    let regex = matcher::RegexMatcher { regex: "v[0-9]+".into(), ..Default::default() };
    let regex = matcher::string_matcher::MatchPattern::SafeRegex(regex);
    for (name, pattern) in [("exact match", exact), ("regular expression", regex)] {
        let pattern = matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: false };
        let matcher = HeaderMatcher::decode(route::HeaderMatcher {
            name: "x-version".into(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(pattern)),
            ..Default::default()
        });
        let matcher = matcher.unwrap();
        assert!(matcher.matches(&head));
        group.bench_function(name, |bencher| bencher.iter(|| matcher.matches(black_box(&head))));
    }
    let set = |name: &str, action: core::header_value_option::HeaderAppendAction| core::HeaderValueOption {
        header: Some(core::HeaderValue { key: name.into(), value: "value".into(), ..Default::default() }),
        append_action: action.into(),
        ..Default::default()
    };
    use core::header_value_option::HeaderAppendAction::{AppendIfExistsOrAdd, OverwriteIfExistsOrAdd};
    let changes = vec![set("x-version", OverwriteIfExistsOrAdd), set("x-added", AppendIfExistsOrAdd)];
    let mutation = HeaderMutation::decode("request", changes, vec!["x-internal".into()]).unwrap();
    group.bench_function("set, add and remove", |bencher| {
        let apply = |mut headers: HeaderMap| {
            mutation.apply(&mut headers);
            headers
        };
        bencher.iter_batched(|| headers.clone(), apply, BatchSize::SmallInput);
    });
    group.finish();
}

/// All clusters of a mesh, each with an endpoint: decoded; built to the first snapshot; and built again when one has changed.
fn clusters(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("{CLUSTERS} clusters"));
    group.sample_size(10);
    let raw: Vec<_> = (0..CLUSTERS).flat_map(messages).collect();
    group.bench_function("decode", |bencher| {
        bencher.iter_batched(|| raw.clone(), compiled, BatchSize::PerIteration);
    });
    let all = compiled(raw);
    group.bench_function("first snapshot", |bencher| {
        let build = |mut builder: Builder| builder.build(&Resources::default(), &all);
        bencher.iter_batched(Builder::default, build, BatchSize::PerIteration);
    });
    let mut changed = all.clone();
    let mut cluster = fixture::cart_cluster();
    (cluster.name, cluster.connect_timeout) = (name(0), fixture::seconds(2));
    let body = fixture::raw(&name(0), "2", fixture::cluster_body(cluster));
    changed.insert(Kind::Cluster, Arc::new(Compiled::new(Kind::Cluster, body, None).unwrap()));
    group.bench_function("snapshot after a change of one", |bencher| {
        let first = || {
            let mut builder = Builder::default();
            builder.build(&Resources::default(), &all);
            builder
        };
        let build = |mut builder: Builder| builder.build(&all, &changed);
        bencher.iter_batched(first, build, BatchSize::PerIteration);
    });
    group.finish();
}

fn name(number: usize) -> String {
    format!("s{number}.shop.svc.cluster.local:80")
}

/// A cluster and its endpoints, as the control plane sends them.
fn messages(number: usize) -> [Raw; 2] {
    let (name, mut cluster) = (name(number), fixture::cart_cluster());
    cluster.name.clone_from(&name);
    let endpoint = format!("10.9.{}.{}:8080", number / 250, number % 250 + 1);
    [fixture::cluster_body(cluster), fixture::endpoints(&name, &[&endpoint])]
        .map(|body| fixture::raw(&name, "1", body))
}

fn compiled(raw: Vec<Raw>) -> Resources {
    let mut resources = Resources::default();
    for raw in raw {
        let kind = Kind::from_type_url(&raw.body.type_url).unwrap();
        resources.insert(kind, Arc::new(Compiled::new(kind, raw, None).unwrap()));
    }
    resources
}
