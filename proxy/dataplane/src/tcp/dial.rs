//! Finds an endpoint for opaque bytes and connects to it, elsewhere if the first does not answer.

use std::net::SocketAddr;
use std::rc::Rc;

use outrigger_config::snapshot::Snapshot;
use outrigger_config::tcp_proxy::TcpProxy;
use outrigger_core::Name;
use outrigger_core::error::Failure;
use outrigger_core::identity::SpiffeId;
use outrigger_core::reason::Reason;
use outrigger_policy::outlier::Outcome;

use crate::client::ClientFacts;
use crate::context::Context;
use crate::socket::stream::Stream;
use crate::upstream::cluster::Cluster;
use crate::upstream::host::{Asking, Host};
use crate::upstream::pool::Permit;

/// A connection to an endpoint, and what it holds while it lives.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The connection.
    pub(crate) stream: Stream,
    /// Who answered, verified.
    pub(crate) peer: Option<SpiffeId>,
    /// The endpoint.
    pub(crate) address: SocketAddr,
    /// The workload instance behind it.
    pub(crate) instance: Option<Name>,
    /// The cluster.
    pub(crate) cluster: Name,
    _permit: Permit,
    _asking: Asking,
}

/// Connects to an endpoint of one of `proxy`'s clusters, within its number of attempts.
pub(crate) async fn open(
    context: &Context,
    snapshot: &Snapshot,
    proxy: &TcpProxy,
    client: &ClientFacts,
) -> Result<Opened, Failure> {
    let share = proxy.clusters.pick(fastrand::u32(..));
    let config = snapshot
        .cluster(&share.cluster)
        .ok_or_else(|| Failure::local(Reason::NoClusterFound, format!("no cluster {}", share.cluster)))?;
    let cluster = context.clusters.cluster(config);
    let mut tried = Vec::new();
    loop {
        let host = cluster.pick(&tried, Some(client.destination))?;
        match connect(&cluster, &host, client).await {
            Ok(opened) => return Ok(opened),
            Err(failure) => {
                tried.push(host.address);
                // With one more endpoint than attempts, a dead one costs nobody a connection: nothing was written.
                let attempts = usize::try_from(proxy.max_connect_attempts).unwrap_or(usize::MAX).max(2);
                if tried.len() >= attempts || failure.reason == Reason::UpstreamOverflow {
                    return Err(failure);
                }
            }
        }
    }
}

/// Connects to a destination outside the mesh.
pub(crate) async fn outside(context: &Context, asked: &str, client: &ClientFacts) -> Result<Opened, Failure> {
    let (cluster, hosts) = context.outside(asked).await?;
    let mut last = Failure::local(Reason::NoDestination, asked);
    for host in hosts {
        match connect(&cluster, &host, client).await {
            Ok(opened) => return Ok(opened),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

async fn connect(cluster: &Rc<Cluster>, host: &Rc<Host>, client: &ClientFacts) -> Result<Opened, Failure> {
    let asking = host.begin();
    cluster.series.tries.increment();
    match host.opaque(&cluster.peer(&client.key)).await {
        Ok((dialled, permit)) => {
            asking.answered();
            cluster.observe(host, Outcome::Success);
            Ok(Opened {
                stream: dialled.stream,
                peer: dialled.peer,
                address: host.address,
                instance: host.instance.clone(),
                cluster: cluster.name.clone(),
                _permit: permit,
                _asking: asking,
            })
        }
        Err(failure) => {
            if failure.reason != Reason::UpstreamOverflow {
                asking.failed();
                cluster.observe(host, Outcome::LocalOrigin);
            }
            Err(failure)
        }
    }
}
