//! Counters of the data path: each written by one worker, read by scrapes.
//!
//! Every worker owns one [`WorkerMetrics`], which no other thread writes, so a count is a plain load and store of a
//! relaxed atomic. [`Registry::totals`] merges all workers on a scrape. Handles ([`RequestSeries`],
//! [`ClusterSeries`]) are resolved once and kept by connections and clusters. Label values are capped: what comes
//! after [`MAX_SERIES`] is counted under the name [`OTHER`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::HashMap;
use outrigger_core::Name;
use outrigger_core::reason::Reason;
use outrigger_core::record::{Direction, Protocol};

/// How many request series one worker keeps before further label values are folded into [`OTHER`].
pub const MAX_SERIES: usize = 4096;

/// The label value that stands for all values above the cap.
pub const OTHER: &str = "other";

/// Upper bounds of the duration histogram's buckets, in microseconds; one more bucket holds what is above.
pub const DURATION_BUCKETS_MICROS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// All workers' metrics; belongs to the process.
#[derive(Debug, Default)]
pub struct Registry {
    workers: Mutex<Vec<Arc<WorkerMetrics>>>,
}

impl Registry {
    /// A registry without workers.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Metrics for one more worker, kept for the life of the process so that its counts never fall.
    pub fn worker(&self) -> Arc<WorkerMetrics> {
        let metrics = Arc::new(WorkerMetrics::default());
        locked(&self.workers).push(Arc::clone(&metrics));
        metrics
    }

    /// What all workers do, now. Cheaper than [`Registry::totals`].
    pub fn activity(&self) -> Activity {
        let mut activity = Activity::default();
        for worker in locked(&self.workers).iter() {
            let process = &worker.process;
            activity.under_way += process.in_flight.value();
            activity.begun += process.begun.value() + process.downstream_connections_total.value();
        }
        activity
    }

    /// The sums of what has no labels, now: cheap.
    pub fn process(&self) -> ProcessTotals {
        let mut totals = ProcessTotals::default();
        locked(&self.workers).iter().for_each(|worker| worker.process.add_to(&mut totals));
        totals
    }

    /// The sums over all workers, now. Takes each worker's lock briefly; workers take it only to add a series.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for worker in locked(&self.workers).iter() {
            worker.add_to(&mut totals);
        }
        totals
    }
}

/// Whether anything happens: what is under way, and how much has begun so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    /// Requests and TCP connections being served.
    pub under_way: u64,
    /// Requests, TCP connections and accepted connections so far.
    pub begun: u64,
}

/// One worker's metrics. Only that worker writes.
#[derive(Debug, Default)]
pub struct WorkerMetrics {
    /// Counts that have no labels.
    pub process: ProcessCounters,
    requests: Mutex<HashMap<RequestLabels, Arc<RequestSeries>>>,
    clusters: Mutex<HashMap<Name, Arc<ClusterSeries>>>,
    ejections: Mutex<HashMap<(Name, &'static str), u64>>,
}

impl WorkerMetrics {
    /// The series for these labels, made if new. Costs a lock that only a scrape contends for, and a hash of the
    /// labels: keep the handle.
    pub fn requests(&self, labels: &RequestLabels) -> Arc<RequestSeries> {
        let mut series = locked(&self.requests);
        if let Some(found) = series.get(labels) {
            return Arc::clone(found);
        }
        let labels = if series.len() < MAX_SERIES { labels.clone() } else { labels.folded() };
        Arc::clone(series.entry(labels).or_default())
    }

    /// The series of a cluster, made if new.
    pub fn cluster(&self, cluster: &Name) -> Arc<ClusterSeries> {
        let mut series = locked(&self.clusters);
        if let Some(found) = series.get(cluster) {
            return Arc::clone(found);
        }
        let name = if series.len() < MAX_SERIES { Arc::clone(cluster) } else { OTHER.into() };
        Arc::clone(series.entry(name).or_default())
    }

    /// Counts an ejection of an endpoint of `cluster`. They are rare enough for a lock.
    pub fn ejected(&self, cluster: &Name, kind: &'static str) {
        let mut ejections = locked(&self.ejections);
        let name = if ejections.len() < MAX_SERIES { Arc::clone(cluster) } else { OTHER.into() };
        *ejections.entry((name, kind)).or_default() += 1;
    }

