//! A real Jaeger gets the demo's spans, and its query API returns complete traces. Part of `tests/heavier`, which
//! builds Jaeger and sets `OUTRIGGER_JAEGER` to its path.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // helpers of tests

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

#[test]
fn jaeger_shows_every_hop_of_a_checkout() {
    let directory = tempfile::tempdir().unwrap();
    let jaeger = Jaeger::start(directory.path());
    let demo = Command::new(env!("CARGO_BIN_EXE_outrigger"))
        .args(["demo", "--quick"])
        .env("TMPDIR", directory.path())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", jaeger.otlp))
        .output()
        .unwrap();
    assert!(demo.status.success(), "{}", String::from_utf8_lossy(&demo.stderr));

    let services: BTreeSet<_> = ["shopper", "web", "cart", "catalog", "payments"].into();
    let known = jaeger.get("/api/services");
    let known: BTreeSet<_> = known["data"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(services.is_subset(&known), "Jaeger knows {known:?}");

    let answer = jaeger.get("/api/traces?service=payments&lookback=1h&limit=500");
    let traces: Vec<_> = answer["data"].as_array().unwrap().iter().map(Trace::read).collect();
    assert!(!traces.is_empty(), "no trace of payments");
    let whole = traces.iter().filter(|trace| trace.problems().is_empty() && trace.services() == services);
    let Some(trace) = whole.clone().max_by_key(|trace| trace.spans.len()) else {
        let problems: Vec<_> =
            traces.iter().take(5).map(|trace| (trace.services(), trace.problems())).collect();
        panic!("none of {} traces is whole: {problems:#?}", traces.len());
    };
    trace.assert_hops();
    println!("{} traces of payments, {} whole", traces.len(), whole.count());
}

/// One span as Jaeger's query API shows it.
struct Span {
    service: String,
    parents: Vec<String>,
    tags: BTreeMap<String, String>,
}

struct Trace {
    spans: BTreeMap<String, Span>,
}

impl Trace {
    fn read(trace: &Value) -> Self {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let spans = trace["spans"].as_array().unwrap().iter().map(|span| {
            let process = &trace["processes"][span["processID"].as_str().unwrap()];
            let references = span["references"].as_array().cloned().unwrap_or_default();
            let tags = span["tags"].as_array().cloned().unwrap_or_default();
            let read = Span {
                service: text(&process["serviceName"]),
                parents: references
                    .iter()
                    .filter(|reference| reference["refType"] == "CHILD_OF")
                    .map(|reference| text(&reference["spanID"]))
                    .collect(),
                tags: tags.iter().map(|tag| (text(&tag["key"]), text(&tag["value"]))).collect(),
            };
            (text(&span["spanID"]), read)
        });
        Self { spans: spans.collect() }
    }

    fn services(&self) -> BTreeSet<&str> {
        self.spans.values().map(|span| span.service.as_str()).collect()
    }

    /// Returns the problems: no root or several, and spans whose parents are missing.
    fn problems(&self) -> Vec<String> {
        let roots = self.spans.values().filter(|span| span.parents.is_empty()).count();
        let orphans =
            self.spans.iter().filter(|(_, span)| span.parents.iter().any(|id| !self.spans.contains_key(id)));
        let mut problems: Vec<_> =
            orphans.map(|(id, span)| format!("{id} of {} is an orphan", span.service)).collect();
        if roots != 1 {
            problems.push(format!("{roots} roots"));
        }
        problems
    }

    /// Every hop: a client span at the caller, whose child is a server span at the callee, both naming both identities.
    fn assert_hops(&self) {
        let expected: BTreeSet<_> =
            [("shopper", "web"), ("web", "cart"), ("cart", "catalog"), ("cart", "payments")].into();
        let mut seen = BTreeSet::new();
        for span in self.spans.values() {
            let Some(parent) = span.parents.first().and_then(|id| self.spans.get(id)) else { continue };
            let tag = |span: &Span, key: &str| span.tags.get(key).cloned().unwrap_or_default();
            if parent.service == span.service {
                continue;
            }
            assert_eq!(
                (tag(parent, "span.kind"), tag(span, "span.kind")),
                ("client".into(), "server".into())
            );
            let id = |account: &str| format!("spiffe://cluster.local/ns/shop/sa/{account}");
            for one in [parent, span] {
                assert_eq!(tag(one, "outrigger.source.spiffe_id"), id(&parent.service));
                assert_eq!(tag(one, "outrigger.destination.spiffe_id"), id(&span.service));
            }
            if span.service == "payments" {
                assert_eq!(tag(span, "rpc.system.name"), "grpc", "{:?}", span.tags);
                assert!(tag(span, "rpc.method").ends_with("/Charge"), "{:?}", span.tags);
            } else {
                assert_eq!(tag(span, "http.response.status_code"), "200");
            }
            seen.insert((parent.service.as_str(), span.service.as_str()));
        }
        assert_eq!(seen, expected);
    }
}

/// A Jaeger with its store in memory, on free ports. Killed when dropped.
struct Jaeger {
    process: Child,
    otlp: SocketAddr,
    query: SocketAddr,
}

impl Jaeger {
    fn start(directory: &Path) -> Self {
        let program = std::env::var("OUTRIGGER_JAEGER").expect("OUTRIGGER_JAEGER: run tests/heavier");
        let [otlp, query, query_grpc] = free_ports();
        let config = directory.join("jaeger.yaml");
        std::fs::write(&config, configuration(otlp, query, query_grpc)).unwrap();
        let log = std::fs::File::create(directory.join("jaeger.log")).unwrap();
        let process = Command::new(program)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let jaeger = Self { process, otlp, query };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(otlp).is_err() || TcpStream::connect(query).is_err() {
            let log = || std::fs::read_to_string(directory.join("jaeger.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "Jaeger did not start: {}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
        jaeger
    }

    fn get(&self, path: &str) -> Value {
        let mut stream = TcpStream::connect(self.query).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.query).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{path}: {head}\n{body}");
        serde_json::from_str(body).unwrap()
    }
}

impl Drop for Jaeger {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_ports<const N: usize>() -> [SocketAddr; N] {
    let sockets = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    sockets.map(|socket| socket.local_addr().unwrap())
}

fn configuration(otlp: SocketAddr, query: SocketAddr, query_grpc: SocketAddr) -> String {
    format!(
        "service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [jaeger_storage_exporter]
  telemetry:
    metrics:
      level: none
extensions:
  jaeger_storage:
    backends:
      memory:
        memory:
          max_traces: 100000
  jaeger_query:
    storage:
      traces: memory
    http:
      endpoint: {query}
    grpc:
      endpoint: {query_grpc}
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: {otlp}
exporters:
  jaeger_storage_exporter:
    trace_storage: memory
"
    )
}
