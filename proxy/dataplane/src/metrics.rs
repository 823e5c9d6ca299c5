//! Counters of the data path: each written by one worker, read by scrapes.
//!
//! Every worker owns one [`WorkerMetrics`], which no other thread writes, so a count is a plain load and store of a
//! relaxed atomic. [`Registry::totals`] merges all workers on a scrape. Handles ([`ResponseSeries`],
//! [`ClusterSeries`]) are resolved once and kept by connections and clusters. Label values are capped: what comes
//! after [`MAX_SERIES`] is counted under the name [`OTHER`].

mod denials;
mod requests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;
use outrigger_core::Name;
use outrigger_core::record::RequestRecord;

pub use self::denials::DenialLabels;
use self::denials::Denials;
pub use self::requests::{RequestLabels, RequestSeries, RequestTotals, ResponseLabels, ResponseSeries};

/// How many request series one worker keeps before further label values are folded into [`OTHER`].
pub const MAX_SERIES: usize = 4096;

/// How many clients without mTLS, by port, one worker counts one by one.
const MAX_CLIENTS_WITHOUT_MTLS: usize = 256;

/// The label value that stands for all values above the cap.
pub const OTHER: &str = "other";

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

    /// Returns metrics for one more worker, kept for the life of the process so that its counts never fall.
    pub fn worker(&self) -> Arc<WorkerMetrics> {
        let metrics = Arc::new(WorkerMetrics::default());
        locked(&self.workers).push(Arc::clone(&metrics));
        metrics
    }

    /// Returns what all workers do, now. Cheaper than [`Registry::totals`].
    pub fn activity(&self) -> Activity {
        let mut activity = Activity::default();
        for worker in locked(&self.workers).iter() {
            let process = &worker.process;
            activity.under_way += process.in_flight.value();
            activity.begun += process.begun.value() + process.downstream_connections_total.value();
        }
        activity
    }

    /// Returns the sums of what has no labels, now: cheap.
    pub fn process(&self) -> ProcessTotals {
        let mut totals = ProcessTotals::default();
        locked(&self.workers).iter().for_each(|worker| worker.process.add_to(&mut totals));
        totals
    }

    /// The failed connection attempts of a cluster so far.
    pub fn connect_failures(&self, cluster: &str) -> u64 {
        let of = |worker: &Arc<WorkerMetrics>| {
            locked(&worker.clusters).get(cluster).map_or(0, |series| series.connect_failed.value())
        };
        locked(&self.workers).iter().map(of).sum()
    }

    /// Returns the sums over all workers, now. Takes each worker's lock briefly; workers take it only to add a series.
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
    responses: Mutex<HashMap<ResponseLabels, Arc<ResponseSeries>>>,
    requests: Mutex<HashMap<RequestLabels, Arc<RequestSeries>>>,
    clusters: Mutex<HashMap<Name, Arc<ClusterSeries>>>,
    ejections: Mutex<HashMap<(Name, &'static str), u64>>,
    without_mtls: Mutex<HashMap<WithoutMtls, u64>>,
    denials: Denials,
}

impl WorkerMetrics {
    /// Returns the series for these labels, made if new. Costs locks that only a scrape contends for, and a hash of the labels:
    /// keep the handle.
    pub fn responses(&self, labels: &ResponseLabels) -> Arc<ResponseSeries> {
        let mut series = locked(&self.responses);
        if let Some(found) = series.get(labels) {
            return Arc::clone(found);
        }
        let labels = if series.len() < MAX_SERIES { labels.clone() } else { labels.folded() };
        let requests = Arc::clone(locked(&self.requests).entry(labels.request.clone()).or_default());
        let made = || Arc::new(ResponseSeries::new(requests));
        Arc::clone(series.entry(labels).or_insert_with(made))
    }

    /// Returns the series of a cluster, made if new.
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