    fn add_to(&self, totals: &mut Totals) {
        self.process.add_to(&mut totals.process);
        for (labels, series) in locked(&self.requests).iter() {
            series.add_to(totals.requests.entry(labels.clone()).or_default());
        }
        for (name, series) in locked(&self.clusters).iter() {
            series.add_to(totals.clusters.entry(Arc::clone(name)).or_default());
        }
        for (of, count) in locked(&self.ejections).iter() {
            *totals.ejections.entry(of.clone()).or_default() += count;
        }
    }
}

/// What a request series is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestLabels {
    /// Inbound or outbound.
    pub direction: Direction,
    /// The caller's identity as a SPIFFE ID, where it is known.
    pub source: Option<Name>,
    /// The destination's canonical name.
    pub destination: Option<Name>,
    /// The route.
    pub route: Option<Name>,
    /// How the client spoke.
    pub protocol: Protocol,
    /// HTTP status, 0 for TCP and where none was sent.
    pub status: u16,
    /// Why the response is not simply the application's.
    pub reason: Option<Reason>,
}

impl RequestLabels {
    /// The same labels with [`OTHER`] for every value that strangers can choose.
    fn folded(&self) -> Self {
        let other = |value: &Option<Name>| value.as_ref().map(|_| Name::from(OTHER));
        Self {
            source: other(&self.source),
            destination: other(&self.destination),
            route: other(&self.route),
            ..self.clone()
        }
    }
}

/// A count that only rises, or a gauge; written by one thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. A load and a store: exact because one thread writes.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Takes one away, for gauges.
    pub fn decrement(&self) {
        self.0.store(self.0.load(Relaxed).saturating_sub(1), Relaxed);
    }

    /// The value, from any thread.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident, $totals:ident { $($(#[$field_doc:meta])* $field:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name { $($(#[$field_doc])* pub $field: Counter,)* }

        #[doc = concat!("Sums of [`", stringify!($name), "`] over all workers.")]
        #[derive(Debug, Default, Clone, PartialEq, Eq)]
        pub struct $totals { $($(#[$field_doc])* pub $field: u64,)* }

        impl $name {
            fn add_to(&self, totals: &mut $totals) {
                $(totals.$field += self.$field.value();)*
            }
        }
    };
}

counters! {
    /// Counts of a worker that have no labels.
    ProcessCounters, ProcessTotals {
        /// Gauge: requests and TCP connections that are being served.
        in_flight,
        /// Requests and TCP connections that were begun.
        begun,
        /// Gauge: accepted connections that are open.
        downstream_connections,
        /// Accepted connections.
        downstream_connections_total,
        /// TLS handshakes with clients that succeeded.
        downstream_tls_ok,
        /// TLS handshakes with clients that failed.
        downstream_tls_failed,
        /// Connections refused because a limit was reached.
        downstream_connections_refused,
        /// Calls of `accept` that failed.
        accept_errors,
        /// Request bodies that were longer than is kept of one for another attempt.
        bodies_beyond_limit,
        /// Request bodies that were not kept because the worker keeps so much already.
        bodies_beyond_worker,
        /// Records that the access log did not take in time.
        log_records_dropped,
        /// Records that the exporter of the access log did not take in time.
        otlp_log_records_dropped,
        /// Records that the span exporter did not take in time.
        span_records_dropped,
        /// Copies of requests that were sent whole and answered.
        mirrored,
        /// Copies of requests that failed at their receiver.
        mirrors_failed,
        /// Copies of requests that were not sent, or not whole: they fell behind, or the request broke off.
        mirrors_dropped,
    }
}

counters! {
    /// Counts of a worker about one cluster.
    ClusterSeries, ClusterTotals {
        /// Attempts begun.
        attempts,
        /// Attempts after the first.
        retries,
        /// Requests that could have been retried safely, but for which the retry budget had no capacity.
        budget_exhausted,
        /// Requests refused because a bound was reached.
        overflow,
        /// Gauge: connections that are open or being made.
        connections_open,
        /// Gauge: those that carry at least one request, or opaque bytes.
        connections_active,
        /// Gauge: those that carry none.
        connections_idle,
        /// Gauge: requests that wait for a connection.
        pending,
        /// Connections made.
        connections_total,
        /// Connection attempts that failed.
        connect_failed,
        /// TLS handshakes that succeeded.
        tls_ok,
        /// TLS handshakes that failed, wrong identities included.
        tls_failed,
    }
}

/// Requests of one set of labels.
#[derive(Debug, Default)]
pub struct RequestSeries {
    count: Counter,
    duration_micros: Counter,
    buckets: [Counter; DURATION_BUCKETS_MICROS.len() + 1],
    bytes_received: Counter,
    bytes_sent: Counter,
}

impl RequestSeries {
    /// Counts one finished request.
    pub fn finished(&self, duration: Duration, bytes_received: u64, bytes_sent: u64) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.count.increment();
        self.duration_micros.add(micros);
        self.buckets[DURATION_BUCKETS_MICROS.partition_point(|bound| *bound < micros)].increment();
        self.bytes_received.add(bytes_received);
        self.bytes_sent.add(bytes_sent);
    }

    fn add_to(&self, totals: &mut RequestTotals) {
        totals.count += self.count.value();
        totals.duration_micros += self.duration_micros.value();
        for (total, bucket) in totals.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.value();
        }
        totals.bytes_received += self.bytes_received.value();
        totals.bytes_sent += self.bytes_sent.value();
    }
}

