//! The endpoints of a cluster and their attributes (`envoy.config.endpoint.v3.ClusterLoadAssignment`).

pub mod groups;
pub mod hashing;
pub mod check;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use foldhash::{HashMap, HashSet};
use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;
use outrigger_policy::field::{Unusable, each, number, required, unsupported_any};
use outrigger_proto::xds::{core, endpoint as wire_endpoint, metadata};

use self::check::EndpointCheck;
use self::groups::Groups;
use self::hashing::{Hashing, Tables};
use crate::host_tls::HostTls;
use crate::tls::UpstreamTls;
use crate::wire::{socket_address, string_field};

/// The endpoints of a cluster at one moment.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// Changes with every update; 0 before the first assignment.
    pub version: u64,
    /// The endpoints. Unchanged ones are shared with the previous list.
    pub list: Box<[Arc<Endpoint>]>,
    /// The overprovisioning factor of priorities and localities, in percent: with 140, one with 5 of 7 endpoints available
    /// gets its full load, and one with 1 of 7 a fifth (`ClusterLoadAssignment.Policy.overprovisioning_factor`).
    pub overprovisioning: u32,
    groups: Groups,
    tables: Option<(Hashing, Tables)>,
    /// The index of each address. Made when a session first asks for one.
    addresses: OnceLock<HashMap<SocketAddr, usize>>,
}

impl Endpoints {
    /// Creates the list and groups its endpoints. `hashing` is how a cluster picks them by hashes, if it does.
    pub fn new(
        version: u64,
        list: Box<[Arc<Endpoint>]>,
        overprovisioning: u32,
        hashing: Option<Hashing>,
    ) -> Self {
        let groups = Groups::new(&list, overprovisioning);
        let tables = hashing.map(|hashing| (hashing, Tables::new(hashing, &list, groups.tiers())));
        Self { version, list, overprovisioning, groups, tables, addresses: OnceLock::new() }
    }

    /// Returns how endpoints are picked by hashes, or `None` if they are not.
    pub fn hashing(&self) -> Option<Hashing> {
        self.tables.as_ref().map(|(hashing, _)| *hashing)
    }

    /// Returns the index of the endpoint of a hash: the same one for as long as the list and `usable` stay the same. Returns `None`
    /// if no endpoint is usable, or if they are not picked by hashes. `available` is as in [`Groups::pick`].
    pub fn of_hash(&self, hash: u64, available: &[usize], usable: impl Fn(usize) -> bool) -> Option<usize> {
        let (_, tables) = self.tables.as_ref()?;
        self.groups.pick_tier(available, hash, |tier| tables.find(tier, hash, &usable))
    }

    /// Returns the index of the endpoint at this address.
    pub fn at(&self, address: SocketAddr) -> Option<usize> {
        let indexed = || self.list.iter().enumerate().map(|(at, endpoint)| (endpoint.address, at)).collect();
        self.addresses.get_or_init(indexed).get(&address).copied()
    }

    /// Returns their groups, by index in the list.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }
}

impl Default for Endpoints {
    fn default() -> Self {
        Self::new(0, Box::default(), 140, None)
    }
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: SocketAddr,
    /// Its health according to the control plane.
    pub health: HealthStatus,
    /// Its weight within its locality; at least 1.
    pub weight: u32,
    /// The weight of its locality within its priority; `None` if localities are not weighted.
    pub locality_weight: Option<u32>,
    /// Its locality.
    pub locality: Locality,
    /// Its priority. 0 is used first; a higher number if too few endpoints of the lower ones are available.
    pub priority: u32,
    /// Its transport.
    pub transport: Transport,
    /// The identity that it must present, if known.
    pub identity: Option<SpiffeId>,
    /// Its workload instance.
    pub instance: Option<Name>,
    /// The version of its workload.
    pub workload_version: Option<Name>,
    /// What is hashed instead of its address in a cluster that picks endpoints by hashes.
    pub hash_key: Option<Name>,
    /// How it is checked, where that differs from its cluster's checks.
    pub health_check: EndpointCheck,
}

