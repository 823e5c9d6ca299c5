//! Asks a service for a filter: sends its question over the worker's own connections and reads the reply.
//!
//! A cluster that has the service balances, ejects and bounds these requests like all others. A question that provably did not
//! arrive is sent again, to another endpoint if there is one. Cancelled at an await, the exchange is given up.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Version;
use outrigger_config::cluster::Cluster as ClusterConfig;
use outrigger_config::snapshot::Snapshot;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::peer::PeerKey;
use outrigger_core::reason::Reason;
use outrigger_policy::blame::Freshness;
use outrigger_policy::question::{Question, ServiceReply};
use outrigger_policy::response::ResponseFacts;
use tokio::time::{Instant, timeout_at};

use super::attempt::{self, Response, STALE_WITHIN};
use super::request_context::RequestContext;
use crate::codec::answer::Payload;
use crate::codec::body::Body;
use crate::codec::head::{RequestHead, Scheme};
use crate::context::Context;
use crate::upstream::bounds::Peer;
use crate::upstream::cluster::{Cluster, PickBy, Probing};
use crate::upstream::dial::Purpose;
use crate::upstream::host::Host;
use crate::upstream::pool::Speaks;

/// How often a question is sent at most.
const ATTEMPTS: usize = 3;

/// Returns the reply to `question`. It must be complete before the question's own time has passed and before `deadline`.
pub(super) async fn ask(
    question: Question,
    deadline: Option<Instant>,
    snapshot: &Snapshot,
    cx: &RequestContext<'_>,
) -> Result<ServiceReply, Failure> {
    let cluster = cluster(&question, snapshot)?;
    let mut asked = Asked::new(question, deadline);
    let cluster = asked.in_time(cx.on.context.cluster(cluster)).await?;
    // No span of its own is exported.
    cx.trace.write(&mut asked.head.headers, cx.trace.context.span);
    asked.reply(&cluster, &cx.on.client.key).await
}

/// Returns the reply to a question that the proxy has for itself.
pub(super) async fn ask_alone(question: Question, context: &Context) -> Result<ServiceReply, Failure> {
    let cluster = Arc::clone(cluster(&question, &context.view.snapshot())?);
    let asked = Asked::new(question, None);
    let cluster = asked.in_time(context.cluster(&cluster)).await?;
    let own = PeerKey::Address(Ipv4Addr::UNSPECIFIED.into());
    asked.reply(&cluster, &own).await
}

fn cluster<'s>(question: &Question, snapshot: &'s Snapshot) -> Result<&'s Arc<ClusterConfig>, Failure> {
    snapshot.cluster(&question.cluster).ok_or_else(|| {
        Failure::local(Reason::NoClusterFound, format!("there is no cluster {}", question.cluster))
    })
}

/// A question as it is sent.
struct Asked {
    head: RequestHead,
    body: Bytes,
    is_grpc: bool,
    longest_reply: usize,
    until: Option<Instant>,
}

impl Asked {
    fn new(question: Question, deadline: Option<Instant>) -> Self {
        let Question { method, authority, path, fields, body, is_grpc, longest_reply, timeout, .. } =
            question;
        // A time that overflows the clock never passes.
        let until = Instant::now().checked_add(timeout).into_iter().chain(deadline).min();
        let head = RequestHead {
            method,
            scheme: Scheme::Http,
            authority: Some(authority),
            path,
            version: if is_grpc { Version::HTTP_2 } else { Version::HTTP_11 },
            headers: fields,
            upgrade: None,
        };
        Self { head, body, is_grpc, longest_reply, until }
    }

    /// Sends it until there is a reply, or a failure after which it may not be sent again.
    async fn reply(&self, cluster: &Cluster, peer: &PeerKey) -> Result<ServiceReply, Failure> {
        let permit = self.in_time(cluster.admit(peer)).await?;
        let (mut tried, mut retrying) = (Vec::new(), None);
        loop {
            let host = cluster.pick(&tried, PickBy::default(), Probing::Covered)?.host;
            let asking = host.begin();
            cluster.series.attempts.increment();
            if retrying.is_some() {
                cluster.series.retries.increment();
            }
            let connection = Cell::new(Freshness::Fresh);
            let exchange = self.exchange(&host, cluster, &permit.peer, &connection);
            let failure = match self.in_time(exchange).await {
                Ok((facts, reply)) => {
                    asking.heard();
                    cluster.record(&asking, attempt::judged(facts));
                    return Ok(reply);
                }
                Err(failure) => failure,
            };
            cluster.blame(&asking, &failure, connection.get());
            let again = failure.never_processed() || connection.get() == Freshness::Stale;
            tried.push(host.address);
            if !again || tried.len() == ATTEMPTS {
                return Err(failure);
            }
            retrying = cluster.retry();
            if retrying.is_none() {
                return Err(failure);
            }
        }
    }

    async fn exchange(
        &self,
        host: &Rc<Host>,
        cluster: &Cluster,
        peer: &Rc<Peer>,
        connection: &Cell<Freshness>,
    ) -> Result<(ResponseFacts, ServiceReply), Failure> {
        let speaks = match cluster.speaks(self.head.version) {
            // gRPC exists over HTTP/2 only.
            Speaks::Http1 if self.is_grpc => Speaks::Http2,
            speaks => speaks,
        };
        let lease = Host::lease_of(Rc::clone(host), Purpose::Requests, speaks, Rc::clone(peer)).await?;
        let (was_idle, began) = (lease.was_idle, Instant::now());
        let identity = lease.facts.peer.clone();
        let exchange = lease.send(&self.head, Body::full(self.body.clone()));
        let answered = attempt::response(exchange, identity, async |_| host.heard()).await;
        if answered.is_err() && was_idle && began.elapsed() < STALE_WITHIN {
            connection.set(Freshness::Stale);
        }
        let Response { head, facts, payload, exchange } = answered?;
        let Payload::Body(body) = payload else {
            let what = "a tunnel instead of a reply";
            return Err(Failure::upstream(Reason::UpstreamProtocolError, Reached::Maybe, what));
        };
        let (body, trailers) = body.read_all(self.longest_reply).await?;
        drop(exchange);
        Ok((facts, ServiceReply { status: head.status, fields: head.headers, body, trailers }))
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let Some(until) = self.until else { return work.await };
        timeout_at(until, work).await.unwrap_or_else(|_| {
            let what = "no reply of the service in time";
            Err(Failure::upstream(Reason::UpstreamRequestTimeout, Reached::Maybe, what))
        })
    }
}
