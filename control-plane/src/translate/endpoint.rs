//! EDS: the endpoints of a service port, by zone.
//!
//! The messages are those of `envoy.config.endpoint.v3`, with ordered maps: an endpoint's metadata has several entries, and a
//! resource must encode to the same bytes every time.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_core::Name;
use outrigger_proto::xds::core::{HealthStatus, Locality};
use outrigger_proto::xds::endpoint::Endpoint as WireEndpoint;
use outrigger_proto::xds::endpoint::cluster_load_assignment::Policy;
use outrigger_proto::xds::metadata;
use outrigger_proto::xds::protobuf::{UInt32Value, Value};
use prost::Message;

use super::destination::Target;
use super::scope::{Location, Scope};
use super::wire::{socket_address, text, uint};
use crate::model::endpoint::{Endpoint, EndpointHealth};
use crate::model::locality::{Locality as LocalityPolicy, Preference};
use crate::model::mesh::Mesh;
use crate::model::service::TrafficPolicy;

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
    let (location, traffic) = (scope.location(), traffic_policy(mesh, target));
    let mut all = endpoints(mesh, target);
    if target.only.is_none() {
        retain_one_family(mesh, target, &mut all);
        if let (TrafficPolicy::SameNode, Some(node)) = (traffic, &location.node) {
            all.retain(|endpoint| endpoint.node.as_ref() == Some(node));
        }
    }
    let locality_policy = locality_policy(mesh, target);
    let last_resort = !all.iter().any(|endpoint| takes(endpoint.health));
    let is_called = |health| takes(health) || last_resort && health == EndpointHealth::Draining;
    let own_rank = own_rank(locality_policy, &location, all.iter().filter(|of| is_called(of.health)));
    let mut zones: BTreeMap<(u32, Option<Name>), Vec<LbEndpoint>> = BTreeMap::new();
    for endpoint in all {
        let health = match endpoint.health {
            health if takes(health) || target.only.is_some() => HealthStatus::Healthy,
            EndpointHealth::Draining if last_resort => HealthStatus::Healthy,
            EndpointHealth::Draining => HealthStatus::Draining,
            EndpointHealth::Ready | EndpointHealth::NotReady => continue,
        };
        let rank = match zone_rank(locality_policy, &location, &endpoint) {
            0 => own_rank,
            rank => rank,
        };
        let distance = distance(traffic, rank, &location, &endpoint);
        let group = (distance, endpoint.zone.clone());
        zones.entry(group).or_default().push(lb_endpoint(&endpoint, health));
    }
    // Priorities have no gaps (`LocalityLbEndpoints.priority`).
    let distances: BTreeSet<u32> = zones.keys().map(|(distance, _)| *distance).collect();
    let priority = |distance| distances.range(..distance).count();
    let localities = zones
        .into_iter()
        .map(|((distance, zone), endpoints)| locality(zone.as_deref(), priority(distance), endpoints));
    let overprovisioning = locality_policy.and_then(|of| of.overprovisioning_percent);
    LoadAssignment {
        cluster_name: target.name(scope.domain()).to_string(),
        endpoints: localities.collect(),
        policy: overprovisioning
            .map(|percent| Policy { overprovisioning_factor: uint(percent), ..Default::default() }),
    }
}

/// Returns which endpoints of a target the viewer calls. The endpoint of a target that is one was chosen by the client.
pub(super) fn traffic_policy(mesh: &Mesh, target: &Target) -> TrafficPolicy {
    let entry = mesh.service(&target.service).filter(|_| target.only.is_none());
    let of_service = entry.map_or(TrafficPolicy::Cluster, |entry| entry.service.traffic);
    // That no other endpoints are called is more than a preference.
    if of_service == TrafficPolicy::SameNode {
        return of_service;
    }
    match locality_policy(mesh, target).map(|of| of.preference) {
        None => of_service,
        Some(Preference::None) => TrafficPolicy::Cluster,
        Some(Preference::SameZone) => TrafficPolicy::PreferSameZone,
        Some(Preference::SameNode) => TrafficPolicy::PreferSameNode,
    }
}

/// Returns which endpoints of a target are preferred, as the policy of its port says.
fn locality_policy<'a>(mesh: &'a Mesh, target: &Target) -> Option<&'a LocalityPolicy> {
    let traffic = mesh.caller_policies(&target.service, target.port).traffic?;
    traffic.locality.as_ref().filter(|_| target.only.is_none())
}

/// A pod of a dual-stack service has an endpoint in each family, and is called by one: else it would count twice.
fn retain_one_family(mesh: &Mesh, target: &Target, all: &mut Vec<Endpoint>) {
    let ipv6 = mesh.service(&target.service).is_some_and(|entry| entry.service.ipv6_first);
    if all.iter().any(|endpoint| endpoint.address.is_ipv6() == ipv6) {
        all.retain(|endpoint| endpoint.address.is_ipv6() == ipv6);
    }
}

/// Returns the rank of an endpoint's zone for the viewer. The viewer's own zone is 0, and all zones are if it is not known.
fn zone_rank(policy: Option<&LocalityPolicy>, from: &Location, to: &Endpoint) -> u32 {
    match &from.zone {
        Some(zone) if to.zone.as_ref() != Some(zone) => {
            1 + policy.map_or(0, |policy| policy.rank(zone, to.zone.as_ref()))
        }
        _ => 0,
    }
}

/// Returns the rank of the viewer's own zone. It is 0, or that of the next zones that have an endpoint if its own one has fewer than
/// `locality.minEndpoints`.
fn own_rank<'a>(
    policy: Option<&LocalityPolicy>,
    from: &Location,
    called: impl Iterator<Item = &'a Endpoint>,
) -> u32 {
    let Some(least) = policy.and_then(|policy| policy.min_endpoints) else { return 0 };
    let (own, others): (Vec<_>, Vec<_>) =
        called.map(|endpoint| zone_rank(policy, from, endpoint)).partition(|rank| *rank == 0);
    if own.len() < least as usize { others.into_iter().min().unwrap_or(0) } else { 0 }
}

/// Returns how far an endpoint in a zone of this rank is from the viewer: farther ones are called if no nearer one is available.
fn distance(traffic: TrafficPolicy, zone: u32, from: &Location, to: &Endpoint) -> u32 {
    let other_node = from.node.is_none() || to.node != from.node;
    match traffic {
        TrafficPolicy::Cluster | TrafficPolicy::SameNode => 0,
        TrafficPolicy::PreferSameZone => zone,
        TrafficPolicy::PreferSameNode if other_node => 1 + zone,
        TrafficPolicy::PreferSameNode => 0,
    }
}

/// Returns the endpoints of a target.
pub(super) fn endpoints(mesh: &Mesh, target: &Target) -> Vec<Endpoint> {
    let mut endpoints = mesh.endpoints(&target.service, target.port);
    endpoints.retain(|endpoint| target.only.is_none_or(|only| endpoint.address == only));
    endpoints
}

/// Returns the weight of a zone: its number of endpoints. gRPC ignores a locality without a weight.
fn locality(zone: Option<&str>, priority: usize, endpoints: Vec<LbEndpoint>) -> LocalityEndpoints {
    LocalityEndpoints {
        priority: u32::try_from(priority).unwrap_or(u32::MAX),
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
    #[prost(message, optional, tag = "4")]
    policy: Option<Policy>,
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
    #[prost(uint32, tag = "5")]
    priority: u32,
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