    /// Counts a connection without mTLS to a listener that serves mTLS. Returns whether it is the first from `source` to `port`
    /// with this outcome. They are rare enough for a lock.
    pub fn without_mtls(&self, source: IpAddr, port: u16, permitted: bool) -> bool {
        let mut counts = locked(&self.without_mtls);
        let labels = WithoutMtls { client: Some((source, port)), permitted };
        if let Some(count) = counts.get_mut(&labels) {
            *count += 1;
            return false;
        }
        let is_new = counts.len() < MAX_CLIENTS_WITHOUT_MTLS;
        let labels = if is_new { labels } else { WithoutMtls { client: None, permitted } };
        *counts.entry(labels).or_default() += 1;
        is_new
    }

    /// Counts what authorization policies refused, or would have, of a request. Allocates nothing for one that has passed.
    pub fn denied(&self, record: &RequestRecord) {
        self.denials.count(record);
    }

    fn add_to(&self, totals: &mut Totals) {
        self.denials.add_to(&mut totals.denials);
        self.process.add_to(&mut totals.process);
        for (labels, series) in locked(&self.responses).iter() {
            *totals.responses.entry(labels.clone()).or_default() += series.count.value();
        }
        for (labels, series) in locked(&self.requests).iter() {
            series.add_to(totals.requests.entry(labels.clone()).or_default());
        }
        for (name, series) in locked(&self.clusters).iter() {
            series.add_to(totals.clusters.entry(Arc::clone(name)).or_default());
        }
        for (of, count) in locked(&self.ejections).iter() {
            *totals.ejections.entry(of.clone()).or_default() += count;
        }
        for (labels, count) in locked(&self.without_mtls).iter() {
            *totals.without_mtls.entry(*labels).or_default() += count;
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
        /// Requests that passed a filter unchecked because the service that it asks failed.
        filters_failed_open,
        /// Fetches of the keys of tokens that succeeded.
        key_sets_fetched,
        /// Fetches of the keys of tokens that failed.
        key_set_fetches_failed,
    }
}

counters! {
    /// Counts of a worker about one cluster.
    ClusterSeries, ClusterTotals {
        /// Attempts begun.
        attempts,
        /// Attempts after the first.
        retries,
        /// Attempts that began while another one of the request was in flight.
        hedges,
        /// Those of them whose response was the first.
        hedges_won,
        /// Requests that could have been retried safely, but for which the retry budget had no capacity.
        budget_exhausted,
        /// Requests refused because a bound was reached.
        overflow,
        /// Requests that had to wait for an overloaded application.
        overload_waits,
        /// Requests refused because the application is overloaded.
        overload_refused,
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
        /// Active health checks that passed.
        checks_passed,
        /// Active health checks that failed.
        checks_failed,
        /// Gauge: endpoints that fail active health checks.
        failing_checks,
        /// Picks among all endpoints, because too few passed their health checks.
        panics,
        /// Responses to requests without a session, which began one.
        sessions_new,
        /// Responses by the endpoint of the request's session.
        sessions_kept,
        /// Responses by another endpoint than that of the request's session.
        sessions_moved,
    }
}

/// The sums over all workers at one moment.
#[derive(Debug, Default, Clone)]
pub struct Totals {
    /// Counts without labels.
    pub process: ProcessTotals,
    /// How many requests finished, by all labels.
    pub responses: BTreeMap<ResponseLabels, u64>,
    /// How long they took and how many bytes they had, by few labels.
    pub requests: BTreeMap<RequestLabels, RequestTotals>,
    /// Upstream counts by cluster.
    pub clusters: BTreeMap<Name, ClusterTotals>,
    /// Ejections of endpoints by cluster and kind.
    pub ejections: BTreeMap<(Name, &'static str), u64>,
    /// Connections without mTLS to listeners that serve mTLS.
    pub without_mtls: BTreeMap<WithoutMtls, u64>,
    /// Refusals of authorization policies.
    pub denials: BTreeMap<DenialLabels, u64>,
}

/// The labels of connections without mTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WithoutMtls {
    /// The client's address and the port that it connected to. None stands for all clients above the cap.
    pub client: Option<(IpAddr, u16)>,
    /// Whether the port is permissive.
    pub permitted: bool,
}

/// A poisoned lock guards counters only: what a panicking thread left is still a valid map.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
