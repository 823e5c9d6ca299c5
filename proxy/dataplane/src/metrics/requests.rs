//! Finished requests, by labels.
//!
//! A histogram is many series for each set of labels, so durations and bytes have few labels ([`RequestLabels`]). Counts have
//! all of them ([`ResponseLabels`]). A request finds both by one handle.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_core::metrics::{Bucket, Exemplar, Histogram};
use outrigger_core::reason::Reason;
use outrigger_core::record::{Direction, Protocol, RequestRecord, TlsSession, Upstream};

use super::{Counter, OTHER, locked};

/// Upper bounds of the histogram's buckets, in microseconds; one more bucket holds what is above.
const BOUNDS_MICROS: [u64; 11] =
    [1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000];

/// The number of buckets.
const BUCKETS: usize = BOUNDS_MICROS.len() + 1;

/// Which request it was, and the class of its outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestLabels {
    /// The listener's direction.
    pub direction: Direction,
    /// The client's verified identity.
    pub source: Option<SpiffeId>,
    /// The destination's canonical name.
    pub destination: Option<Name>,
    /// The cluster of the last attempt.
    pub backend: Option<Name>,
    /// The route.
    pub route: Option<Name>,
    /// The downstream protocol.
    pub protocol: Protocol,
    /// [`RequestRecord::status_class`].
    pub class: Option<u8>,
}

/// Which request it was, and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResponseLabels {
    /// The labels of its duration.
    pub request: RequestLabels,
    /// Whether the client's connection used mutual TLS.
    pub client_mutual_tls: bool,
    /// Whether the last attempt's connection used mutual TLS. `None` if there was none.
    pub upstream_mutual_tls: Option<bool>,
    /// The verified identity of the last attempt's endpoint.
    pub peer: Option<SpiffeId>,
    /// HTTP status, 0 for TCP and where none was sent.
    pub status: u16,
    /// The `grpc-status`.
    pub grpc_status: Option<u8>,
    /// Why the response is not simply the application's.
    pub reason: Option<Reason>,
}

impl ResponseLabels {
    /// Returns the labels of a request.
    pub fn of(record: &RequestRecord) -> Self {
        let request = RequestLabels {
            direction: record.direction,
            source: record.source.clone(),
            destination: record.destination.clone(),
            backend: record.upstream.as_ref().map(|upstream| Name::clone(&upstream.cluster)),
            route: record.route.clone(),
            protocol: record.protocol,
            class: record.status_class(),
        };
        let RequestRecord { status, grpc_status, reason, .. } = *record;
        let peer = record.upstream.as_ref().and_then(|upstream| upstream.peer.clone());
        let (client_mutual_tls, upstream_mutual_tls) = mutual_tls(record);
        Self { request, client_mutual_tls, upstream_mutual_tls, peer, status, grpc_status, reason }
    }

    /// Returns whether these are the labels of `record`, without making its labels. The class follows from the rest.
    pub(crate) fn is_of(&self, record: &RequestRecord) -> bool {
        let Self { request, client_mutual_tls, upstream_mutual_tls, peer, status, grpc_status, reason } =
            self;
        let RequestLabels { direction, source, destination, backend, route, protocol, class: _ } = request;
        let upstream = match &record.upstream {
            Some(Upstream { cluster, peer: of, .. }) => backend.as_ref() == Some(cluster) && peer == of,
            None => backend.is_none(),
        };
        upstream
            && (*client_mutual_tls, *upstream_mutual_tls) == mutual_tls(record)
            && (*status, *grpc_status, *reason) == (record.status, record.grpc_status, record.reason)
            && (*direction, *protocol) == (record.direction, record.protocol)
            && *destination == record.destination
            && *route == record.route
            && *source == record.source
    }

    /// Returns the same labels with [`OTHER`] for every name, and without identities and statuses: without what peers can choose.
    pub(super) fn folded(&self) -> Self {
        let other = |value: &Option<Name>| value.as_ref().map(|_| Name::from(OTHER));
        let request = RequestLabels {
            source: None,
            destination: other(&self.request.destination),
            backend: other(&self.request.backend),
            route: other(&self.request.route),
            ..self.request.clone()
        };
        Self { request, peer: None, status: 0, grpc_status: None, ..self.clone() }
    }
}

