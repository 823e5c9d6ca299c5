//! What a resource refers to: a listener its routes and clusters, a route its clusters, a cluster its endpoints.
//!
//! Read once per resource, on a blocking thread, for subscriptions and warming. A body that cannot be decoded refers to
//! nothing: refusing it by name is the compiler's part.

use std::net::SocketAddr;

use outrigger_config::build::INVALID_BACKEND;
use outrigger_core::Name;
use outrigger_proto::xds::cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
use outrigger_proto::xds::hcm::http_connection_manager::RouteSpecifier;
use outrigger_proto::xds::listener::filter::ConfigType;
use outrigger_proto::xds::route::route::Action;
use outrigger_proto::xds::route::route_action::{ClusterSpecifier, RequestMirrorPolicy};
use outrigger_proto::xds::{cluster, core, hcm, listener, protobuf, route, tcp_proxy, type_url};
use prost::Message;

use crate::kind::Kind;

/// The names in a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct References {
    /// RDS names, in a listener.
    pub(crate) routes: Vec<Name>,
    /// CDS names, in a listener or a route.
    pub(crate) clusters: Vec<Name>,
    /// The EDS name, in a cluster that has one.
    pub(crate) endpoints: Option<Name>,
    /// A listener without an address: the client's side of a destination, asked for by name.
    pub(crate) destination: bool,
    /// Where a listener that has an address listens.
    pub(crate) address: Option<SocketAddr>,
}

impl References {
    /// Every name, by kind.
    pub(crate) fn names(&self) -> impl Iterator<Item = (Kind, &Name)> {
        let routes = self.routes.iter().map(|name| (Kind::Route, name));
        let clusters = self.clusters.iter().map(|name| (Kind::Cluster, name));
        routes.chain(clusters).chain(self.endpoints.iter().map(|name| (Kind::Endpoints, name)))
    }

    /// Reads a resource's references.
    pub(crate) fn of(kind: Kind, body: &protobuf::Any) -> Self {
        let mut references = Self::default();
        let value = body.value.as_slice();
        match kind {
            Kind::Listener => {
                if let Ok(listener) = listener::Listener::decode(value) {
                    references.listener(&listener);
                }
            }
            Kind::Route => {
                if let Ok(route) = route::RouteConfiguration::decode(value) {
                    references.route_configuration(&route);
                }
            }
            Kind::Cluster => {
                references.endpoints = cluster::Cluster::decode(value).ok().and_then(endpoints);
            }
            Kind::Endpoints => {}
        }
        for names in [&mut references.routes, &mut references.clusters] {
            names.sort_unstable();
            names.dedup();
            names.shrink_to_fit();
        }
        references
    }

    fn listener(&mut self, listener: &listener::Listener) {
        self.destination = listener.address.is_none();
        self.address = listener.address.as_ref().and_then(socket_address);
        if let Some(any) = listener.api_listener.as_ref().and_then(|api| api.api_listener.as_ref()) {
            self.filter(any);
        }
        let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
        for filter in chains.flat_map(|chain| &chain.filters) {
            if let Some(ConfigType::TypedConfig(any)) = &filter.config_type {
                self.filter(any);
            }
        }
    }

