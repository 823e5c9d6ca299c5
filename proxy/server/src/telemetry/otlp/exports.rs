//! Several exports of one signal at a time, so that a collector's latency does not bound how many items are exported per second
//! (OTLP specification, "OTLP/gRPC Concurrent Requests").
//!
//! The memory is bounded by [`CONCURRENT`] batches, beside the queue. A collector that does not answer delays the next batch
//! until an export times out; the queue fills meanwhile, and what it refuses is counted.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::exporter::Exporter;

/// The maximum number of exports of a signal at a time.
const CONCURRENT: usize = 4;

/// The exports of one signal. Those under way are aborted when this is dropped.
#[derive(Debug)]
pub(crate) struct Exports {
    exporter: Arc<Exporter>,
    under_way: JoinSet<()>,
}

impl Exports {
    /// No export is under way yet.
    pub(crate) fn new(exporter: Exporter) -> Self {
        Self { exporter: Arc::new(exporter), under_way: JoinSet::new() }
    }

    /// Starts to export an encoded request of `count` items, when fewer than [`CONCURRENT`] exports are under way. Call it inside
    /// a runtime.
    pub(crate) async fn start(&mut self, request: Bytes, count: u64) {
        while self.under_way.try_join_next().is_some() {}
        if self.under_way.len() >= CONCURRENT {
            self.under_way.join_next().await;
        }
        let exporter = Arc::clone(&self.exporter);
        self.under_way.spawn(async move { exporter.export_encoded(request, count).await });
    }

    /// Waits for all exports.
    pub(crate) async fn finish(mut self) {
        while self.under_way.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::losses::Losses;
    use crate::telemetry::otlp::environment::Environment;
    use crate::telemetry::otlp::settings::Settings;
    use crate::telemetry::otlp::testing::{Answer, Collector};

    #[tokio::test]
    async fn a_slow_answer_delays_no_other_export_until_the_bound_is_reached() {
        let collector = Collector::start([Answer::Silence; CONCURRENT]).await;
        let endpoint = format!("http://{}", collector.authority);
        let environment = Environment::new([("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint)]);
        let settings = Settings::read(&environment, None, Some("web"), "web-1").unwrap();
        let losses = Arc::new(Losses::default());
        let exporter = Exporter::new(settings.traces.unwrap().0, Arc::clone(&losses));
        let mut exports = Exports::new(exporter);
        for _ in 0..CONCURRENT {
            exports.start(Bytes::new(), 1).await;
        }
        while collector.arrived().len() < CONCURRENT {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let one_more = tokio::time::timeout(Duration::from_millis(100), exports.start(Bytes::new(), 1)).await;
        assert!(one_more.is_err() && collector.arrived().len() == CONCURRENT, "it waits for another to end");
    }

    #[tokio::test]
    async fn all_exports_end_before_the_end() {
        let collector = Collector::start([]).await;
        let endpoint = format!("http://{}", collector.authority);
        let environment = Environment::new([("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), endpoint)]);
        let settings = Settings::read(&environment, None, Some("web"), "web-1").unwrap();
        let losses = Arc::new(Losses::default());
        let mut exports = Exports::new(Exporter::new(settings.traces.unwrap().0, Arc::clone(&losses)));
        for _ in 0..CONCURRENT * 3 {
            exports.start(Bytes::new(), 2).await;
        }
        exports.finish().await;
        let counts = losses.counts();
        assert_eq!((counts.spans_exported, counts.spans_lost), (CONCURRENT as u64 * 6, 0));
    }
}
