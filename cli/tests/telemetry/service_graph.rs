//! An OpenTelemetry Collector with the service graph connector (`tests/programs/collector`).

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outrigger::{admin, ports};

use crate::collector::get;

/// Killed when dropped.
pub(crate) struct ServiceGraph {
    process: Child,
    /// OTLP over gRPC.
    pub(crate) otlp: SocketAddr,
    metrics: SocketAddr,
}

impl ServiceGraph {
    /// Starts it on free ports, with its files in `directory`.
    pub(crate) fn start(directory: &Path) -> Self {
        let program = std::env::var("OUTRIGGER_COLLECTOR").expect("OUTRIGGER_COLLECTOR: run tests/heavier");
        let [otlp, metrics] = ports::free().unwrap();
        let config = directory.join("service-graph.yaml");
        std::fs::write(&config, configuration(otlp, metrics)).unwrap();
        let log = directory.join("service-graph.log");
        let output = std::fs::File::create(&log).unwrap();
        let process = Command::new(program)
            .arg("--config")
            .arg(format!("file:{}", config.display()))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let graph = Self { process, otlp, metrics };
        let deadline = Instant::now() + Duration::from_secs(30);
        while [otlp, metrics].iter().any(|port| TcpStream::connect(port).is_err()) {
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(Instant::now() < deadline, "the collector did not start: {}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
        graph
    }

    /// Returns how many requests each service made to each, and how many of them failed.
    pub(crate) fn requests(&self) -> BTreeMap<(String, String), (usize, usize)> {
        let page = get(self.metrics, "/metrics", "*/*").1;
        let mut requests = BTreeMap::<_, (usize, usize)>::new();
        for (metric, failed) in [
            ("traces_service_graph_request_total", false),
            ("traces_service_graph_request_failed_total", true),
        ] {
            for (labels, count) in admin::series(&page, metric) {
                let label = |name| {
                    let found = labels.iter().find(|(label, _)| *label == name);
                    found.map_or(String::new(), |(_, value)| (*value).to_owned())
                };
                let entry = requests.entry((label("client"), label("server"))).or_default();
                *(if failed { &mut entry.1 } else { &mut entry.0 }) += count as usize;
            }
        }
        requests
    }
}

impl Drop for ServiceGraph {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn configuration(otlp: SocketAddr, metrics: SocketAddr) -> String {
    format!(
        "service:
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [servicegraph]
    metrics:
      receivers: [servicegraph]
      exporters: [prometheus]
  telemetry:
    metrics:
      level: none
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: {otlp}
connectors:
  servicegraph:
    store: {{ttl: 30s, max_items: 100000}}
    metrics_flush_interval: 1s
exporters:
  prometheus:
    endpoint: {metrics}
"
    )
}
