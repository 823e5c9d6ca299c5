//! An xDS resource, decoded once: its content and the resources that it refers to.
//!
//! Discovery calls [`Compiled::new`] for each resource of a response before it acknowledges the response. The cache,
//! warming and snapshots all use this value.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_core::Name;
pub use outrigger_policy::field::Unusable;
use outrigger_policy::field::unpack;
use outrigger_proto::xds::protobuf::Any;

use crate::adopt::Places;
use crate::cluster::{self, Discovery};
use crate::endpoint::Assignment;
use crate::handler::Handler;
use crate::http_manager::RouteSource;
use crate::listener;
use crate::route::RouteTable;
use outrigger_proto::kind::Kind;

/// The cluster name that the control plane uses for an invalid backend. It never exists, and warming does not wait for it.
pub const INVALID_BACKEND: &str = "outrigger.invalid-backend";

/// A resource as received.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw {
    /// Its name in the discovery response.
    pub name: Name,
    /// Its other names (`Resource.aliases`): in wildcard mode, the addresses of a destination.
    pub aliases: Vec<Name>,
    /// Its version.
    pub version: String,
    /// The message.
    pub body: Any,
}

/// A decoded and validated resource.
#[derive(Debug)]
pub struct Compiled {
    raw: Raw,
    received: Option<SystemTime>,
    references: Box<[(Kind, Name)]>,
    pub(crate) value: Value,
}

/// The decoded content of a resource.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Listener(listener::Compiled),
    Route(Arc<RouteTable>),
    Cluster(Arc<cluster::Compiled>),
    Endpoints(Arc<Assignment>),
}

impl Compiled {
    /// Decodes and compiles a resource. `before` is the current version of this resource, if any: unchanged content is not
    /// decoded again, and a cluster keeps its endpoints.
    ///
    /// Returns an error that names the invalid field and the reason.
    pub fn new(kind: Kind, raw: Raw, before: Option<&Self>) -> Result<Self, Unusable> {
        if let Some(before) = before.filter(|before| before.raw.body == raw.body) {
            let (references, value) = (before.references.clone(), before.value.clone());
            return Ok(Self { raw, received: None, references, value });
        }
        let value = Value::decode(kind, &raw, before)?;
        if let Some(before) = before {
            value.places().adopt(&before.value.places());
        }
        Ok(Self { raw, received: None, references: value.references(), value })
    }

    /// Records when it was received from the control plane.
    pub fn received_at(self, time: SystemTime) -> Self {
        Self { received: Some(time), ..self }
    }

    /// Returns when it was received, or `None` if that was before a restart.
    pub fn received(&self) -> Option<SystemTime> {
        self.received
    }

    /// Returns the resource as received.
    pub fn raw(&self) -> &Raw {
        &self.raw
    }

    /// Returns the resources that it refers to, each once: routes and clusters of a listener, clusters of a route
    /// configuration, endpoints of a cluster. [`INVALID_BACKEND`] is not included.
    pub fn references(&self) -> impl Iterator<Item = (Kind, &Name)> {
        self.references.iter().map(|(kind, name)| (*kind, name))
    }

    /// Returns true if it is a listener without an address, which is subscribed to by name: a destination or a host.
    pub fn is_destination(&self) -> bool {
        self.is_host() || matches!(self.value, Value::Listener(listener::Compiled::Destination(_)))
    }

    /// Returns true if it has the addresses of a host. The server sends none of these without a subscription by name.
    pub fn is_host(&self) -> bool {
        matches!(self.value, Value::Listener(listener::Compiled::Host(_)))
    }

    /// Returns the address of a listener, or `None` if it has none or is of another kind.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.value {
            Value::Listener(listener::Compiled::Bound(listener)) => Some(listener.address),
            _ => None,
        }
    }

    /// Compares the content, ignoring versions: a server may send new content under an old version.
    pub fn same_content(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || (self.raw.body == other.raw.body && self.raw.aliases == other.raw.aliases)
    }
}

impl Value {
    fn decode(kind: Kind, raw: &Raw, before: Option<&Compiled>) -> Result<Self, Unusable> {
        let Raw { name, aliases: _, version: _, body } = raw; // aliases are read when a snapshot is built
        let same_name = |field, inner: &str| match inner == &**name {
            true => Ok(()),
            false => Err(Unusable::new(field, format_args!("is {inner:?}, but the resource is {name:?}"))),
        };
        Ok(match kind {
            Kind::Listener => {
                let wire: outrigger_proto::xds::listener::Listener = unpack(body, kind.type_url())?;
                same_name("name", &wire.name)?;
                Self::Listener(listener::Compiled::decode(wire)?)
            }
            Kind::Route => {
                let wire: outrigger_proto::xds::route::RouteConfiguration = unpack(body, kind.type_url())?;
                same_name("name", &wire.name)?;
                Self::Route(Arc::new(RouteTable::decode(wire)?))
            }
            Kind::Cluster => {
                let wire: outrigger_proto::xds::cluster::Cluster = unpack(body, kind.type_url())?;
                same_name("name", &wire.name)?;
                let before = match before.map(|before| &before.value) {
                    Some(Self::Cluster(before)) => Some(&*before.cluster),
                    _ => None,
                };
                Self::Cluster(Arc::new(cluster::Compiled::decode(wire, before)?))
            }
            Kind::Endpoints => {
                let wire: outrigger_proto::xds::endpoint::ClusterLoadAssignment =
                    unpack(body, kind.type_url())?;
                same_name("cluster_name", &wire.cluster_name)?;
                Self::Endpoints(Arc::new(Assignment::decode(wire)?))
            }
        })
    }

    /// Returns the configurations of its filters.
    fn places(&self) -> Places<'_> {
        let mut places = Places::default();
        match self {
            Self::Listener(listener) => {
                for (chain, handler) in listener.handlers() {
                    places.add_handler(chain, handler);
                }
            }
            Self::Route(table) => places.add_table("", table),
            Self::Cluster(_) | Self::Endpoints(_) => {}
        }
        places
    }

    fn references(&self) -> Box<[(Kind, Name)]> {
        let mut names = BTreeSet::new();
        let mut clusters = Vec::new();
        match self {
            Self::Listener(listener) => {
                for (_, handler) in listener.handlers() {
                    handler_references(handler, &mut names, &mut clusters);
                }
            }
            Self::Route(table) => clusters.extend(table.clusters()),
            Self::Cluster(compiled) => {
                if let Discovery::Eds(name) = &compiled.cluster.discovery {
                    names.insert((Kind::Endpoints, name.clone()));
                }
            }
            Self::Endpoints(_) => {}
        }
        clusters.retain(|name| &***name != INVALID_BACKEND);
        names.extend(clusters.into_iter().map(|name| (Kind::Cluster, name.clone())));
        names.into_iter().collect()
    }
}

fn handler_references<'a>(
    handler: &'a Handler,
    names: &mut BTreeSet<(Kind, Name)>,
    clusters: &mut Vec<&'a Name>,
) {
    clusters.extend(handler.tcp_clusters());
    clusters.extend(handler.filters().flat_map(|filter| filter.config.clusters()));
    match handler.routes() {
        Some(RouteSource::Named(name)) => drop(names.insert((Kind::Route, name.clone()))),
        Some(RouteSource::Inline(table)) => clusters.extend(table.clusters()),
        None => {}
    }
}
