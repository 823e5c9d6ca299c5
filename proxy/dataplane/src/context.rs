//! The state of one worker: its view of the configuration, its clusters, its recorder.
//!
//! Made by the worker, shared by its connections through an `Rc`; nothing here leaves the thread.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::cluster::{
    Balancing, Cluster as ClusterConfig, ConnectionSettings, Discovery, EndpointsHandle, UpstreamProtocol,
};
use outrigger_config::endpoint::Transport;
use outrigger_config::on_demand::OnDemand;
use outrigger_config::publish::View;
use outrigger_core::error::{Failure, Reached};
use outrigger_core::reason::Reason;
use outrigger_core::trace::Tracing;
use outrigger_policy::circuit_breaker::CircuitBreakers;
use outrigger_policy::overload::OverloadMode;

use crate::capacity::admission::Admission;
use crate::codec::limits::Limits;
use crate::identity::Identity;
use crate::permission::Permissions;
use crate::record::Recorder;
use crate::resolver::{Resolver, Waiting};
use crate::upstream::cluster::{Cluster, Clusters};
use crate::upstream::host::Host;

/// The name of the cluster of destinations outside the mesh (Istio: `PassthroughCluster`).
pub(crate) const PASSTHROUGH_CLUSTER: &str = "outrigger.passthrough";

/// The state that the connections of one worker share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) view: View,
    pub(crate) on_demand: OnDemand,
    pub(crate) clusters: Rc<Clusters>,
    pub(crate) identity: Rc<Identity>,
    pub(crate) recorder: Recorder,
    pub(crate) resolver: Resolver,
    pub(crate) limits: Rc<Limits>,
    pub(crate) tracing: Tracing,
    /// Admits accepted connections.
    pub(crate) admission: Admission,
    /// The permissions of relayed connections.
    pub(crate) permissions: Rc<Permissions>,
    pub(crate) passthrough: Arc<ClusterConfig>,
    /// Bytes of request bodies that are kept for another attempt.
    pub(crate) kept_bytes: Rc<Cell<usize>>,
    /// The addresses of this proxy's own listeners.
    pub(crate) own_addresses: RefCell<Vec<SocketAddr>>,
}

impl Context {
    /// Returns the hosts of a destination outside the mesh by its requested name: the addresses in DNS, or the address itself.
    pub(crate) async fn passthrough(&self, name: &str) -> Result<(Rc<Cluster>, Vec<Rc<Host>>), Failure> {
        let nowhere = |why: &str| {
            Failure::upstream(Reason::NoDestination, Reached::NotWritten, format!("{name}: {why}"))
        };
        let addresses = match name.parse::<SocketAddr>() {
            Ok(address) => vec![address],
            Err(_) => {
                let (host, port) = name.rsplit_once(':').ok_or_else(|| nowhere("no port"))?;
                let port: u16 = port.parse().map_err(|_| nowhere("no port"))?;
                let resolving = self.resolver.resolve(host, self.passthrough.connect_timeout);
                let addresses = resolving.await.map_err(|why| nowhere(&why))?.addresses;
                addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()
            }
        };
        if addresses.iter().any(|address| self.is_own(*address)) {
            // The connection would loop back to this proxy.
            return Err(nowhere("this is the proxy itself"));
        }
        let cluster = self.clusters.cluster(&self.passthrough);
        let hosts: Vec<_> =
            addresses.iter().map(|address| cluster.unlisted(*address, &Transport::Plain)).collect();
        if hosts.is_empty() {
            return Err(nowhere("no address"));
        }
        Ok((cluster, hosts))
    }

    /// Returns the cluster that `config` describes. If its endpoints are in DNS, they are looked up first, within the `connect_timeout` of
    /// the cluster. If DNS fails, the last ones stay; without any, an error is returned.
    pub(crate) async fn cluster(&self, config: &Arc<ClusterConfig>) -> Result<Rc<Cluster>, Failure> {
        let cluster = self.clusters.cluster(config);
        self.lookup(&cluster).await?;
        Ok(cluster)
    }

    /// Looks up the endpoints of a cluster, as [`Self::cluster`] does ([`Resolver::look_up`]).
    pub(crate) fn lookup(&self, cluster: &Rc<Cluster>) -> Waiting {
        let cluster = Rc::clone(cluster);
        self.resolver.look_up(move || cluster.of_dns())
    }
}

impl Context {
    /// Whether dialling `address` would reach a listener of this proxy.
    pub(crate) fn is_own(&self, address: SocketAddr) -> bool {
        self.own_addresses.borrow().iter().any(|own| {
            let here = || address.ip().is_loopback() || is_local(address.ip());
            let same = own.ip() == address.ip() || own.ip().is_unspecified() && here();
            own.port() == address.port() && (same || address.ip().is_unspecified())
        })
    }
}

/// Returns whether an address is one of this machine or network namespace: only those can be bound.
fn is_local(ip: IpAddr) -> bool {
    std::net::UdpSocket::bind((ip, 0)).is_ok()
}

/// Returns the cluster of destinations outside the mesh. Its hosts are those that were requested.
pub(crate) fn passthrough_cluster() -> Option<Arc<ClusterConfig>> {
    Some(Arc::new(ClusterConfig {
        name: PASSTHROUGH_CLUSTER.into(),
        discovery: Discovery::OriginalDestination(Transport::Plain),
        endpoints: EndpointsHandle::default(),
        connect_timeout: Duration::from_secs(5),
        breakers: CircuitBreakers::decode(None).ok()?,
        overload: OverloadMode::Off,
        hedging: None,
        outlier: None,
        balancing: Balancing::Random,
        slow_start: None,
        hash_policies: Default::default(),
        health_check: None,
        panic: Default::default(),
        session_statuses: Default::default(),
        protocol: UpstreamProtocol::AsDownstream,
        connections: ConnectionSettings {
            idle_timeout: None,
            max_duration: None,
            max_requests: None,
            max_concurrent_streams: 256,
            initial_stream_window: 256 * 1024,
            initial_connection_window: 16 * 1024 * 1024,
        },
    }))
}