/// The sums over all workers at one moment.
#[derive(Debug, Default, Clone)]
pub struct Totals {
    /// Counts without labels.
    pub process: ProcessTotals,
    /// Requests by labels.
    pub requests: BTreeMap<RequestLabels, RequestTotals>,
    /// Upstream counts by cluster.
    pub clusters: BTreeMap<Name, ClusterTotals>,
    /// Ejections of endpoints by cluster and kind.
    pub ejections: BTreeMap<(Name, &'static str), u64>,
}

/// Requests of one set of labels, over all workers.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RequestTotals {
    /// How many finished.
    pub count: u64,
    /// The sum of their durations, in microseconds.
    pub duration_micros: u64,
    /// How many were at most as long as each bound of [`DURATION_BUCKETS_MICROS`] and longer than the one before
    /// (not cumulative); the last holds the rest.
    pub buckets: [u64; DURATION_BUCKETS_MICROS.len() + 1],
    /// Body bytes read from clients.
    pub bytes_received: u64,
    /// Body bytes sent to clients.
    pub bytes_sent: u64,
}

/// A poisoned lock guards counters only: what a panicking thread left is still a valid map.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(route: usize) -> RequestLabels {
        RequestLabels {
            direction: Direction::Outbound,
            source: None,
            destination: Some("cart.shop.svc.cluster.local:80".into()),
            route: Some(format!("httproute/shop/{route}").into()),
            protocol: Protocol::Http11,
            status: 200,
            reason: None,
        }
    }

    #[test]
    fn a_scrape_sees_the_sum_of_all_workers() {
        let registry = Registry::new();
        for _ in 0..2 {
            let worker = registry.worker();
            worker.requests(&labels(1)).finished(Duration::from_millis(3), 10, 20);
            worker.cluster(&"cart".into()).attempts.increment();
            worker.process.in_flight.increment();
        }
        let totals = registry.totals();
        let requests = &totals.requests[&labels(1)];
        assert_eq!((requests.count, requests.bytes_received, requests.bytes_sent), (2, 20, 40));
        assert_eq!(requests.buckets[3], 2, "3 ms lies in the bucket up to 5 ms");
        assert_eq!((totals.clusters["cart"].attempts, totals.process.in_flight), (2, 2));
    }

    #[test]
    fn invented_label_values_fold_into_one_series() {
        let registry = Registry::new();
        let worker = registry.worker();
        for route in 0..MAX_SERIES + 100 {
            worker.requests(&labels(route)).finished(Duration::ZERO, 0, 0);
        }
        let totals = registry.totals();
        assert_eq!(totals.requests.len(), MAX_SERIES + 1);
        let folded = totals.requests.iter().find(|(labels, _)| labels.route.as_deref() == Some(OTHER));
        assert_eq!(folded.unwrap().1.count, 100);
    }
}
