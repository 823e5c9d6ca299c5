//! Where finished requests go: counters at once, the access log and the span exporter through bounded channels.
//!
//! One [`Recorder`] belongs to one worker. It never waits: a sink that is full loses the record, and the loss is
//! counted. Whether a record's text will be read is decided once, when the request begins.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_core::metrics::Exemplar;
use outrigger_core::record::{Direction, RequestRecord};
use tokio::sync::mpsc;

use crate::metrics::{ResponseLabels, ResponseSeries, WorkerMetrics};

/// The far ends of telemetry, shared by all workers: cloning clones the senders.
#[derive(Debug, Clone, Default)]
pub struct Sinks {
    /// Receives every finished request, for the access log.
    pub log: Option<mpsc::Sender<Arc<RequestRecord>>>,
    /// Receives every finished request, for the access log by OTLP.
    pub otlp_log: Option<mpsc::Sender<Arc<RequestRecord>>>,
    /// Receives every sampled request, for spans.
    pub spans: Option<mpsc::Sender<Arc<RequestRecord>>>,
}

/// Takes finished requests of one worker. Cloning shares it within the worker.
#[derive(Debug, Clone)]
pub(crate) struct Recorder(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: Arc<WorkerMetrics>,
    sinks: Sinks,
    /// The series of the request before, for each direction: a sidecar sees the same labels again and again.
    last: RefCell<[LastSeries; 3]>,
}

type LastSeries = Option<(ResponseLabels, Arc<ResponseSeries>)>;

impl Recorder {
    /// A recorder that counts in `metrics` and sends to `sinks`.
    pub(crate) fn new(metrics: Arc<WorkerMetrics>, sinks: Sinks) -> Self {
        Self(Rc::new(Inner { metrics, sinks, last: RefCell::default() }))
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

    /// Returns whether spans are exported.
    pub(crate) fn exports_spans(&self) -> bool {
        self.0.sinks.spans.is_some()
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
        let last = &mut self.0.last.borrow_mut()[record.direction as usize];
        if !last.as_ref().is_some_and(|(labels, _)| labels.is_of(record)) {
            let labels = ResponseLabels::of(record);
            let series = self.0.metrics.responses(&labels);
            *last = Some((labels, series));
        }
        self.0.metrics.denied(record);
        if let Some((_, series)) = last {
            let RequestRecord { duration, bytes_received, bytes_sent, .. } = *record;
            series.finished(duration, bytes_received, bytes_sent, self.exemplar(record));
        }
    }

    /// Returns the exemplar of a request whose spans are exported.
    fn exemplar(&self, record: &RequestRecord) -> Option<Exemplar> {
        self.0.sinks.spans.as_ref()?;
        let trace = record.trace.filter(|trace| trace.sampled)?;
        let attempt = record.attempts.last().and_then(|attempt| attempt.span);
        let span = match record.direction {
            Direction::Outbound => attempt.unwrap_or(trace.span),
            Direction::Inbound | Direction::Unspecified => trace.span,
        };
        let (value, time) = (record.duration.as_secs_f64(), record.started + record.duration);
        Some(Exemplar { trace: trace.trace, span, value, time })
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::time::{Duration, SystemTime};

    use outrigger_core::record::{Direction, Protocol, RequestRecord};

    /// A request to `cart`, answered with 200.
    pub(crate) fn record() -> RequestRecord {
        RequestRecord {
            started: SystemTime::UNIX_EPOCH,
            duration: Duration::from_millis(1),
            listener: "outbound".into(),
            direction: Direction::Outbound,
            protocol: Protocol::Http11,
            status: 200,
            grpc_status: None,
            reason: None,
            authorization: None,
            source: None,
            client: ([127, 0, 0, 1], 1).into(),
            tls: None,
            destination: Some("cart.shop.svc.cluster.local:80".into()),
            route: None,
            route_template: None,
            bytes_received: 0,
            bytes_sent: 0,
            until_first_attempt: Duration::ZERO,
            upstream: None,
            attempts: Vec::new(),
            trace: None,
            text: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use outrigger_core::record::{Text, Upstream};
    use outrigger_core::trace::{SpanId, TraceContext, TraceId};

    use super::*;
    use crate::metrics::{Registry, Totals};

    fn record(text: bool) -> RequestRecord {
        RequestRecord { text: text.then(Box::<Text>::default), ..testing::record() }
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
        assert_eq!(totals.responses.into_values().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn requests_with_other_labels_are_counted_apart() {
        let registry = Registry::new();
        let recorder = Recorder::new(registry.worker(), Sinks::default());
        let v1 = Upstream { cluster: "cart-v1".into(), connected: true, peer: None, tls: None };
        let v2 = Upstream { cluster: "cart-v2".into(), ..v1.clone() };
        for upstream in [&v1, &v2, &v1] {
            recorder.finish(RequestRecord { upstream: Some(upstream.clone()), ..record(false) });
        }
        recorder.finish(RequestRecord { direction: Direction::Inbound, ..record(false) });
        recorder.finish(RequestRecord { upstream: Some(v1), status: 201, ..record(false) });
        let Totals { responses, requests, .. } = registry.totals();
        let counts = |backend: Option<&str>| -> Vec<u64> {
            let of = responses.iter().filter(|(labels, _)| labels.request.backend.as_deref() == backend);
            of.map(|(_, count)| *count).collect()
        };
        assert_eq!(
            (counts(None), counts(Some("cart-v1")), counts(Some("cart-v2"))),
            (vec![1], vec![2, 1], vec![1])
        );
        assert_eq!(requests.len(), 3, "200 and 201 are one class");
    }

    #[test]
    fn only_a_request_whose_spans_are_exported_is_an_exemplar() {
        let trace = TraceContext {
            trace: TraceId::new(7).unwrap(),
            span: SpanId::new(8).unwrap(),
            parent: None,
            sampled: true,
        };
        let exemplars = |spans: Option<mpsc::Sender<Arc<RequestRecord>>>, sampled| {
            let registry = Registry::new();
            let recorder = Recorder::new(registry.worker(), Sinks { spans, ..Sinks::default() });
            recorder.finish(RequestRecord { trace: Some(TraceContext { sampled, ..trace }), ..record(true) });
            let [requests] = &registry.totals().requests.into_values().collect::<Vec<_>>()[..] else {
                panic!("one request has one series");
            };
            requests.durations().buckets.iter().filter_map(|bucket| bucket.exemplar).collect::<Vec<_>>()
        };
        let (spans, _taken) = mpsc::channel(1);
        let found = exemplars(Some(spans.clone()), true);
        assert_eq!((found.len(), found[0].trace, found[0].span), (1, trace.trace, trace.span));
        assert!(exemplars(Some(spans), false).is_empty());
        assert!(exemplars(None, true).is_empty());
    }

    #[test]
    fn without_a_reader_no_text_is_rendered() {
        let recorder = Recorder::new(Registry::new().worker(), Sinks::default());
        assert!(!recorder.wants_text(true));
    }
}
