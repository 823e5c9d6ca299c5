//! EDS: the endpoints of a service port, by zone.
//!
//! The messages are those of `envoy.config.endpoint.v3`, with ordered maps: an endpoint's metadata has several entries, and a
//! resource must encode to the same bytes every time.

use std::collections::BTreeMap;

use outrigger_proto::xds::core::{HealthStatus, Locality};
use outrigger_proto::xds::endpoint::Endpoint as WireEndpoint;
use outrigger_proto::xds::metadata;
use outrigger_proto::xds::protobuf::{UInt32Value, Value};
use prost::Message;

use super::destination::Target;
use super::scope::Scope;
use super::wire::{socket_address, text, uint};
use crate::model::endpoint::{Endpoint, EndpointHealth};
use crate::model::mesh::Mesh;

/// Translates the load assignment of a cluster.
///
/// Endpoints that are not ready are left out. Draining ones are included only if no other is ready, and are healthy then
/// (KEP-1669). The endpoint of a target that is one is always included, since the client chose it.
pub(super) fn load_assignment(scope: Scope<'_>, target: &Target) -> LoadAssignment {
    let mesh = scope.mesh;
    let not_ready = mesh.service(&target.service).is_some_and(|entry| entry.service.publish_not_ready);
    let takes = |health| match health {
        EndpointHealth::Ready => true,
        EndpointHealth::NotReady => not_ready,
        EndpointHealth::Draining => false,
    };
    let all = endpoints(mesh, target);
    let last_resort = !all.iter().any(|endpoint| takes(endpoint.health));
    let mut zones: BTreeMap<Option<outrigger_core::Name>, Vec<LbEndpoint>> = BTreeMap::new();
    for endpoint in all {
        let health = match endpoint.health {
            health if takes(health) || target.only.is_some() => HealthStatus::Healthy,
            EndpointHealth::Draining if last_resort => HealthStatus::Healthy,
            EndpointHealth::Draining => HealthStatus::Draining,
            EndpointHealth::Ready | EndpointHealth::NotReady => continue,
        };
        zones.entry(endpoint.zone.clone()).or_default().push(lb_endpoint(&endpoint, health));
    }
    LoadAssignment {
        cluster_name: target.name(scope.domain()).to_string(),
        endpoints: zones.into_iter().map(|(zone, endpoints)| locality(zone.as_deref(), endpoints)).collect(),
    }
}

/// Returns the endpoints of a target.
pub(super) fn endpoints(mesh: &Mesh, target: &Target) -> Vec<Endpoint> {
    let mut endpoints = mesh.endpoints(&target.service, target.port);
    endpoints.retain(|endpoint| target.only.is_none_or(|only| endpoint.address == only));
    endpoints
}

/// Returns the weight of a zone: its number of endpoints. gRPC ignores a locality without a weight.
fn locality(zone: Option<&str>, endpoints: Vec<LbEndpoint>) -> LocalityEndpoints {
    LocalityEndpoints {
        locality: Some(Locality { zone: zone.unwrap_or_default().into(), ..Default::default() }),
        load_balancing_weight: uint(u32::try_from(endpoints.len()).unwrap_or(u32::MAX)),
        lb_endpoints: endpoints,
    }
}

fn lb_endpoint(endpoint: &Endpoint, health: HealthStatus) -> LbEndpoint {
    let identity = endpoint.peer.identity().map(|identity| identity.as_str());
    let known = [
        (metadata::SPIFFE_ID, identity),
        (metadata::INSTANCE, endpoint.instance.as_deref()),
        (metadata::VERSION, endpoint.version.as_deref()),
    ];
    let workload = known.into_iter().filter_map(|(key, value)| Some((key.into(), text(value?)))).collect();
    let mut filter_metadata = BTreeMap::from([(metadata::WORKLOAD.into(), Fields { fields: workload })]);
    if identity.is_some() {
        let fields = BTreeMap::from([(metadata::TRANSPORT.into(), text(metadata::MTLS))]);
        filter_metadata.insert(metadata::TRANSPORT_SOCKET_MATCH.into(), Fields { fields });
    }
    LbEndpoint {
        endpoint: Some(WireEndpoint { address: socket_address(endpoint.address), ..Default::default() }),
        health_status: health as i32,
        metadata: Some(Metadata { filter_metadata }),
    }
}

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`, with the fields that are used.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LoadAssignment {
    #[prost(string, tag = "1")]
    cluster_name: String,
    #[prost(message, repeated, tag = "2")]
    endpoints: Vec<LocalityEndpoints>,
}

/// `envoy.config.endpoint.v3.LocalityLbEndpoints`.
#[derive(Clone, PartialEq, Message)]
struct LocalityEndpoints {
    #[prost(message, optional, tag = "1")]
    locality: Option<Locality>,
    #[prost(message, repeated, tag = "2")]
    lb_endpoints: Vec<LbEndpoint>,
    #[prost(message, optional, tag = "3")]
    load_balancing_weight: Option<UInt32Value>,
}

/// `envoy.config.endpoint.v3.LbEndpoint`.
#[derive(Clone, PartialEq, Message)]
struct LbEndpoint {
    #[prost(message, optional, tag = "1")]
    endpoint: Option<WireEndpoint>,
    #[prost(int32, tag = "2")]
    health_status: i32,
    #[prost(message, optional, tag = "3")]
    metadata: Option<Metadata>,
}

/// `envoy.config.core.v3.Metadata`.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(btree_map = "string, message", tag = "1")]
    filter_metadata: BTreeMap<String, Fields>,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, Message)]
struct Fields {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}