/// The health of an endpoint according to the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthStatus {
    /// Receives requests.
    Healthy,
    /// Receives requests only if too few healthy ones are left.
    Degraded,
    /// Completes its requests and receives no new ones.
    Draining,
    /// Receives no requests.
    Unhealthy,
}

/// The locality of an endpoint. Fields are empty if unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality {
    /// Region.
    pub region: Name,
    /// Zone.
    pub zone: Name,
    /// Sub-zone.
    pub sub_zone: Name,
}

/// The transport of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// Plaintext.
    Plain,
    /// TLS with another workload.
    Tls(Arc<UpstreamTls>),
    /// TLS with a host outside the mesh.
    Host(Arc<HostTls>),
}

impl Endpoint {
    /// Returns the identities that the peer may have: the endpoint's own if it is known and the cluster allows it, else all
    /// that the cluster allows. `None` for plaintext and for a host outside the mesh. An empty list accepts no peer.
    pub fn expected_peers(&self) -> Option<Arc<[SpiffeId]>> {
        let Transport::Tls(tls) = &self.transport else { return None };
        Some(match &self.identity {
            None => tls.peers.clone(),
            Some(identity) => tls.peers.iter().filter(|peer| *peer == identity).cloned().collect(),
        })
    }
}

impl Endpoint {
    fn hash_key(&self) -> Cow<'_, str> {
        self.hash_key.as_deref().map_or_else(|| self.address.to_string().into(), Cow::Borrowed)
    }
}

/// The settings of a cluster that apply to its endpoints, inline or from EDS.
#[derive(Debug, Clone)]
pub(crate) struct EndpointSettings {
    /// Their transports, selected by their metadata.
    pub(crate) matches: Vec<(Vec<(String, String)>, Transport)>,
    pub(crate) otherwise: Transport,
    /// Whether localities are weighted.
    pub(crate) locality_weighted: bool,
    /// How they are picked by hashes.
    pub(crate) hashing: Option<Hashing>,
    /// Whether names are hashed instead of addresses (`use_hostname_for_hashing`).
    pub(crate) hashes_names: bool,
}

impl EndpointSettings {
    /// Returns the first transport all of whose criteria the endpoint meets (`Cluster.transport_socket_matches`).
    pub(crate) fn transport(&self, metadata: &[(String, String)]) -> Transport {
        let holds = |(criteria, _): &&(Vec<_>, _)| criteria.iter().all(|wanted| metadata.contains(wanted));
        self.matches.iter().find(holds).map_or(&self.otherwise, |(_, transport)| transport).clone()
    }
}

/// The decoded endpoints of a cluster, before their transports are selected.
#[derive(Debug, Clone)]
pub(crate) struct Assignment {
    endpoints: Vec<Assigned>,
    /// See [`Endpoints::overprovisioning`].
    pub(crate) overprovisioning: u32,
}

/// An endpoint without its transport, and the string fields of its metadata.
#[derive(Debug, Clone)]
struct Assigned {
    endpoint: Endpoint,
    name: Option<Name>,
    transport: Vec<(String, String)>,
}

impl Assignment {
    /// Returns copies of its first endpoint at the addresses that `at` returns for its port.
    pub(crate) fn copies(&self, at: impl FnOnce(u16) -> Vec<SocketAddr>) -> Self {
        let copy = |first: &Assigned| {
            let one = |address| Assigned {
                endpoint: Endpoint { address, ..first.endpoint.clone() },
                ..first.clone()
            };
            at(first.endpoint.address.port()).into_iter().map(one).collect()
        };
        let endpoints = self.endpoints.first().map_or_else(Vec::new, copy);
        Self { endpoints, overprovisioning: self.overprovisioning }
    }

