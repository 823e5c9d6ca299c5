//! Finds an endpoint for opaque bytes and connects to it, elsewhere if the first does not answer or takes too long.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use outrigger_config::snapshot::Snapshot;
use outrigger_config::tcp_proxy::TcpProxy;
use outrigger_core::Name;
use outrigger_core::error::Failure;
use outrigger_core::reason::Reason;
use outrigger_core::record::{AttemptRecord, Protocol, Upstream};
use outrigger_core::trace::SpanId;
use outrigger_policy::blame::{self, Blame, Freshness};
use outrigger_policy::outlier::Outcome;

use crate::client::ClientFacts;
use crate::context::Context;
use crate::socket::stream::Stream;
use crate::upstream::cluster::{Cluster, PickBy, Picked, Probing};
use crate::upstream::dial::EndpointFacts;
use crate::upstream::host::{Host, HostAttempt};
use crate::upstream::pool::Permit;
use crate::upstream::race::{Winner, race};

/// A connection to an endpoint, and the permits that it holds.
#[derive(Debug)]
pub(crate) struct UpstreamConnection {
    /// The connection.
    pub(crate) stream: Stream,
    /// The endpoint's identity and the TLS session.
    pub(crate) facts: EndpointFacts,
    /// The endpoint.
    pub(crate) address: SocketAddr,
    /// The workload instance behind it.
    pub(crate) instance: Option<Name>,
    /// The cluster.
    pub(crate) cluster: Name,
    _permit: Permit,
    _asking: HostAttempt,
}

impl UpstreamConnection {
    /// Returns the upstream for a record.
    pub(crate) fn upstream(&self) -> Upstream {
        let EndpointFacts { peer, tls } = self.facts.clone();
        Upstream { cluster: self.cluster.clone(), connected: true, peer, tls }
    }

    /// Returns the record of the attempt that connected within `elapsed`.
    pub(crate) fn attempt(&self, elapsed: Duration, span: Option<SpanId>) -> AttemptRecord {
        AttemptRecord {
            offset: Duration::ZERO,
            duration: elapsed,
            cluster: self.cluster.clone(),
            endpoint: Some(self.address),
            instance: self.instance.clone(),
            resend_count: 0,
            peer: self.facts.peer.clone(),
            tls: self.facts.tls,
            protocol: Some(Protocol::Tcp),
            until_connected: elapsed,
            until_first_byte: None,
            status: 0,
            grpc_status: None,
            reason: None,
            reached: None,
            span,
        }
    }
}

/// Connects to an endpoint of one of `proxy`'s clusters, within its number of attempts.
pub(crate) async fn open(
    context: &Context,
    snapshot: &Snapshot,
    proxy: &TcpProxy,
    client: &ClientFacts,
) -> Result<UpstreamConnection, Failure> {
    let share = proxy.clusters.pick(fastrand::u32(..));
    let config = snapshot
        .cluster(&share.cluster)
        .ok_or_else(|| Failure::local(Reason::NoClusterFound, format!("no cluster {}", share.cluster)))?;
    let cluster = context.cluster(config).await?;
    cluster.first_checks().await;
    let hash = cluster.hash(&proxy.hash_policies, |policies| policies.of_connection(&client.source()));
    let by = PickBy { hash, ..PickBy::original(client.destination) };
    let mut tried = Vec::new();
    loop {
        let Picked { mut host, doubted } = cluster.pick(&tried, by, Probing::Covered)?;
        if let Some(doubted) = doubted.filter(|doubted| tried.is_empty() && doubted.takes_test()) {
            host = doubted;
        }
        let rival = || {
            let tried: Vec<_> = tried.iter().copied().chain([host.address]).collect();
            let other = cluster.pick(&tried, by, Probing::Never).ok()?.host;
            (host.is_connecting() && !tried.contains(&other.address)).then_some(other)
        };
        match connect(&cluster, &host, client, rival).await {
            Ok(opened) => return Ok(opened),
            Err(failure) => {
                tried.push(host.address);
                // With one more endpoint than attempts, a dead one costs no client its connection: nothing was written.
                let attempts = usize::try_from(proxy.max_connect_attempts).unwrap_or(usize::MAX).max(2);
                if tried.len() >= attempts || failure.reason == Reason::UpstreamOverflow {
                    return Err(failure);
                }
            }
        }
    }
}

/// Connects to a destination outside the mesh.
pub(crate) async fn passthrough(
    context: &Context,
    asked: &str,
    client: &ClientFacts,
) -> Result<UpstreamConnection, Failure> {
    let (cluster, hosts) = context.passthrough(asked).await?;
    let mut last = Failure::local(Reason::NoDestination, asked);
    for (at, host) in hosts.iter().enumerate() {
        let rival = || hosts.get(at + 1).filter(|_| host.is_connecting()).cloned();
        match connect(&cluster, host, client, rival).await {
            Ok(opened) => return Ok(opened),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// Connects to `host`, or to the one that `rival` gives when that takes too long.
async fn connect(
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
    client: &ClientFacts,
    rival: impl FnOnce() -> Option<Rc<Host>>,
) -> Result<UpstreamConnection, Failure> {
    let begin = |host: &Rc<Host>| {
        cluster.series.attempts.increment();
        host.begin()
    };
    let (first, mut second, mut lost) = (begin(host), None, None);
    let open = |host: &Rc<Host>| Host::opaque_of(Rc::clone(host), cluster.peer(&client.key));
    let rival = || {
        second = rival().map(|host| begin(&host));
        second.as_ref().map(|second: &HostAttempt| open(second.host()))
    };
    let opening = pin!(open(host));
    let (winner, opened) = race(opening, host.patience(), rival, |_, failure| lost = Some(failure)).await;
    let (asking, loser) = match (winner, second) {
        (Winner::Second, Some(second)) => (second, Some(first)),
        (_, second) => (first, second),
    };
    match (loser, lost) {
        (Some(loser), Some(failure)) => judge(cluster, &loser, &failure),
        // It took too long, and nothing more is known of it.
        (Some(loser), None) if winner == Winner::Second => loser.failed(),
        _ => {}
    }
    match opened {
        Ok((dialled, permit)) => {
            asking.heard();
            asking.answered();
            cluster.observe(asking.host(), Outcome::Success);
            Ok(UpstreamConnection {
                stream: dialled.stream,
                facts: dialled.facts,
                address: asking.host().address,
                instance: asking.host().instance.clone(),
                cluster: cluster.name.clone(),
                _permit: permit,
                _asking: asking,
            })
        }
        Err(failure) => {
            judge(cluster, &asking, &failure);
            Err(failure)
        }
    }
}

fn judge(cluster: &Rc<Cluster>, asking: &HostAttempt, failure: &Failure) {
    let Blame { alive, outcome } = blame::failed(failure, Freshness::Fresh);
    asking.ended(failure, alive);
    if let Some(outcome) = outcome {
        asking.failed();
        cluster.observe(asking.host(), outcome);
    }
}
