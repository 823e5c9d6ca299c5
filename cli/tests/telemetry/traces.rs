//! Spans in Jaeger: each call once, parents right, no service that calls itself; rates and failures equal to the load.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use outrigger::admin;
use serde_json::Value;

use crate::collector::Collector;
use crate::service_graph::ServiceGraph;
use crate::shop::Shop;

/// Who calls whom over HTTP or gRPC.
const CALLS: [(&str, &str); 4] =
    [("shopper", "web"), ("web", "cart"), ("cart", "catalog"), ("cart", "payments")];

#[test]
fn jaeger_shows_each_call_of_a_checkout_once() {
    let directory = tempfile::tempdir().unwrap();
    let jaeger = Collector::start_with_dependency_graph(directory.path());
    let demo = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["demo", "--quick"])
        .env("TMPDIR", directory.path())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", jaeger.grpc))
        .output()
        .unwrap();
    assert!(demo.status.success(), "{}", String::from_utf8_lossy(&demo.stderr));

    let traces = Trace::all(&jaeger, "payments");
    let mut whole = 0;
    for trace in traces.iter().filter(|trace| trace.problems().is_empty() && !trace.retried()) {
        trace.assert_calls();
        trace.assert_identities();
        whole += usize::from(trace.calls() == BTreeMap::from(CALLS.map(|call| (call, (1, 0)))));
    }
    let seen: Vec<_> = traces.iter().map(|trace| (trace.calls(), trace.problems())).collect();
    assert!(whole > 0, "none of {} traces is whole: {seen:#?}", traces.len());
    println!("{} traces of payments, {whole} whole, each with {} spans", traces.len(), CALLS.len() * 2);

    let dependencies: BTreeSet<_> = jaeger.dependencies().into_keys().collect();
    // That no CLIENT span is the parent of a SERVER span of its own service is `assert_calls`.
    // The shopper calls payments itself in the ninth check, who may call whom.
    let calls = CALLS.into_iter().chain([("shopper", "payments")]);
    assert_eq!(dependencies, calls.map(|(from, to)| (from.to_owned(), to.to_owned())).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rates_and_failures_equal_the_load() {
    let directory = tempfile::tempdir().unwrap();
    let service_graph = ServiceGraph::start(directory.path());
    let jaeger = Collector::start_forwarding(directory.path(), service_graph.otlp);
    let shop = Shop::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", jaeger.grpc))]).await;
    let (views, charged, declined) = (300, 75, 25);
    shop.load(views, charged, declined).await;
    shop.stop().await;
    let checkouts = charged + declined;
    let requests = views + checkouts;

    // The span metrics connector: who serves and who calls, how often, and how many failed.
    let expected = [
        ("shopper", "CLIENT", "", requests, declined),
        ("web", "SERVER", "", requests, declined),
        ("web", "CLIENT", "", requests, declined),
        ("cart", "SERVER", "", requests, declined),
        ("cart", "CLIENT", "", requests, 0),
        ("cart", "CLIENT", "outrigger.demo.v1.Payments/Charge", checkouts, declined),
        ("catalog", "SERVER", "", requests, 0),
        ("payments", "SERVER", "outrigger.demo.v1.Payments/Charge", checkouts, declined),
    ];
    let expected =
        expected.map(|(service, kind, rpc, calls, failed)| ((service, kind, rpc), (calls, failed)));
    let counted = |page: &str| {
        let mut calls = BTreeMap::<_, (usize, usize)>::new();
        for (labels, count) in admin::series(page, "traces_span_metrics_calls_total") {
            let label = |name| labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value);
            let kind = label("span_kind").trim_start_matches("SPAN_KIND_").to_owned();
            let key = (label("service_name").to_owned(), kind, label("rpc_method").to_owned());
            let entry = calls.entry(key).or_default();
            entry.0 += count as usize;
            entry.1 += if label("status_code") == "STATUS_CODE_ERROR" { count as usize } else { 0 };
        }
        calls
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let measured = loop {
        let measured = counted(&jaeger.span_metrics());
        let all = expected.iter().map(|(_, (calls, _))| calls).sum::<usize>();
        if measured.values().map(|(calls, _)| calls).sum::<usize>() >= all || Instant::now() > deadline {
            break measured;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    println!("span metrics: {measured:?}");
    assert_eq!(measured.len(), expected.len(), "{measured:#?}");
    for ((service, kind, rpc), (calls, failed)) in expected {
        let key = (service.to_owned(), kind.to_owned(), rpc.to_owned());
        let measured = measured.get(&key).unwrap_or_else(|| panic!("no {key:?}: {measured:#?}"));
        assert!(near(measured.0, calls) && near(measured.1, failed), "{key:?}: {measured:?}");
    }

    // Every trace is whole, and each call in it stands between two services.
    let traces = Trace::all(&jaeger, "shopper");
    assert!(near(traces.len(), requests), "{} traces", traces.len());
    for trace in &traces {
        assert_eq!(trace.problems(), Vec::<String>::new());
        trace.assert_calls();
    }

    // The service graph connector: who calls whom, how often, and how many failed.
    let all = requests * 3 + checkouts;
    let graph = loop {
        let graph = service_graph.requests();
        if graph.values().map(|(calls, _)| calls).sum::<usize>() >= all || Instant::now() > deadline {
            break graph;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    println!("service graph: {graph:?}");
    assert_eq!(graph.len(), CALLS.len(), "{graph:#?}");
    let dependencies = jaeger.dependencies();
    for ((from, to), (calls, failed)) in [
        (CALLS[0], (requests, declined)),
        (CALLS[1], (requests, declined)),
        (CALLS[2], (requests, 0)),
        (CALLS[3], (checkouts, declined)),
    ] {
        let key = (from.to_owned(), to.to_owned());
        assert!(near(graph[&key].0, calls) && near(graph[&key].1, failed), "{key:?}: {graph:?}");
        assert!(near(dependencies[&key] as usize, calls), "{dependencies:?}");
    }
}

/// Whether `measured` is within 2 % of `expected`.
fn near(measured: usize, expected: usize) -> bool {
    measured.abs_diff(expected) * 50 <= expected
}

/// One span as Jaeger's query API shows it.
#[derive(Debug)]
struct Span {
    service: String,
    parent: Option<String>,
    tags: BTreeMap<String, String>,
}

impl Span {
    fn tag(&self, key: &str) -> &str {
        self.tags.get(key).map_or("", String::as_str)
    }

    fn is(&self, kind: &str) -> bool {
        self.tag("span.kind") == kind
    }
}

struct Trace {
    spans: BTreeMap<String, Span>,
}

impl Trace {
    /// Every trace with a span of `service`.
    fn all(jaeger: &Collector, service: &str) -> Vec<Self> {
        jaeger.traces(service).iter().map(Self::read).collect()
    }

    fn read(trace: &Value) -> Self {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let spans = trace["spans"].as_array().unwrap().iter().map(|span| {
            let process = &trace["processes"][span["processID"].as_str().unwrap()];
            let references = span["references"].as_array().cloned().unwrap_or_default();
            let tags = span["tags"].as_array().cloned().unwrap_or_default();
            let parent = references.iter().find(|reference| reference["refType"] == "CHILD_OF");
            let read = Span {
                service: text(&process["serviceName"]),
                parent: parent.map(|reference| text(&reference["spanID"])),
                tags: tags.iter().map(|tag| (text(&tag["key"]), text(&tag["value"]))).collect(),
            };
            (text(&span["spanID"]), read)
        });
        Self { spans: spans.collect() }
    }

    /// Each span that has a parent in this trace, below it.
    fn links(&self) -> impl Iterator<Item = (&Span, &Span)> {
        self.spans.values().filter_map(|span| Some((self.spans.get(span.parent.as_ref()?)?, span)))
    }

    /// Returns the problems: no root or several, and spans whose parents are missing.
    fn problems(&self) -> Vec<String> {
        let roots = self.spans.values().filter(|span| span.parent.is_none()).count();
        let missing = |id: &String| !self.spans.contains_key(id);
        let orphans = self.spans.iter().filter(|(_, span)| span.parent.as_ref().is_some_and(missing));
        let mut problems: Vec<_> =
            orphans.map(|(id, span)| format!("{id} of {} is an orphan", span.service)).collect();
        if roots != 1 {
            problems.push(format!("{roots} roots"));
        }
        problems
    }

    fn retried(&self) -> bool {
        self.spans.values().any(|span| span.tags.contains_key("http.request.resend_count"))
    }

    /// Returns how often a service called another, and how many of these calls failed.
    fn calls(&self) -> BTreeMap<(&str, &str), (usize, usize)> {
        let mut calls = BTreeMap::<_, (usize, usize)>::new();
        for (parent, span) in self.links().filter(|(parent, span)| parent.is("client") && span.is("server")) {
            let entry = calls.entry((parent.service.as_str(), span.service.as_str())).or_default();
            entry.0 += 1;
            entry.1 += usize::from(parent.tag("error") == "true" || span.tag("error") == "true");
        }
        calls
    }

    /// Client and server spans alternate from the root to the leaves, calls go to another service, and what a service calls while
    /// it serves is below the span of what it serves.
    fn assert_calls(&self) {
        for (parent, span) in self.links() {
            let kinds = (parent.tag("span.kind"), span.tag("span.kind"));
            match kinds {
                ("client", "server") => assert_ne!(parent.service, span.service, "{parent:?} {span:?}"),
                ("server", "client") => assert_eq!(parent.service, span.service, "{parent:?} {span:?}"),
                _ => panic!("{kinds:?}: {parent:?} {span:?}"),
            }
        }
    }

    /// Both spans of each call name both identities.
    fn assert_identities(&self) {
        for (parent, span) in self.links().filter(|(parent, _)| parent.is("client")) {
            let id = |account: &str| format!("spiffe://cluster.local/ns/shop/sa/{account}");
            for one in [parent, span] {
                assert_eq!(one.tag("outrigger.source.spiffe_id"), id(&parent.service));
                assert_eq!(one.tag("outrigger.destination.spiffe_id"), id(&span.service));
            }
        }
    }
}