    /// Decodes an assignment.
    pub(crate) fn decode(wire: wire_endpoint::ClusterLoadAssignment) -> Result<Self, Unusable> {
        let wire_endpoint::ClusterLoadAssignment { cluster_name: _, endpoints, named_endpoints, policy } =
            wire;
        unsupported_any(&[("named_endpoints", !named_endpoints.is_empty())])?;
        let mut overprovisioning = Endpoints::default().overprovisioning;
        if let Some(policy) = policy {
            let wire_endpoint::cluster_load_assignment::Policy {
                drop_overloads,
                overprovisioning_factor,
                weighted_priority_health,
                // Assignments stay until they are replaced, like all configuration.
                endpoint_stale_after: _,
            } = policy;
            unsupported_any(&[
                ("policy.drop_overloads", !drop_overloads.is_empty()),
                ("policy.weighted_priority_health", weighted_priority_health),
            ])?;
            overprovisioning = match number(overprovisioning_factor) {
                Some(0) => return Err(Unusable::new("policy.overprovisioning_factor", "must be at least 1")),
                factor => factor.unwrap_or(overprovisioning),
            };
        }
        let localities = each("endpoints", endpoints, locality)?;
        let mut endpoints: Vec<_> = localities.into_iter().flatten().collect();
        // If an address occurs several times, the first is used, as in Envoy.
        let mut seen = HashSet::default();
        endpoints.retain(|assigned| seen.insert(assigned.endpoint.address));
        Ok(Self { endpoints, overprovisioning })
    }

    /// Builds the endpoints with the settings of their cluster. Those that equal one of `before` are shared with it.
    pub(crate) fn resolve(&self, before: &Endpoints, cluster: &EndpointSettings) -> Box<[Arc<Endpoint>]> {
        let known: HashMap<SocketAddr, &Arc<Endpoint>> =
            before.list.iter().map(|endpoint| (endpoint.address, endpoint)).collect();
        let resolved = self.endpoints.iter().map(|assigned| {
            let endpoint = Endpoint {
                transport: cluster.transport(&assigned.transport),
                // Among weighted localities, one without a weight gets no requests (`LocalityLbEndpoints.load_balancing_weight`).
                locality_weight: cluster
                    .locality_weighted
                    .then(|| assigned.endpoint.locality_weight.unwrap_or(0)),
                hash_key: cluster.hashing.and_then(|_| {
                    let name = || assigned.name.clone().filter(|_| cluster.hashes_names);
                    assigned.endpoint.hash_key.clone().or_else(name)
                }),
                ..assigned.endpoint.clone()
            };
            match known.get(&endpoint.address) {
                Some(same) if ***same == endpoint => Arc::clone(same),
                _ => Arc::new(endpoint),
            }
        });
        resolved.collect()
    }
}

#[allow(deprecated)] // a deprecated form must be rejected by its name
fn locality(wire: wire_endpoint::LocalityLbEndpoints) -> Result<Vec<Assigned>, Unusable> {
    let wire_endpoint::LocalityLbEndpoints {
        locality,
        // Locality metadata for Envoy's subset balancer, which is not supported.
        metadata: _,
        lb_endpoints,
        load_balancing_weight,
        priority,
        // Envoy does not use it either.
        proximity: _,
        lb_config,
    } = wire;
    match lb_config {
        None => {}
        Some(wire_endpoint::locality_lb_endpoints::LbConfig::LoadBalancerEndpoints(_)) => {
            return Err(Unusable::new("load_balancer_endpoints", "is not supported"));
        }
        Some(wire_endpoint::locality_lb_endpoints::LbConfig::LedsClusterLocalityConfig(_)) => {
            return Err(Unusable::new("leds_cluster_locality_config", "is not supported"));
        }
    }
    let core::Locality { region, zone, sub_zone } = locality.unwrap_or_default();
    let locality = Locality { region: region.into(), zone: zone.into(), sub_zone: sub_zone.into() };
    if priority > 128 {
        return Err(Unusable::new("priority", "is more than 128"));
    }
    let locality_weight = number(load_balancing_weight);
    let decode = |wire| assigned(wire, &locality, priority, locality_weight);
    each("lb_endpoints", lb_endpoints, decode)
}

