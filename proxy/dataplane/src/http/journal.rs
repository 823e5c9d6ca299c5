//! Builds the record of one request. It is emitted once, also if the client disconnects.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Version};
use outrigger_config::route::Route;
use outrigger_core::Name;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use outrigger_core::record::{AttemptRecord, Direction, Protocol, RequestRecord, Text, Upstream};
use outrigger_core::trace::{SpanId, TraceContext};
use outrigger_policy::rbac::Decision;
use tokio::time::Instant;

use super::forwarded::{FORWARDED_PROTO, REQUEST_ID};
use super::trace_context::Trace;
use crate::client::ClientFacts;
use crate::codec::body::{ByteCount, ByteCounts};
use crate::codec::head::RequestHead;
use crate::metrics::WorkerMetrics;
use crate::record::Recorder;
use crate::tcp::dial::UpstreamConnection;
use crate::upstream::dial::EndpointFacts;

/// Builds the record of a request. If it is dropped before the end, the record says that the client disconnected.
#[derive(Debug)]
pub(super) struct Journal {
    recorder: Recorder,
    metrics: Arc<WorkerMetrics>,
    record: Option<RequestRecord>,
    began: Instant,
    /// The start of the current attempt; its record is the last of `record.attempts` if attempts are recorded.
    attempt_began: Option<Instant>,
    bytes: Rc<ByteCounts>,
}

impl Journal {
    /// Begins the record of `head`'s request.
    pub(super) fn begin(
        recorder: &Recorder,
        client: &ClientFacts,
        head: &RequestHead,
        trace: &Trace,
        grpc: bool,
    ) -> Self {
        let protocol = match head.version {
            _ if grpc => Protocol::Grpc,
            Version::HTTP_10 => Protocol::Http10,
            Version::HTTP_2 => Protocol::Http2,
            _ => Protocol::Http11,
        };
        let text =
            recorder.wants_text(trace.context.sampled).then(|| Box::new(text(head, trace, grpc, client)));
        Self::new(recorder, client, protocol, Some(trace.context), text)
    }

    /// The record of a request that was refused before its head was whole.
    pub(super) fn refused(recorder: &Recorder, client: &ClientFacts, failure: &Failure) -> Self {
        let text = recorder.wants_text(false).then(Box::<Text>::default);
        let mut journal = Self::new(recorder, client, Protocol::Http11, None, text);
        journal.set_status(failure.reason.status().as_u16(), None);
        journal.fail(failure);
        journal
    }

    fn new(
        recorder: &Recorder,
        client: &ClientFacts,
        protocol: Protocol,
        trace: Option<TraceContext>,
        text: Option<Box<Text>>,
    ) -> Self {
        let metrics = Arc::clone(recorder.metrics());
        metrics.process.in_flight.increment();
        metrics.process.begun.increment();
        let record = RequestRecord {
            started: SystemTime::now(),
            duration: Duration::ZERO,
            listener: client.listener.clone(),
            direction: client.direction,
            protocol,
            status: 0,
            grpc_status: None,
            reason: None,
            authorization: None,
            source: client.peer.clone(),
            client: client.address,
            tls: client.tls,
            destination: None,
            route: None,
            route_template: None,
            bytes_received: 0,
            bytes_sent: 0,
            until_first_attempt: Duration::ZERO,
            upstream: None,
            attempts: Vec::new(),
            trace,
            text,
        };
        Self {
            recorder: recorder.clone(),
            metrics,
            record: Some(record),
            began: Instant::now(),
            attempt_began: None,
            bytes: Rc::default(),
        }
    }

    /// The counters of this worker.
    pub(super) fn metrics(&self) -> Arc<WorkerMetrics> {
        Arc::clone(&self.metrics)
    }

    /// The count of body bytes that came from the client.
    pub(super) fn received(&self) -> ByteCount {
        ByteCount::Received(self.bytes())
    }