/// Returns whether the client's connection, and that of the last attempt, used mutual TLS.
fn mutual_tls(record: &RequestRecord) -> (bool, Option<bool>) {
    let mutual = |session: Option<TlsSession>| session.is_some_and(|session| session.mutual);
    let upstream = record.upstream.as_ref().filter(|upstream| upstream.connected);
    (mutual(record.tls), upstream.map(|upstream| mutual(upstream.tls)))
}

/// Requests of one set of [`ResponseLabels`].
#[derive(Debug)]
pub struct ResponseSeries {
    /// How many finished.
    pub(super) count: Counter,
    requests: Arc<RequestSeries>,
}

impl ResponseSeries {
    pub(super) fn new(requests: Arc<RequestSeries>) -> Self {
        Self { count: Counter::default(), requests }
    }

    /// Counts one finished request. An exemplar is dropped if a scrape reads the series now.
    pub fn finished(
        &self,
        duration: Duration,
        bytes_received: u64,
        bytes_sent: u64,
        exemplar: Option<Exemplar>,
    ) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.count.increment();
        self.requests.duration_micros.add(micros);
        self.requests.buckets[bucket].increment();
        self.requests.bytes_received.add(bytes_received);
        self.requests.bytes_sent.add(bytes_sent);
        if exemplar.is_some()
            && let Ok(mut exemplars) = self.requests.exemplars.try_lock()
        {
            exemplars.get_or_insert_default()[bucket] = exemplar;
        }
    }
}

/// Durations and bytes of one set of [`RequestLabels`].
#[derive(Debug, Default)]
pub struct RequestSeries {
    duration_micros: Counter,
    buckets: [Counter; BUCKETS],
    bytes_received: Counter,
    bytes_sent: Counter,
    /// The last exemplar of each bucket. Allocated for the first.
    exemplars: Mutex<Option<Box<[Option<Exemplar>; BUCKETS]>>>,
}

impl RequestSeries {
    pub(super) fn add_to(&self, totals: &mut RequestTotals) {
        totals.duration_micros += self.duration_micros.value();
        for (total, bucket) in totals.buckets.iter_mut().zip(&self.buckets) {
            *total += bucket.value();
        }
        totals.bytes_received += self.bytes_received.value();
        totals.bytes_sent += self.bytes_sent.value();
        totals.keep_newest(&locked(&self.exemplars).clone().unwrap_or_default());
    }
}

/// Durations and bytes of one set of labels, over all workers.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct RequestTotals {
    duration_micros: u64,
    buckets: [u64; BUCKETS],
    exemplars: [Option<Exemplar>; BUCKETS],
    /// Body bytes read from clients.
    pub bytes_received: u64,
    /// Body bytes sent to clients.
    pub bytes_sent: u64,
}

impl RequestTotals {
    /// Adds `other`, whose labels have the same text. Of two exemplars of a bucket the newer one stays.
    pub fn merge(&mut self, other: &Self) {
        let Self { duration_micros, buckets, exemplars, bytes_received, bytes_sent } = other;
        self.duration_micros += duration_micros;
        for (total, bucket) in self.buckets.iter_mut().zip(buckets) {
            *total += bucket;
        }
        self.keep_newest(exemplars);
        self.bytes_received += bytes_received;
        self.bytes_sent += bytes_sent;
    }

    fn keep_newest(&mut self, exemplars: &[Option<Exemplar>; BUCKETS]) {
        let time = |of: &Option<Exemplar>| of.map(|of| of.time);
        for (newest, exemplar) in self.exemplars.iter_mut().zip(exemplars) {
            if time(newest) < time(exemplar) {
                *newest = *exemplar;
            }
        }
    }

    /// Returns the durations in seconds.
    pub fn durations(&self) -> Histogram {
        let bounds = BOUNDS_MICROS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let counts = self.buckets.iter().zip(self.exemplars);
        let buckets = bounds.zip(counts).map(|(upper_bound, (count, exemplar))| Bucket {
            upper_bound,
            count: *count,
            exemplar,
        });
        Histogram { buckets: buckets.collect(), sum: self.duration_micros as f64 / 1e6 }
    }
}