    fn filter(&mut self, any: &protobuf::Any) {
        match any.type_url.as_str() {
            type_url::HTTP_CONNECTION_MANAGER => {
                let Ok(hcm) = hcm::HttpConnectionManager::decode(any.value.as_slice()) else { return };
                match hcm.route_specifier {
                    Some(RouteSpecifier::Rds(rds)) => self.routes.push(rds.route_config_name.into()),
                    Some(RouteSpecifier::RouteConfig(inline)) => self.route_configuration(&inline),
                    Some(RouteSpecifier::ScopedRoutes(_)) | None => {}
                }
            }
            type_url::TCP_PROXY => {
                use tcp_proxy::tcp_proxy::ClusterSpecifier;
                let Ok(tcp) = tcp_proxy::TcpProxy::decode(any.value.as_slice()) else { return };
                match tcp.cluster_specifier {
                    Some(ClusterSpecifier::Cluster(name)) => self.cluster(&name),
                    Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                        weighted.clusters.iter().for_each(|weight| self.cluster(&weight.name));
                    }
                    None => {}
                }
            }
            _ => {}
        }
    }

    fn route_configuration(&mut self, routes: &route::RouteConfiguration) {
        self.mirrors(&routes.request_mirror_policies);
        for host in &routes.virtual_hosts {
            self.mirrors(&host.request_mirror_policies);
            for route in &host.routes {
                if let Some(Action::Route(action)) = &route.action {
                    self.route_action(action);
                }
            }
        }
    }

    fn route_action(&mut self, action: &route::RouteAction) {
        self.mirrors(&action.request_mirror_policies);
        match &action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => self.cluster(name),
            Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                weighted.clusters.iter().for_each(|weight| self.cluster(&weight.name));
            }
            // Chosen by the request: no name to ask for.
            _ => {}
        }
    }

    fn mirrors(&mut self, mirrors: &[RequestMirrorPolicy]) {
        mirrors.iter().for_each(|mirror| self.cluster(&mirror.cluster));
    }

    /// The name of an invalid backend is nothing to ask for: the route says which status it answers.
    fn cluster(&mut self, name: &str) {
        if !name.is_empty() && name != INVALID_BACKEND {
            self.clusters.push(name.into());
        }
    }
}

/// The address by number; others are refused by the compiler.
fn socket_address(address: &core::Address) -> Option<SocketAddr> {
    let core::address::Address::SocketAddress(socket) = address.address.as_ref()? else { return None };
    let Some(core::socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return None;
    };
    Some(SocketAddr::new(socket.address.parse().ok()?, u16::try_from(port).ok()?))
}

/// The EDS name of a cluster: `service_name`, or else the cluster's own.
fn endpoints(cluster: cluster::Cluster) -> Option<Name> {
    let eds = ClusterDiscoveryType::Type(DiscoveryType::Eds.into());
    if cluster.cluster_discovery_type != Some(eds) {
        return None;
    }
    let named = cluster.eds_cluster_config.map(|eds| eds.service_name).filter(|name| !name.is_empty());
    Some(named.unwrap_or(cluster.name).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::xds;

    fn names(names: &[Name]) -> Vec<&str> {
        names.iter().map(AsRef::as_ref).collect()
    }

    #[test]
    fn a_destination_refers_to_its_routes_or_its_cluster() {
        let http = References::of(Kind::Listener, &xds::destination("cart:80", "cart"));
        assert_eq!((names(&http.routes), http.destination), (vec!["cart"], true));
        let tcp = References::of(Kind::Listener, &xds::tcp_destination("stock:9000", "stock"));
        assert_eq!(names(&tcp.clusters), ["stock"]);
    }

    #[test]
    fn an_inbound_listener_refers_to_the_clusters_of_its_inline_routes() {
        let inbound = References::of(Kind::Listener, &xds::inbound("inbound|127.0.0.1:1", "inbound|app"));
        assert_eq!((names(&inbound.clusters), inbound.destination), (vec!["inbound|app"], false));
        assert_eq!(inbound.address, Some("127.0.0.1:15006".parse().unwrap()));
    }

    #[test]
    fn a_route_refers_to_each_cluster_once_and_never_to_an_invalid_backend() {
        let route = References::of(Kind::Route, &xds::route("cart", &["v2", "v1", INVALID_BACKEND, "v2"]));
        assert_eq!(names(&route.clusters), ["v1", "v2"]);
    }

    #[test]
    fn a_cluster_refers_to_its_endpoints_unless_it_holds_them() {
        let endpoints = |body| References::of(Kind::Cluster, &body).endpoints;
        assert_eq!(endpoints(xds::cluster("cart")).as_deref(), Some("cart"));
        assert_eq!(endpoints(xds::static_cluster("app")), None);
    }

    #[test]
    fn bytes_that_are_no_message_refer_to_nothing() {
        for kind in Kind::ALL {
            let body = protobuf::Any { type_url: kind.type_url().into(), value: vec![0xff; 9] };
            assert_eq!(References::of(kind, &body), References::default());
        }
    }
}