fn assigned(
    wire: wire_endpoint::LbEndpoint,
    locality: &Locality,
    priority: u32,
    locality_weight: Option<u32>,
) -> Result<Assigned, Unusable> {
    use wire_endpoint::lb_endpoint::HostIdentifier;
    let wire_endpoint::LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } = wire;
    let endpoint = match required("endpoint", host_identifier)? {
        HostIdentifier::Endpoint(endpoint) => endpoint,
        HostIdentifier::EndpointName(_) => return Err(Unusable::new("endpoint_name", "is not supported")),
    };
    let wire_endpoint::Endpoint {
        address,
        health_check_config,
        // Hashed if the cluster says so. Routes do not rewrite hosts to it.
        hostname,
        additional_addresses,
        // The workload instance identifies it here.
        observability_name: _,
    } = endpoint;
    unsupported_any(&[("endpoint.additional_addresses", !additional_addresses.is_empty())])?;
    let address = required("address", address)
        .and_then(|address| socket_address(address).map_err(|bad| bad.within("address")))
        .map_err(|bad| bad.within("endpoint"))?;
    let weight = number(load_balancing_weight).unwrap_or(1);
    if weight == 0 {
        return Err(Unusable::new("load_balancing_weight", "must be at least 1"));
    }
    let core::Metadata { filter_metadata, typed_filter_metadata: _ } = metadata.unwrap_or_default(); // ours is untyped
    let transport = filter_metadata.get(metadata::TRANSPORT_SOCKET_MATCH);
    let transport = transport.iter().flat_map(|of| {
        of.fields.keys().filter_map(|key| Some((key.clone(), string_field(of, key)?.to_owned())))
    });
    let workload = filter_metadata.get(metadata::WORKLOAD);
    let says = |field| workload.and_then(|of| string_field(of, field)).filter(|text| !text.is_empty());
    let hash_key = filter_metadata.get(metadata::LB).and_then(|of| string_field(of, metadata::HASH_KEY));
    let named = |text: &str| Some(text).filter(|text| !text.is_empty()).map(Name::from);
    let identity = says(metadata::SPIFFE_ID).map(SpiffeId::parse).transpose();
    let identity = identity
        .map_err(|bad| Unusable::new("metadata.filter_metadata[\"outrigger.workload\"].spiffe_id", bad))?;
    let endpoint = Endpoint {
        address,
        health: health(health_status)?,
        weight,
        locality_weight,
        locality: locality.clone(),
        priority,
        transport: Transport::Plain,
        identity,
        instance: says(metadata::INSTANCE).map(Name::from),
        workload_version: says(metadata::VERSION).map(Name::from),
        hash_key: hash_key.and_then(named),
        health_check: health_check_config
            .map_or(Ok(EndpointCheck::default()), EndpointCheck::decode)
            .map_err(|bad| bad.within("endpoint.health_check_config"))?,
    };
    Ok(Assigned { endpoint, name: named(&hostname), transport: transport.collect() })
}

fn health(wire: i32) -> Result<HealthStatus, Unusable> {
    use core::HealthStatus as Wire;
    match Wire::try_from(wire) {
        Ok(Wire::Unknown | Wire::Healthy) => Ok(HealthStatus::Healthy),
        Ok(Wire::Degraded) => Ok(HealthStatus::Degraded),
        Ok(Wire::Draining) => Ok(HealthStatus::Draining),
        Ok(Wire::Unhealthy | Wire::Timeout) => Ok(HealthStatus::Unhealthy),
        Err(_) => Err(Unusable::new("health_status", "is unknown")),
    }
}
