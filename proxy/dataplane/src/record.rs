//! Where finished requests go: counters at once, the access log and the span exporter through bounded channels.
//!
//! One [`Recorder`] belongs to one worker. It never waits: a sink that is full loses the record, and the loss is
//! counted. Whether anyone will read a record's text is asked once, when the request begins.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_core::Name;
use outrigger_core::record::RequestRecord;
use tokio::sync::mpsc;

use crate::metrics::{RequestLabels, RequestSeries, WorkerMetrics};

/// The far ends of telemetry, shared by all workers: cloning clones the senders.
#[derive(Debug, Clone, Default)]
pub struct Sinks {
    /// Takes every finished request, for the access log.
    pub log: Option<mpsc::Sender<Arc<RequestRecord>>>,
    /// Takes every finished request, for the access log by OTLP.
    pub otlp_log: Option<mpsc::Sender<Arc<RequestRecord>>>,
    /// Takes every sampled request, for spans.
    pub spans: Option<mpsc::Sender<Arc<RequestRecord>>>,
}

/// Takes finished requests of one worker. Cloning shares it within the worker.
#[derive(Debug, Clone)]
pub(crate) struct Recorder(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: Arc<WorkerMetrics>,
    sinks: Sinks,
    /// The series of the request before: a sidecar sees the same labels again and again.
    last: RefCell<Option<(RequestLabels, Arc<RequestSeries>)>>,
    /// SPIFFE IDs as label values, so that a request does not copy its source's name.
    sources: RefCell<foldhash::HashMap<Box<str>, Name>>,
}

impl Recorder {
    /// A recorder that counts in `metrics` and sends to `sinks`.
    pub(crate) fn new(metrics: Arc<WorkerMetrics>, sinks: Sinks) -> Self {
        Self(Rc::new(Inner { metrics, sinks, last: RefCell::default(), sources: RefCell::default() }))
    }

    /// This worker's counters.
    pub(crate) fn metrics(&self) -> &Arc<WorkerMetrics> {
        &self.0.metrics
    }

    /// Returns whether the text and the attempts of a request will be read: by an access log, or the span exporter if the
    /// request is sampled.
    pub(crate) fn wants_text(&self, sampled: bool) -> bool {
        let Sinks { log, otlp_log, spans } = &self.0.sinks;
        log.is_some() || otlp_log.is_some() || (sampled && spans.is_some())
    }

    /// Takes a finished request or connection.
    pub(crate) fn finish(&self, record: RequestRecord) {
        self.count(&record);
        let sampled = record.trace.as_ref().is_some_and(|trace| trace.sampled);
        if record.text.is_none() || !self.wants_text(sampled) {
            return;
        }
        let process = &self.0.metrics.process;
        let record = Arc::new(record);
        if let Some(log) = &self.0.sinks.log
            && log.try_send(Arc::clone(&record)).is_err()
        {
            process.log_records_dropped.increment();
        }
        if let Some(log) = &self.0.sinks.otlp_log
            && log.try_send(Arc::clone(&record)).is_err()
        {
            process.otlp_log_records_dropped.increment();
        }
        if let Some(spans) = self.0.sinks.spans.as_ref().filter(|_| sampled)
            && spans.try_send(record).is_err()
        {
            process.span_records_dropped.increment();
        }
    }

    fn count(&self, record: &RequestRecord) {
        let labels = RequestLabels {
            direction: record.direction,
            source: record.source.as_ref().map(|id| self.source(id.as_str())),
            destination: record.destination.clone(),
            route: record.route.clone(),
            protocol: record.protocol,
            status: record.status,
            reason: record.reason,
        };
        let mut last = self.0.last.borrow_mut();
        let series = match &*last {
            Some((seen, series)) if *seen == labels => Arc::clone(series),
            _ => {
                let series = self.0.metrics.requests(&labels);
                *last = Some((labels, Arc::clone(&series)));
                series
            }
        };
        series.finished(record.duration, record.bytes_received, record.bytes_sent);
    }

    fn source(&self, id: &str) -> Name {
        let mut sources = self.0.sources.borrow_mut();
        if let Some(name) = sources.get(id) {
            return Arc::clone(name);
        }
        let name = Name::from(id);
        if sources.len() < crate::metrics::MAX_SERIES {
            sources.insert(id.into(), Arc::clone(&name));
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use outrigger_core::record::{Direction, Protocol, Text};

    use super::*;
    use crate::metrics::Registry;

    fn record(text: bool) -> RequestRecord {
        RequestRecord {
            started: SystemTime::UNIX_EPOCH,
            duration: Duration::from_millis(1),
            listener: "outbound".into(),
            direction: Direction::Outbound,
            protocol: Protocol::Http11,
            status: 200,
            grpc_status: None,
            reason: None,
            source: None,
            client: ([127, 0, 0, 1], 1).into(),
            tls: None,
            destination: None,
            route: None,
            route_template: None,
            bytes_received: 0,
            bytes_sent: 0,
            until_first_attempt: Duration::ZERO,
            upstream: None,
            attempts: Vec::new(),
            trace: None,
            text: text.then(Box::<Text>::default),
        }
    }

    #[test]
    fn a_full_log_loses_records_and_counts_them() {
        let registry = Registry::new();
        let (log, mut lines) = mpsc::channel(1);
        let recorder = Recorder::new(registry.worker(), Sinks { log: Some(log), ..Sinks::default() });
        recorder.finish(record(true));
        recorder.finish(record(true));
        assert!(lines.try_recv().is_ok());
        let totals = registry.totals();
        assert_eq!(totals.process.log_records_dropped, 1);
        assert_eq!(totals.requests.values().map(|series| series.count).sum::<u64>(), 2);
    }

    #[test]
    fn without_a_reader_no_text_is_rendered() {
        let recorder = Recorder::new(Registry::new().worker(), Sinks::default());
        assert!(!recorder.wants_text(true));
    }
}
