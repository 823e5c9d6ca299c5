//! EndpointSlice, discovery.k8s.io/v1.
//!
//! On Kubernetes, the cluster writes them. In a directory, an operator writes them for workloads that do not register
//! themselves. An annotation names the identity that the sidecars of the endpoints must prove.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1 as api;
use outrigger_core::Name;
use outrigger_core::identity::SpiffeId;

use super::metadata::{Metadata, SPIFFE_ID};
use super::service::port_number;
use crate::model::diagnostic::Problem;
use crate::model::endpoint::{EndpointHealth, Peer};
use crate::model::registration::version;
use crate::model::service::ServiceKey;

/// The label that names the service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A slice of a service's endpoints.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EndpointSlice {
    /// The service.
    pub(crate) service: ServiceKey,
    /// The names of service ports, and the ports that the endpoints listen on.
    pub(crate) ports: Vec<(Name, u16)>,
    pub(crate) endpoints: Vec<SliceEndpoint>,
    pub(crate) peer: Peer,
    pub(crate) version: Option<Name>,
}

/// One endpoint, on every port of the slice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SliceEndpoint {
    pub(crate) ip: IpAddr,
    pub(crate) health: EndpointHealth,
    pub(crate) instance: Option<Name>,
    pub(crate) zone: Option<Name>,
    pub(crate) node: Option<Name>,
    pub(crate) hostname: Option<Name>,
    /// It is a pod (`targetRef.kind`).
    pub(crate) is_pod: bool,
}

/// Validates a slice.
pub(super) fn decode(metadata: &Metadata, slice: api::EndpointSlice) -> Result<EndpointSlice, Problem> {
    let api::EndpointSlice { address_type, endpoints, metadata: _, ports } = slice;
    let family: fn(&IpAddr) -> bool = match address_type.as_str() {
        "IPv4" => IpAddr::is_ipv4,
        "IPv6" => IpAddr::is_ipv6,
        "FQDN" => return Err(Problem::new("addressType", "FQDN is not supported")),
        other => return Err(Problem::new("addressType", format!("unknown type {other:?}"))),
    };
    let Some(service) = metadata.labels.get(SERVICE_NAME) else {
        let path = format!("metadata.labels.{SERVICE_NAME}");
        return Err(Problem::new(path, "is missing: it names the service"));
    };
    Ok(EndpointSlice {
        service: ServiceKey { namespace: metadata.id.namespace.clone(), name: service.clone() },
        ports: decode_ports(ports.unwrap_or_default())?,
        endpoints: decode_endpoints(endpoints, family)?,
        peer: decode_peer(metadata)?,
        version: version(&metadata.labels),
    })
}

fn decode_ports(ports: Vec<api::EndpointPort>) -> Result<Vec<(Name, u16)>, Problem> {
    let mut all: Vec<(Name, u16)> = Vec::new();
    for (at, port) in ports.into_iter().enumerate() {
        let error = |field: &str, reason: String| Problem::new(format!("ports[{at}].{field}"), reason);
        // The Service's appProtocol applies to all of its endpoints.
        let api::EndpointPort { app_protocol: _, name, port, protocol } = port;
        let name: Name = name.unwrap_or_default().into();
        if all.iter().any(|(other, _)| *other == name) {
            return Err(error("name", format!("{name:?} is duplicated")));
        }
        let Some(number) = port.and_then(port_number) else {
            let number = port.map_or_else(|| "no number".into(), |number| number.to_string());
            return Err(error("port", format!("{number} is not a port")));
        };
        match protocol.as_deref() {
            None | Some("TCP") => all.push((name, number)),
            Some("UDP" | "SCTP") => {}
            Some(other) => return Err(error("protocol", format!("unknown protocol {other:?}"))),
        }
    }
    Ok(all)
}

fn decode_endpoints(
    endpoints: Vec<api::Endpoint>,
    family: fn(&IpAddr) -> bool,
) -> Result<Vec<SliceEndpoint>, Problem> {
    if endpoints.len() > 1000 {
        return Err(Problem::new("endpoints", format!("{} are more than 1000", endpoints.len())));
    }
    let one = |(at, endpoint): (usize, api::Endpoint)| {
        let api::Endpoint {
            addresses,
            conditions,
            hostname,
            node_name,
            target_ref,
            zone,
            // Topology hints and their predecessors are for kube-proxy.
            deprecated_topology: _,
            hints: _,
        } = endpoint;
        let mut first = None;
        for (number, text) in addresses.iter().enumerate() {
            let ip = text.parse::<IpAddr>().ok().filter(family);
            let path = || format!("endpoints[{at}].addresses[{number}]");
            let ip =
                ip.ok_or_else(|| Problem::new(path(), format!("{text:?} is not of the address type")))?;
            // "All endpoints are fungible, and consumers use the first" (`Endpoint.addresses`).
            first.get_or_insert(ip);
        }
        let path = || format!("endpoints[{at}].addresses");
        let ip = first.ok_or_else(|| Problem::new(path(), "is empty"))?;
        let is_pod = target_ref.as_ref().and_then(|target| target.kind.as_deref()) == Some("Pod");
        let instance = target_ref.and_then(|target| target.name).or_else(|| hostname.clone());
        Ok(SliceEndpoint {
            ip,
            health: health(conditions.unwrap_or_default()),
            instance: instance.map(Name::from),
            zone: zone.map(Name::from),
            node: node_name.map(Name::from),
            hostname: hostname.map(Name::from),
            is_pod,
        })
    };
    endpoints.into_iter().enumerate().map(one).collect()
}

