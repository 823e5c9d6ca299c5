//! What a simulated proxy subscribes to, as a state machine: responses in, requests out.
//!
//! It follows the references as a sidecar in on-demand mode does: from a listener to its routes, their clusters and their
//! endpoints. It decodes only what refers to something, and of endpoints only those of the watched service. A response that it
//! cannot follow is an error, which ends the stream.

use std::collections::BTreeMap;

use outrigger_proto::kind::{Kind, PerKind};
use outrigger_proto::xds::core::Node;
use outrigger_proto::xds::core::{address::Address, socket_address::PortSpecifier};
use outrigger_proto::xds::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use outrigger_proto::xds::endpoint::ClusterLoadAssignment;
use outrigger_proto::xds::endpoint::lb_endpoint::HostIdentifier;
use outrigger_proto::xds::hcm::{HttpConnectionManager, http_connection_manager::RouteSpecifier};
use outrigger_proto::xds::listener::Listener;
use outrigger_proto::xds::route::RouteConfiguration;
use outrigger_proto::xds::route::route::Action;
use outrigger_proto::xds::route::route_action::ClusterSpecifier;
use prost::Message;

/// Subscribes to the listeners of the proxy's own application.
const WILDCARD: &str = "*";

/// The subscriptions of one stream.
#[derive(Debug)]
pub(super) struct Subscriptions {
    /// The subscribed names, and whether each was received.
    names: PerKind<BTreeMap<String, bool>>,
    /// The name of the endpoints whose port is reported.
    watched: &'static str,
}

/// What follows from a response.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// The ACK, then new subscriptions.
    pub(super) requests: Vec<DeltaDiscoveryRequest>,
    /// The port of the watched service's first endpoint, if the response has it.
    pub(super) port: Option<u32>,
}

impl Subscriptions {
    /// Begins with the listeners of `destinations`, such as `cart.shop:80`.
    pub(super) fn new(destinations: &[String], watched: &'static str) -> Self {
        let mut names = PerKind::<BTreeMap<_, _>>::default();
        names[Kind::Listener] = destinations.iter().map(|name| (name.clone(), false)).collect();
        Self { names, watched }
    }

    /// Returns the first request of the stream. With `own`, it also subscribes to the listeners of the proxy's own application.
    pub(super) fn open(&self, node: Node, own: bool) -> DeltaDiscoveryRequest {
        let own = own.then(|| WILDCARD.to_owned());
        let names = self.names[Kind::Listener].keys().cloned().chain(own);
        DeltaDiscoveryRequest { node: Some(node), ..subscribe(Kind::Listener, names.collect()) }
    }

    /// Returns true once every destination has its listener, routes, clusters and endpoints.
    pub(super) fn is_complete(&self) -> bool {
        self.names.iter().all(|(_, names)| names.values().all(|received| *received))
    }

    /// Applies a response. Returns an error if it is malformed, or removes a resource that is needed.
    pub(super) fn receive(&mut self, response: DeltaDiscoveryResponse) -> Result<Received, String> {
        let kind = Kind::from_type_url(&response.type_url)
            .ok_or_else(|| format!("unknown type {:?}", response.type_url))?;
        if let Some(name) =
            response.removed_resources.iter().find(|name| self.names[kind].contains_key(*name))
        {
            return Err(format!("{kind} {name} does not exist"));
        }
        let ack = DeltaDiscoveryRequest { response_nonce: response.nonce, ..subscribe(kind, Vec::new()) };
        let mut received = Received { requests: vec![ack], port: None };
        let mut wanted: PerKind<Vec<String>> = PerKind::default();
        for resource in response.resources {
            let Some(known) = self.names[kind].get_mut(&resource.name) else { continue };
            *known = true;
            let body = resource.resource.map(|body| body.value).unwrap_or_default();
            match kind {
                Kind::Listener => wanted[Kind::Route].push(routes_of(&body)?),
                Kind::Route => wanted[Kind::Cluster].extend(clusters_of(&body)?),
                // A cluster refers to endpoints of its name.
                Kind::Cluster => wanted[Kind::Endpoints].push(resource.name),
                Kind::Endpoints if resource.name == self.watched => received.port = port_of(&body)?,
                Kind::Endpoints => {}
            }
        }
        for kind in Kind::ALL {
            let mut new = std::mem::take(&mut wanted[kind]);
            new.retain(|name| !self.names[kind].contains_key(name));
            self.names[kind].extend(new.iter().map(|name| (name.clone(), false)));
            if !new.is_empty() {
                received.requests.push(subscribe(kind, new));
            }
        }
        Ok(received)
    }
}