    /// When the request began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    pub(super) fn set_destination(&mut self, destination: Name) {
        self.with(|record| record.destination = Some(destination));
    }

    /// The name of the destination, if it was found.
    pub(super) fn destination(&self) -> Option<&str> {
        self.record.as_ref()?.destination.as_deref()
    }

    pub(super) fn set_route(&mut self, route: &Route) {
        self.with(|record| {
            record.route = Some(route.name.clone());
            record.route_template.clone_from(&route.template);
        });
    }

    pub(super) fn set_status(&mut self, status: u16, grpc_status: Option<u8>) {
        self.with(|record| {
            record.status = status;
            record.grpc_status = grpc_status.or(record.grpc_status);
        });
    }

    pub(super) fn set_reason(&mut self, reason: Reason) {
        self.with(|record| record.reason = Some(reason));
    }

    /// Why the answer is not the application's.
    pub(super) fn fail(&mut self, failure: &Failure) {
        self.with(|record| record.reason = Some(failure.reason));
        self.note(&failure.detail);
    }

    /// Notes what happened, for the access log.
    pub(super) fn note(&mut self, what: &str) {
        self.with(|record| record.text.iter_mut().for_each(|text| what.clone_into(&mut text.detail)));
    }

    /// What authorization policies decided about it. An earlier decision stays.
    pub(super) fn authorized(&mut self, decision: Decision<'_>) {
        if decision == Decision::default() {
            return;
        }
        self.with(|record| {
            let noted = record.authorization.get_or_insert_default();
            noted.denied_by = noted.denied_by.take().or(decision.denied_by.cloned());
            noted.audit_denied_by = noted.audit_denied_by.take().or(decision.audit_denied_by.cloned());
        });
    }

    /// `grpc-status`, which came in the trailers.
    pub(super) fn set_grpc_status(&mut self, status: u8) {
        self.with(|record| record.grpc_status = Some(status));
        self.with_attempt(|of, _| of.grpc_status = Some(status));
    }

    /// The request opened a tunnel of opaque bytes.
    pub(super) fn tunnel_opened(&mut self, opened: &UpstreamConnection) {
        let elapsed = self.began.elapsed();
        self.attempt_began = Some(self.began);
        self.with(|record| {
            record.protocol = Protocol::Tcp;
            record.upstream = Some(opened.upstream());
            if record.text.is_some() {
                record.attempts.push(opened.attempt(elapsed, record.trace.map(|trace| trace.span)));
            }
        });
    }

    /// The request has no span: those in its tunnel have.
    pub(super) fn has_no_span(&mut self) {
        self.with(|record| record.trace.iter_mut().for_each(|trace| trace.sampled = false));
    }

    /// The count of body bytes that go to the client.
    pub(super) fn sent(&self) -> ByteCount {
        ByteCount::Sent(self.bytes())
    }

    /// Both counts.
    pub(super) fn bytes(&self) -> Rc<ByteCounts> {
        Rc::clone(&self.bytes)
    }

    /// The bytes of a tunnel.
    pub(super) fn count(&mut self, received: u64, sent: u64) {
        self.bytes.received.set(received);
        self.bytes.sent.set(sent);
    }

    /// Begins an attempt at `now`. One that is under way ends with its request, if nothing ends it before.
    pub(super) fn attempt_begins(
        &mut self,
        cluster: &Name,
        (endpoint, instance): (SocketAddr, Option<&Name>),
        span: SpanId,
        now: Instant,
    ) {
        let began = self.began;
        self.attempt_began = Some(now);
        self.with(|of| {
            if of.until_first_attempt.is_zero() {
                of.until_first_attempt = now.duration_since(began);
            }
            of.upstream =
                Some(Upstream { cluster: cluster.clone(), connected: false, peer: None, tls: None });
            if of.text.is_none() {
                return;
            }
            // Not the count of the last one: the attempts of a pair may have changed places.
            let resend_count = u32::try_from(of.attempts.len()).unwrap_or(u32::MAX);
            // Most requests have one.
            of.attempts.reserve_exact(1);
            of.attempts.push(AttemptRecord {
                offset: now.duration_since(began),
                duration: Duration::ZERO,
                cluster: cluster.clone(),
                endpoint: Some(endpoint),
                instance: instance.cloned(),
                resend_count,
                peer: None,
                tls: None,
                protocol: None,
                until_connected: Duration::ZERO,
                until_first_byte: None,
                status: 0,
                grpc_status: None,
                reason: None,
                reached: None,
                span: Some(span),
            });
        });
    }

    /// The attempt goes to another endpoint than it was begun for, to which nothing was written.
    pub(super) fn attempt_elsewhere(&mut self, endpoint: SocketAddr, instance: Option<&Name>) {
        self.with_attempt(|of, _| {
            of.endpoint = Some(endpoint);
            of.instance = instance.cloned();
        });
    }

    /// The attempt that was the `number`-th to begin, from 0, is the current one from now on.
    pub(super) fn attempt_resumes(&mut self, number: u32) {
        self.attempt_ends();
        let Some(record) = &mut self.record else { return };
        let Some(at) = record.attempts.iter().position(|of| of.resend_count == number) else { return };
        record.attempts[at..].rotate_left(1);
        let offset = record.attempts.last().map_or(Duration::ZERO, |of| of.offset);
        self.attempt_began = Some(self.began + offset);
    }

    /// The current attempt has had a connection since `at`.
    pub(super) fn attempt_connected(&mut self, endpoint: &EndpointFacts, protocol: Protocol, at: Instant) {
        self.with(|record| {
            if let Some(upstream) = &mut record.upstream {
                upstream.connected = true;
                upstream.peer.clone_from(&endpoint.peer);
                upstream.tls = endpoint.tls;
            }
        });
        let began = self.attempt_began.unwrap_or(at);
        self.with_attempt(|of, _| {
            of.until_connected = at.saturating_duration_since(began);
            of.peer.clone_from(&endpoint.peer);
            of.tls = endpoint.tls;
            of.protocol = Some(protocol);
        });
    }

    /// The head of an answer is there.
    pub(super) fn attempt_answered(&mut self, status: u16, grpc_status: Option<u8>) {
        self.with_attempt(|of, elapsed| {
            of.until_first_byte = Some(elapsed);
            of.status = status;
            of.grpc_status = grpc_status;
        });
    }

    /// It failed.
    pub(super) fn attempt_failed(&mut self, failure: &Failure) {
        self.with_attempt(|of, _| {
            of.reason = Some(failure.reason);
            of.reached = Some(failure.reached);
        });
    }

    /// Ends an attempt whose answer is not relayed.
    pub(super) fn attempt_ends(&mut self) {
        self.with_attempt(|of, elapsed| of.duration = elapsed);
        self.attempt_began = None;
    }

    fn with_attempt(&mut self, change: impl FnOnce(&mut AttemptRecord, Duration)) {
        let Some(began) = self.attempt_began else { return };
        if let Some(of) = self.record.as_mut().and_then(|record| record.attempts.last_mut()) {
            change(of, began.elapsed());
        }
    }

    /// The last byte is through: the record goes out.
    pub(super) fn finish(&mut self) {
        self.hand_over();
    }

    fn hand_over(&mut self) {
        self.attempt_ends();
        let Some(mut record) = self.record.take() else { return };
        record.duration = self.began.elapsed();
        record.bytes_received = self.bytes.received.get();
        record.bytes_sent = self.bytes.sent.get();
        self.metrics.process.in_flight.decrement();
        self.recorder.finish(record);
    }

    fn with(&mut self, change: impl FnOnce(&mut RequestRecord)) {
        if let Some(record) = &mut self.record {
            change(record);
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.record.is_none() {
            return;
        }
        let gone = Some(Reason::DownstreamConnectionTermination);
        self.with(|record| record.reason = record.reason.or(gone));
        self.with_attempt(|of, _| of.reason = of.reason.or(gone));
        self.hand_over();
    }
}

fn text(head: &RequestHead, trace: &Trace, grpc: bool, client: &ClientFacts) -> Text {
    let field = |headers: &HeaderMap, name| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default()
    };
    Text {
        method: head.method.to_string(),
        authority: head.authority.as_ref().map(ToString::to_string).unwrap_or_default(),
        scheme: scheme(head, client),
        path: head.path.to_string(),
        user_agent: field(&head.headers, USER_AGENT),
        request_id: field(&head.headers, REQUEST_ID),
        grpc,
        trace_state: trace.state(&head.headers).to_owned(),
        detail: String::new(),
    }
}

/// Returns the scheme of the URL that was requested: what the application called, or what the first client of this service used
/// (`x-forwarded-proto`, which this proxy has added if it was missing). TLS between sidecars is not the application's.
fn scheme(head: &RequestHead, client: &ClientFacts) -> &'static str {
    let forwarded = match client.direction {
        Direction::Outbound => None,
        Direction::Inbound | Direction::Unspecified => head.headers.get(FORWARDED_PROTO),
    };
    match forwarded.map(HeaderValue::as_bytes) {
        Some(b"https") => "https",
        Some(b"http") => "http",
        _ if client.tls.is_some() && client.peer.is_none() => "https",
        _ => "http",
    }
}