/// `EndpointConditions`. Absent, `ready` and `serving` mean true and `terminating` false.
///
/// An endpoint may be ready while it terminates, with `publishNotReadyAddresses`. One that terminates and still serves is used
/// as a last resort (KEP-1669).
fn health(conditions: api::EndpointConditions) -> EndpointHealth {
    let api::EndpointConditions { ready, serving, terminating } = conditions;
    match (ready.unwrap_or(true), serving.unwrap_or(true), terminating.unwrap_or(false)) {
        (true, _, _) => EndpointHealth::Ready,
        (false, true, true) => EndpointHealth::Draining,
        (false, _, _) => EndpointHealth::NotReady,
    }
}

fn decode_peer(metadata: &Metadata) -> Result<Peer, Problem> {
    let Some(uri) = metadata.annotations.get(SPIFFE_ID) else { return Ok(Peer::Plaintext) };
    let path = || format!("metadata.annotations.{SPIFFE_ID}");
    SpiffeId::parse(uri).map(Peer::Sidecar).map_err(|error| Problem::new(path(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::resource::Body;
    use crate::model::resource::testing::{check_table, read};

    const SLICE: &str = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a-1, labels:
        {kubernetes.io/service-name: a, version: v1}, annotations: {outrigger.dev/spiffe-id: 'spiffe://x/ns/default/sa/a'}}, @}";

    #[test]
    fn endpoints_that_cannot_be_connected_to_are_refused() {
        check_table(
            SLICE,
            &[
                "addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}], ports: [{port: 80}]",
                "addressType: IPv6, endpoints: [{addresses: ['fd00::1'], hints: {forZones: [{name: z}]}}]",
                "addressType: IPv4, endpoints: []",
            ],
            &[
                ("endpoints: []", "addressType", "unknown type"),
                ("addressType: FQDN, endpoints: []", "addressType", "not supported"),
                ("addressType: ipv4, endpoints: []", "addressType", "unknown type"),
                ("addressType: IPv4, endpoints: [{addresses: []}]", "endpoints[0].addresses", "empty"),
                (
                    "addressType: IPv4, endpoints: [{addresses: [a]}]",
                    "endpoints[0].addresses[0]",
                    "address type",
                ),
                (
                    "addressType: IPv4, endpoints: [{addresses: ['fd00::1']}]",
                    "endpoints[0].addresses[0]",
                    "address type",
                ),
                ("addressType: IPv4, endpoints: [], ports: [{name: x}]", "ports[0].port", "no number"),
                ("addressType: IPv4, endpoints: [], ports: [{port: 0}]", "ports[0].port", "not a port"),
                (
                    "addressType: IPv4, endpoints: [], ports: [{port: 1, protocol: x}]",
                    "ports[0].protocol",
                    "unknown",
                ),
                (
                    "addressType: IPv4, endpoints: [], ports: [{port: 1}, {port: 2}]",
                    "ports[1].name",
                    "duplicated",
                ),
                (
                    "addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {redy: true}}]",
                    "endpoints[0].conditions.redy",
                    "unknown field",
                ),
            ],
        );
        let unnamed = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a@}, addressType: IPv4, endpoints: []}";
        check_table(unnamed, &[], &[("", "metadata.labels.kubernetes.io/service-name", "missing")]);
        let spiffe = SLICE.replace("spiffe://x", "https://x");
        let path = "metadata.annotations.outrigger.dev/spiffe-id";
        check_table(&spiffe, &[], &[("addressType: IPv4, endpoints: []", path, "not of the form")]);
    }

    #[test]
    fn conditions_determine_the_health_of_an_endpoint() {
        let all = [None, Some(false), Some(true)];
        let every = all.into_iter().flat_map(|ready| {
            all.into_iter().flat_map(move |serving| all.into_iter().map(move |last| (ready, serving, last)))
        });
        for (ready, serving, terminating) in every {
            let expected = match (ready, serving, terminating) {
                (None | Some(true), _, _) => EndpointHealth::Ready,
                (Some(false), None | Some(true), Some(true)) => EndpointHealth::Draining,
                (Some(false), Some(false), _) | (Some(false), _, None | Some(false)) => {
                    EndpointHealth::NotReady
                }
            };
            let conditions = api::EndpointConditions { ready, serving, terminating };
            assert_eq!(health(conditions.clone()), expected, "{conditions:?}");
        }
    }

    #[test]
    fn an_endpoint_is_known_by_its_pod_its_zone_and_the_slices_version() {
        let part = "addressType: IPv4, ports: [{port: 8080}], endpoints: [{addresses: [10.0.0.1], zone: z,
            targetRef: {kind: Pod, name: a-xyz}, conditions: {ready: true, terminating: true}}]";
        let decoded = read(&SLICE.replace('@', part)).remove(0);
        let resource = decoded.resource().unwrap();
        let Body::EndpointSlice(slice) = &resource.body else { panic!() };
        let endpoint = &slice.endpoints[0];
        assert_eq!(endpoint.health, EndpointHealth::Ready);
        assert_eq!((endpoint.instance.as_deref(), endpoint.zone.as_deref()), (Some("a-xyz"), Some("z")));
        assert_eq!(slice.version.as_deref(), Some("v1"));
        assert_eq!(slice.peer.identity().unwrap().as_str(), "spiffe://x/ns/default/sa/a");
    }
}