fn subscribe(kind: Kind, names: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names_subscribe: names,
        ..Default::default()
    }
}

fn decode<M: Message + Default>(body: &[u8]) -> Result<M, String> {
    M::decode(body).map_err(|error| error.to_string())
}

/// Returns the name of a listener's route configuration.
fn routes_of(listener: &[u8]) -> Result<String, String> {
    let listener: Listener = decode(listener)?;
    let manager = listener.api_listener.and_then(|listener| listener.api_listener);
    let manager: HttpConnectionManager = decode(&manager.ok_or("a listener without HTTP")?.value)?;
    match manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => Ok(rds.route_config_name),
        _ => Err(format!("{} has no routes of its own name", listener.name)),
    }
}

/// Returns the clusters of a route configuration.
fn clusters_of(routes: &[u8]) -> Result<Vec<String>, String> {
    let routes: RouteConfiguration = decode(routes)?;
    let actions = routes.virtual_hosts.into_iter().flat_map(|host| host.routes).map(|route| route.action);
    Ok(actions
        .flat_map(|action| match action {
            Some(Action::Route(route)) => match route.cluster_specifier {
                Some(ClusterSpecifier::Cluster(name)) => vec![name],
                Some(ClusterSpecifier::WeightedClusters(all)) => {
                    all.clusters.into_iter().map(|cluster| cluster.name).collect()
                }
                _ => Vec::new(),
            },
            _ => Vec::new(),
        })
        .collect())
}

/// Returns the port of the first endpoint.
fn port_of(endpoints: &[u8]) -> Result<Option<u32>, String> {
    let assignment: ClusterLoadAssignment = decode(endpoints)?;
    let first = assignment.endpoints.into_iter().flat_map(|locality| locality.lb_endpoints).next();
    let Some(HostIdentifier::Endpoint(endpoint)) = first.and_then(|first| first.host_identifier) else {
        return Ok(None);
    };
    match endpoint.address.and_then(|address| address.address) {
        Some(Address::SocketAddress(socket)) => match socket.port_specifier {
            Some(PortSpecifier::PortValue(port)) => Ok(Some(port)),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::xds::discovery::Resource;
    use outrigger_proto::xds::protobuf::Any;

    use super::*;

    fn response(kind: Kind, names: &[&str]) -> DeltaDiscoveryResponse {
        let resource = |name: &&str| Resource {
            name: (*name).into(),
            resource: Some(Any::default()),
            ..Default::default()
        };
        DeltaDiscoveryResponse {
            type_url: kind.type_url().into(),
            nonce: "7".into(),
            resources: names.iter().map(resource).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_cluster_is_acknowledged_and_leads_to_its_endpoints() {
        let mut subscriptions = Subscriptions::new(&[], "cart");
        subscriptions.names[Kind::Cluster].insert("cart".into(), false);
        assert!(!subscriptions.is_complete());
        let received = subscriptions.receive(response(Kind::Cluster, &["cart", "foreign"])).unwrap();
        let [ack, endpoints] = &received.requests[..] else { panic!("{received:?}") };
        assert_eq!((ack.response_nonce.as_str(), ack.resource_names_subscribe.len()), ("7", 0));
        assert_eq!(endpoints.resource_names_subscribe, ["cart"]);
        assert!(!subscriptions.is_complete(), "without its endpoints");
        let received = subscriptions.receive(response(Kind::Endpoints, &["cart"])).unwrap();
        assert_eq!((received.requests.len(), received.port), (1, None));
        assert!(subscriptions.is_complete());
        // A cluster that is sent again refers to what is subscribed already.
        assert_eq!(subscriptions.receive(response(Kind::Cluster, &["cart"])).unwrap().requests.len(), 1);
    }

    #[test]
    fn a_destination_that_does_not_exist_is_an_error() {
        let mut subscriptions = Subscriptions::new(&["cart.shop:80".into()], "cart");
        let removed = |name: &str| DeltaDiscoveryResponse {
            removed_resources: vec![name.into()],
            ..response(Kind::Listener, &[])
        };
        assert_eq!(subscriptions.receive(removed("other:80")).unwrap().requests.len(), 1);
        assert!(subscriptions.receive(removed("cart.shop:80")).unwrap_err().contains("does not exist"));
        assert!(subscriptions.receive(response(Kind::Listener, &["cart.shop:80"])).is_err(), "it is empty");
    }
}
