//! A name server whose answers a test chooses, and clusters of its names.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use outrigger_config::build::Builder;
use outrigger_config::cluster::Cluster;
use outrigger_config::cluster::dns::Answer;
use outrigger_config::compiled::{Compiled, Raw};
use outrigger_config::resources::Resources;
use outrigger_dataplane::Resolver;
use outrigger_proto::kind::Kind;
use outrigger_proto::xds::cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
use outrigger_proto::xds::core::address::Address;
use outrigger_proto::xds::core::socket_address::PortSpecifier;
use outrigger_proto::xds::endpoint::lb_endpoint::HostIdentifier;
use outrigger_proto::xds::protobuf::{self, Any};
use outrigger_proto::xds::{cluster as wire, core, endpoint, type_url};
use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;

/// What the name server says of every name.
#[derive(Debug, Clone, PartialEq)]
pub enum Says {
    /// Nothing, until it says something else.
    Nothing,
    Fails,
    /// That it does not exist; this is valid for so long.
    Absent(Duration),
    /// 127.0.0.1 for an hour, to the lookup of this number, from 1. Nothing to others.
    AddressTo(usize),
    /// This address, which is valid for so long.
    Address(&'static str, Duration),
}

pub const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone)]
pub struct NameServer {
    pub says: watch::Sender<Says>,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    pub fn new(says: Says) -> Self {
        Self { says: watch::Sender::new(says), asked: Arc::default() }
    }

    /// The number of lookups so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub fn resolver(&self) -> Resolver {
        let (says, asked) = (self.says.clone(), Arc::clone(&self.asked));
        Resolver::new(move |_| {
            let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
            let mut says = says.subscribe();
            async move {
                let answers = |says: &Says| match says {
                    Says::Nothing => false,
                    Says::AddressTo(to) => *to == number,
                    _ => true,
                };
                let says = says.wait_for(answers).await.unwrap().clone();
                let (addresses, valid) = match says {
                    Says::Address(address, valid) => (vec![address.parse().unwrap()], valid),
                    Says::Absent(valid) => (Vec::new(), valid),
                    Says::AddressTo(_) => (vec!["127.0.0.1".parse().unwrap()], HOUR),
                    _ => return Err("SERVFAIL".into()),
                };
                Ok(Answer { addresses, valid_until: Instant::now() + valid })
            }
        })
    }
}

/// Knows `localhost` only.
pub fn localhost() -> Resolver {
    Resolver::new(|host| async move {
        if host != "localhost" {
            return Err("no such host".into());
        }
        Ok(Answer { addresses: vec!["127.0.0.1".parse().unwrap()], valid_until: Instant::now() + HOUR })
    })
}

/// A cluster of plaintext HTTP/1 endpoints at the addresses of `app.example`.
pub fn named(name: &str, port: u16, connect_timeout: Duration) -> Cluster {
    let socket = core::SocketAddress {
        address: "app.example".into(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    let address = core::Address { address: Some(Address::SocketAddress(socket)) };
    let one = endpoint::Endpoint { address: Some(address), ..Default::default() };
    let one =
        endpoint::LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(one)), ..Default::default() };
    let locality = endpoint::LocalityLbEndpoints { lb_endpoints: vec![one], ..Default::default() };
    let cluster = wire::Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into())),
        connect_timeout: Some(protobuf::Duration {
            seconds: connect_timeout.as_secs().try_into().unwrap(),
            nanos: connect_timeout.subsec_nanos().try_into().unwrap(),
        }),
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: name.into(),
            endpoints: vec![locality],
            ..Default::default()
        }),
        ..Default::default()
    };
    let body = Any { type_url: type_url::CLUSTER.into(), value: cluster.encode_to_vec() };
    let raw = Raw { name: name.into(), aliases: vec![], version: "1".into(), body };
    let (mut resources, kind) = (Resources::default(), Kind::Cluster);
    resources.insert(kind, Arc::new(Compiled::new(kind, raw, None).unwrap()));
    let snapshot = Builder::default().build(&Resources::default(), &resources).unwrap();
    Cluster::clone(snapshot.cluster(name).unwrap())
}

/// The port of an application.
pub fn port(application: SocketAddr) -> u16 {
    assert_eq!(application.ip().to_string(), "127.0.0.1");
    application.port()
}
