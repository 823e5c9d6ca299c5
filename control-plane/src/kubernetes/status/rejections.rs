//! Finds the routes behind the configuration that proxies reject.
//!
//! A rejected listener or route configuration names a service port. The mesh has the routes of that port, in the order in which
//! they were sent. Our proxy's reason has the index of the route in error; without one, every route of the port is named.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_core::Name;

use crate::model::mesh::Mesh;
use crate::model::resource::{Kind, ResourceId};
use crate::model::route::RouteTable;
use crate::translate::destination::{Destination, Target};
use crate::translate::resource::Kind as XdsKind;
use crate::xds::status::Rejection;

/// Returns what the status of each route says of which a proxy rejects configuration: the first such proxy by name, and its
/// reason.
pub(super) fn by_route(
    rejections: &[Rejection],
    mesh: &Mesh,
    cluster_domain: &str,
) -> BTreeMap<ResourceId, Arc<str>> {
    let mut first: BTreeMap<ResourceId, &Rejection> = BTreeMap::new();
    for rejection in rejections {
        for id in routes_of(rejection, mesh, cluster_domain) {
            let kept = first.entry(id).or_insert(rejection);
            if rejection.instance < kept.instance {
                *kept = rejection;
            }
        }
    }
    first.into_iter().map(|(id, rejection)| (id, message(rejection).into())).collect()
}

fn message(Rejection { kind, name, namespace, instance, reason }: &Rejection) -> String {
    format!("the proxy {instance} of namespace {namespace} rejects {} {name}: {reason}", kind.service())
}

/// Returns the routes that a rejected resource was made from.
fn routes_of(rejection: &Rejection, mesh: &Mesh, cluster_domain: &str) -> Vec<ResourceId> {
    let Rejection { kind, name, namespace, instance: _, reason } = rejection;
    let service_port = match kind {
        XdsKind::Route => Target::parse(name, cluster_domain).map(|target| (target.service, target.port)),
        XdsKind::Listener => match Destination::parse(name, namespace, cluster_domain) {
            Some(Destination::Service(service, port) | Destination::Instance(service, _, port)) => {
                Some((service, port))
            }
            Some(Destination::Address(address)) => match mesh.service_by_ip(&address.ip()) {
                Some(service) => Some((service.clone(), address.port())),
                None => mesh.service_by_endpoint(&address, namespace),
            },
            None => None,
        },
        // They are made from services, not from routes.
        XdsKind::Cluster | XdsKind::Endpoints => None,
    };
    let Some((service, port)) = service_port else { return Vec::new() };
    let ids: Vec<&Name> = match mesh.routes(&service, port, namespace).map(|table| &**table) {
        Some(RouteTable::Http(routes)) => routes.iter().map(|route| &route.id).collect(),
        Some(RouteTable::Tcp(route)) => vec![&route.id],
        None => Vec::new(),
    };
    let named = index(reason).and_then(|index| ids.get(index)).map(|id| vec![*id]);
    named.unwrap_or(ids).into_iter().filter_map(|id| resource_id(id)).collect()
}

/// Returns the index in the first `routes[3]` of a reason.
fn index(reason: &str) -> Option<usize> {
    let (_, rest) = reason.split_once("routes[")?;
    rest.split_once(']')?.0.parse().ok()
}

/// Parses the ID of a route of the model: `httproute/<namespace>/<name>/<rule>/<match>`.
pub(super) fn resource_id(id: &str) -> Option<ResourceId> {
    let mut parts = id.split('/');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let kinds = [Kind::HttpRoute, Kind::GrpcRoute, Kind::TcpRoute];
    let kind = kinds.into_iter().find(|one| one.name().eq_ignore_ascii_case(kind))?;
    Some(ResourceId { kind, namespace: namespace.into(), name: name.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::mesh_builder::MeshBuilder;
    use crate::model::mesh_builder::testing::{route, service};

    const TARGET: &str = "catalog.shop.svc.cluster.local:80";

    fn mesh() -> Mesh {
        let mut builder = MeshBuilder::default();
        let rule = |path: &str| {
            format!("{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: catalog, port: 80}}]}}")
        };
        builder.with(&[
            &service("catalog", 80, "http"),
            &route("HTTPRoute", "short", "name: catalog", &rule("/a")),
            &route("HTTPRoute", "long", "name: catalog", &rule("/a/long")),
            &route("HTTPRoute", "own.office", "name: catalog", &rule("/a")),
        ]);
        builder.mesh()
    }

    fn rejection(kind: XdsKind, name: &str, namespace: &str, reason: &str) -> Rejection {
        let (namespace, instance) = (namespace.into(), "web-1".into());
        Rejection { kind, name: name.into(), namespace, instance, reason: reason.into() }
    }

    fn rejected(rejections: &[Rejection]) -> Vec<String> {
        by_route(rejections, &mesh(), "cluster.local").keys().map(ToString::to_string).collect()
    }

    #[test]
    fn the_route_in_error_is_found_by_its_index() {
        let at = |index: usize| {
            let reason = format!("virtual_hosts[0].routes[{index}].match.safe_regex: too large");
            rejected(&[rejection(XdsKind::Route, TARGET, "shop", &reason)])
        };
        assert_eq!((at(0), at(1)), (vec!["HTTPRoute shop/long".into()], vec!["HTTPRoute shop/short".into()]));
        assert_eq!(at(2).len(), 2, "an unknown index names every route");
    }

    #[test]
    fn a_reason_without_an_index_names_every_route_that_the_proxy_uses() {
        for (kind, name) in [(XdsKind::Listener, "catalog.shop:80"), (XdsKind::Route, TARGET)] {
            let of = |namespace| rejected(&[rejection(kind, name, namespace, "no memory")]);
            assert_eq!(of("shop"), ["HTTPRoute shop/long", "HTTPRoute shop/short"]);
            assert_eq!(of("office"), ["HTTPRoute office/own"]);
        }
        assert!(rejected(&[rejection(XdsKind::Cluster, TARGET, "shop", "no memory")]).is_empty());
    }

    #[test]
    fn the_message_is_that_of_the_first_proxy_by_name() {
        let other = |instance: &str| Rejection {
            instance: instance.into(),
            ..rejection(XdsKind::Route, TARGET, "office", instance)
        };
        let all = by_route(&[other("b"), other("a"), other("c")], &mesh(), "cluster.local");
        let message = all.into_values().next().unwrap();
        assert_eq!(&*message, format!("the proxy a of namespace office rejects rds {TARGET}: a"));
    }
}
