//! The metrics of both daemons in both formats: `promtool` finds no fault with the text format, and the OpenMetrics parser of
//! Prometheus' Python client reads the other.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::collector::{Collector, get};
use crate::shop::Shop;

/// Prints the numbers of families, samples and exemplars, and fails if the page is not OpenMetrics.
const PARSER: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.read()))
samples = [sample for family in families for sample in family.samples]
traces = [sample.exemplar.labels['trace_id'] for sample in samples if sample.exemplar]
print(len(families), len(samples), len(traces), *sorted(set(traces)))
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_daemons_answer_the_text_format_and_openmetrics() {
    let directory = tempfile::tempdir().unwrap();
    let jaeger = Collector::start(directory.path());
    let shop = Shop::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", jaeger.grpc))]).await;
    shop.load(30, 10, 10).await;
    let mut daemons: Vec<_> = shop.sidecars().collect();
    daemons.push(("control plane", shop.control_plane_admin));
    let mut exemplars = Vec::new();
    for (name, admin) in daemons {
        let text = page(admin, "text/plain;version=0.0.4", "text/plain; version=0.0.4");
        let lint = run(Command::new(program("PROMTOOL")).args(["check", "metrics"]), &text);
        assert_eq!(lint, "", "promtool on {name}");
        let open = page(
            admin,
            "application/openmetrics-text;version=1.0.0",
            "application/openmetrics-text; version=1.0.0",
        );
        let read = run(Command::new(program("OPENMETRICS")).args(["-c", PARSER]), &open);
        let mut words = read.split_whitespace().map(str::to_owned);
        let [families, samples, with_exemplar] = [(); 3].map(|()| words.next().unwrap());
        println!(
            "{name}: {} bytes of text, {} of OpenMetrics, {families} families, {samples} series, {with_exemplar} exemplars",
            text.len(),
            open.len(),
        );
        exemplars.extend(words);
    }
    shop.stop().await;
    // An exemplar leads to its trace.
    assert!(!exemplars.is_empty());
    let known = jaeger.trace_ids("shopper");
    assert!(exemplars.iter().all(|trace| known.contains(trace)), "{exemplars:?}");
}

/// Returns the metrics at `admin` for the header `Accept: {accept}`, which must be of `kind`.
fn page(admin: SocketAddr, accept: &str, kind: &str) -> String {
    let (head, body) = get(admin, "/metrics", accept);
    assert!(head.to_ascii_lowercase().contains(&format!("content-type: {kind}")), "{accept}: {head}");
    body
}

fn program(name: &str) -> String {
    std::env::var(format!("OUTRIGGER_{name}")).expect("run tests/heavier")
}

/// Runs a program with `input` and returns its output, with that of stderr. Panics if it fails.
fn run(command: &mut Command, input: &str) -> String {
    let piped = || Stdio::piped();
    let mut child = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
    // It reads everything before it writes.
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(output.status.success(), "{}: {text}\n{input}", output.status);
    text
}
