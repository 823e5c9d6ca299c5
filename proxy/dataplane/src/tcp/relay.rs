//! Relays one opaque connection to a destination, and records it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use outrigger_config::snapshot::Snapshot;
use outrigger_config::tcp_proxy::TcpProxy;
use outrigger_core::Name;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use outrigger_core::record::{Authorization, Protocol, RequestRecord, Text};
use tokio::time::Instant;

use super::copy::{Copied, CopyLimits, Side, copy_both};
use super::dial::{self, UpstreamConnection};
use crate::client::ClientFacts;
use crate::context::Context;
use crate::permission::Permission;
use crate::socket::stream::Stream;

/// The client of a relayed connection.
#[derive(Debug)]
pub(crate) struct ClientConnection {
    /// The connection.
    pub(crate) stream: Stream,
    /// What was already read from it.
    pub(crate) first: Bytes,
    /// Its facts.
    pub(crate) facts: ClientFacts,
    /// What the filters of its chain decide about it. `None` if its destination was found by name.
    pub(crate) permission: Option<Permission>,
}

/// Relays to one of `proxy`'s clusters until both sides have closed.
pub(crate) async fn relay(
    context: &Context,
    snapshot: &Snapshot,
    proxy: &TcpProxy,
    client: ClientConnection,
) {
    let mut record = Record::begin(context, &client.facts, proxy.destination.clone());
    match dial::open(context, snapshot, proxy, &client.facts).await {
        Ok(opened) => relay_to(opened, Bytes::new(), client, copy_limits(proxy), record).await,
        Err(failure) => record.fail(&failure),
    }
}

/// Relays to an endpoint that is already connected and has sent `spoken` since.
pub(crate) async fn relay_opened(
    context: &Context,
    proxy: &TcpProxy,
    client: ClientConnection,
    opened: UpstreamConnection,
    spoken: Bytes,
) {
    let record = Record::begin(context, &client.facts, proxy.destination.clone());
    relay_to(opened, spoken, client, copy_limits(proxy), record).await;
}

/// Relays to a destination outside the mesh, without time limits: none is configured for it.
pub(crate) async fn relay_passthrough(context: &Context, asked: &str, client: ClientConnection) {
    let mut record = Record::begin(context, &client.facts, Some(crate::context::PASSTHROUGH_CLUSTER.into()));
    match dial::passthrough(context, asked, &client.facts).await {
        Ok(opened) => relay_to(opened, Bytes::new(), client, CopyLimits::default(), record).await,
        Err(failure) => record.fail(&failure),
    }
}

/// Returns the time limits of relays to `proxy`'s clusters.
pub(crate) fn copy_limits(proxy: &TcpProxy) -> CopyLimits {
    CopyLimits { idle: proxy.idle_timeout, total: proxy.max_duration }
}

/// Records a connection to `destination` that authorization policies refuse.
pub(crate) fn deny(
    context: &Context,
    client: &ClientFacts,
    destination: Option<Name>,
    authorization: Authorization,
) {
    let mut record = Record::begin(context, client, destination);
    record.authorized(authorization);
    record.fail(&Failure::downstream(Reason::AccessDenied, "a policy does not allow the connection"));
}

/// Records a connection that is closed without being relayed.
pub(crate) fn refuse(context: &Context, client: &ClientFacts, failure: &Failure) {
    Record::begin(context, client, None).fail(failure);
}

async fn relay_to(
    opened: UpstreamConnection,
    spoken: Bytes,
    client: ClientConnection,
    limits: CopyLimits,
    mut record: Record<'_>,
) {
    record.connected(&opened);
    let upstream = Side { stream: opened.stream, read: spoken };
    let (permission, client) = (client.permission, Side { stream: client.stream, read: client.first });
    let copied = copy_both(client, upstream, limits, permission.as_ref()).await;
    record.copied(&copied);
    if let Some(permission) = permission {
        record.authorized(permission.authorization());
    }
}

/// The record of a connection. Handed over when it is dropped.
struct Record<'a> {
    context: &'a Context,
    record: Option<RequestRecord>,
    began: Instant,
}

impl<'a> Record<'a> {
    fn begin(context: &'a Context, client: &ClientFacts, destination: Option<Name>) -> Self {
        let recorder = &context.recorder;
        recorder.metrics().process.in_flight.increment();
        recorder.metrics().process.begun.increment();
        let record = RequestRecord {
            started: SystemTime::now(),
            duration: Duration::ZERO,
            listener: client.listener.clone(),
            direction: client.direction,
            protocol: Protocol::Tcp,
            status: 0,
            grpc_status: None,
            reason: None,
            authorization: None,
            source: client.peer.clone(),
            client: client.address,
            tls: client.tls,
            destination,
            route: None,
            route_template: None,
            bytes_received: 0,
            bytes_sent: 0,
            until_first_attempt: Duration::ZERO,
            upstream: None,
            attempts: Vec::new(),
            trace: None,
            text: recorder.wants_text(false).then(Box::<Text>::default),
        };
        Self { context, record: Some(record), began: Instant::now() }
    }

    fn connected(&mut self, opened: &UpstreamConnection) {
        let elapsed = self.began.elapsed();
        if let Some(record) = &mut self.record {
            record.destination.get_or_insert_with(|| opened.cluster.clone());
            record.upstream = Some(opened.upstream());
        }
        let Some(record) = self.record.as_mut().filter(|record| record.text.is_some()) else { return };
        record.attempts.push(opened.attempt(elapsed, None));
    }

    fn authorized(&mut self, authorization: Authorization) {
        if let Some(record) = self.record.as_mut().filter(|_| authorization != Authorization::default()) {
            record.authorization = Some(Box::new(authorization));
        }
    }

    fn copied(&mut self, copied: &Copied) {
        if let Some(record) = &mut self.record {
            record.bytes_received = copied.received;
            record.bytes_sent = copied.sent;
        }
        if let Some(failure) = copied.failure() {
            self.fail(&failure);
        }
    }

    fn fail(&mut self, failure: &Failure) {
        if let Some(record) = &mut self.record {
            record.reason = Some(failure.reason);
            if let Some(text) = &mut record.text {
                text.detail = failure.detail.to_string();
            }
        }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let recorder = &self.context.recorder;
        recorder.metrics().process.in_flight.decrement();
        if let Some(mut record) = self.record.take() {
            record.duration = self.began.elapsed();
            recorder.finish(record);
        }
    }
}
