//! Makes the next version of the mesh from changed resources.
//!
//! Sources call [`Assembly::apply`]. Only what a change touches is made anew, and what comes out as it was stays the
//! very same value, so that translation finds the difference by comparing pointers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::attachment::{self, Attachments};
use super::endpoint::{Endpoint, EndpointHealth, Endpoints};
use super::inventory::{Inventory, Touched};
use super::mesh::{Mesh, ServiceEntry};
use super::resource::{Resource, ResourceId};
use super::service::Service;
use super::status::Statuses;
use super::verdict;

/// The resources that were accepted, and the mesh that they make.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    inventory: Inventory,
    mesh: Mesh,
    statuses: Statuses,
}

impl Assembly {
    /// Takes new versions of resources; none where one is gone.
    pub(crate) fn apply(&mut self, changes: impl IntoIterator<Item = (ResourceId, Option<Arc<Resource>>)>) {
        let mut touched = Touched::default();
        for (id, new) in changes {
            self.inventory.change(&id, new, &mut touched);
        }
        self.inventory.touch_granted(&mut touched);
        let Self { inventory, mesh, statuses } = self;
        let inventory = &*inventory;
        let mut attachments = Attachments::new(inventory);
        let Touched { services, endpoints, routes, statuses: mut judged, granted: _ } = touched;
        let entries: BTreeSet<_> = services.iter().chain(&endpoints).chain(&routes).collect();
        for key in entries {
            let Some(current) = inventory.service(key) else {
                mesh.take(key);
                continue;
            };
            let old = mesh.service(key);
            let entry = ServiceEntry {
                service: renewed(old.map(|old| &old.service), services.contains(key), || current.clone()),
                endpoints: renewed(old.map(|old| &old.endpoints), endpoints.contains(key), || {
                    endpoints_of(inventory, current)
                }),
                routes: renewed(old.map(|old| &old.routes), routes.contains(key), || {
                    attachment::routes_of(inventory, current, &attachments.of(current))
                }),
            };
            mesh.put(entry);
        }
        // Endpoints are nothing to a route's status.
        for key in services.iter().chain(&routes) {
            judged.extend(inventory.attached(key).map(|route| route.metadata.id.clone()));
        }
        for id in judged {
            match inventory.route(&id) {
                None => drop(statuses.remove(&id)),
                Some(route) => {
                    let status = verdict::status_of(inventory, route, &mut attachments);
                    if statuses.get(&id).is_none_or(|old| **old != status) {
                        statuses.insert(id, Arc::new(status));
                    }
                }
            }
        }
    }

    /// The mesh as it is now. Registrations are put in by who reads it.
    pub(crate) fn mesh(&self) -> Mesh {
        self.mesh.clone()
    }

    /// What became of each route.
    pub(crate) fn statuses(&self) -> Statuses {
        self.statuses.clone()
    }
}

/// The old value where it was not touched or comes out the same.
fn renewed<T: PartialEq>(old: Option<&Arc<T>>, touched: bool, make: impl FnOnce() -> T) -> Arc<T> {
    match old {
        Some(old) if !touched => Arc::clone(old),
        old => {
            let new = make();
            old.filter(|old| ***old == new).map_or_else(|| Arc::new(new), Arc::clone)
        }
    }
}

/// The endpoints of a service from its slices: a port of a slice belongs to the service port of the same name. An
/// address may stand in two slices for a while, as the API's conventions say; its better health counts then.
fn endpoints_of(inventory: &Inventory, service: &Service) -> Endpoints {
    let mut ports = Vec::new();
    for port in &service.ports {
        let mut all: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
        for slice in inventory.slices(&service.key) {
            let Some((_, number)) = slice.ports.iter().find(|(name, _)| *name == port.name) else { continue };
            for found in &slice.endpoints {
                let endpoint = Endpoint {
                    address: SocketAddr::new(found.ip, *number),
                    health: found.health,
                    peer: slice.peer.clone(),
                    instance: found.instance.clone(),
                    version: slice.version.clone(),
                    zone: found.zone.clone(),
                };
                let better = |old: &Endpoint| preference(old.health) <= preference(endpoint.health);
                if !all.get(&endpoint.address).is_some_and(better) {
                    all.insert(endpoint.address, endpoint);
                }
            }
        }
        if !all.is_empty() {
            ports.push((port.number, all.into_values().collect()));
        }
    }
    Endpoints { ports }
}

fn preference(health: EndpointHealth) -> u8 {
    match health {
        EndpointHealth::Ready => 0,
        EndpointHealth::Draining => 1,
        EndpointHealth::NotReady => 2,
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::model::resource::testing::read;
    use crate::model::route::{RouteTable, RouteTarget, WeightedBackend};
    use crate::model::service::ServiceKey;

    /// A service with one port, by `name` or `name.namespace`.
    pub(crate) fn service(name: &str, port: u16, protocol: &str) -> String {
        let (name, namespace) = name.split_once('.').unwrap_or((name, "shop"));
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}},
               spec: {{ports: [{{port: {port}, appProtocol: {protocol}}}]}}}}"
        )
    }

    /// A route of `shop` attached to the service `parent`.
    pub(crate) fn route(kind: &str, name: &str, parent: &str, rules: &str) -> String {
        let (name, namespace) = name.split_once('.').unwrap_or((name, "shop"));
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}}},
               spec: {{parentRefs: [{{group: '', kind: Service, namespace: shop, {parent}}}], rules: [{rules}]}}}}"
        )
    }

    /// The resource that YAML tells.
    pub(crate) fn resource(yaml: &str) -> Arc<Resource> {
        read(yaml).remove(0).outcome.unwrap_or_else(|faults| panic!("{faults:?} in {yaml}"))
    }

    impl Assembly {
        /// Takes new resources.
        pub(crate) fn with(&mut self, yamls: &[&str]) -> &mut Self {
            let resources = yamls.iter().map(|yaml| resource(yaml));
            self.apply(resources.map(|resource| (resource.metadata.id.clone(), Some(resource))));
            self
        }

        /// Takes a resource out.
        pub(crate) fn without(&mut self, yaml: &str) -> &mut Self {
            self.apply([(resource(yaml).metadata.id.clone(), None)]);
            self
        }

        /// The names of the routes that clients of a namespace use, without `httproute/`, and their backends.
        pub(crate) fn table(&self, service: &str, namespace: &str) -> Vec<String> {
            let entry = self.mesh.service(&ServiceKey::new("shop", service)).unwrap();
            let port = entry.service.ports[0].number;
            match self.mesh.routes(&entry.service.key, port, namespace).map(|table| &**table) {
                None => Vec::new(),
                Some(RouteTable::Tcp(route)) => vec![text(&route.id, &route.backends)],
                Some(RouteTable::Http(routes)) => {
                    let line = |route: &crate::model::route::Route| match &route.action.target {
                        RouteTarget::Forward(backends) => text(&route.id, backends),
                        RouteTarget::Redirect(_) => format!("{} redirect", route.id),
                    };
                    routes.iter().map(line).collect()
                }
            }
        }

        /// The conditions of a route, each as text, for all its parents.
        pub(crate) fn conditions(&self, id: &str) -> Vec<String> {
            let (_, status) = self.statuses.iter().find(|(other, _)| other.to_string() == id).unwrap();
            status.parents.iter().flat_map(|parent| &parent.conditions).map(ToString::to_string).collect()
        }
    }

    fn text(id: &str, backends: &[WeightedBackend]) -> String {
        let one = |backend: &WeightedBackend| match &backend.target {
            Ok(target) => format!(" {}*{}:{}", backend.weight, target.service, target.port),
            Err(why) => format!(" {}*{}", backend.weight, why.reason()),
        };
        id.to_owned() + &backends.iter().map(one).collect::<String>()
    }
}

/// How routes attach, seen in what is assembled.
#[cfg(test)]
mod attachment_tests;

#[cfg(test)]
mod tests {
    use super::testing::{resource, route, service};
    use super::*;
    use crate::model::service::ServiceKey;
    use proptest::prelude::*;

    fn slice(name: &str, service: &str, ips: &str, conditions: &str) -> String {
        let endpoints: Vec<_> =
            ips.split(' ').map(|ip| format!("{{addresses: [{ip}], conditions: {conditions}}}")).collect();
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, namespace: shop,
               labels: {{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, ports: [{{port: 8080}}],
               endpoints: [{}]}}",
            endpoints.join(", ")
        )
    }

    fn key(name: &str) -> ServiceKey {
        ServiceKey::new("shop", name)
    }

    #[test]
    fn slices_of_a_service_add_up_and_the_better_health_counts() {
        let mut assembly = Assembly::default();
        assembly.with(&[
            &service("cart", 80, "http"),
            &slice("cart-1", "cart", "10.0.0.2 10.0.0.1", "{ready: false}"),
            &slice("cart-2", "cart", "10.0.0.2 10.0.0.3", "{ready: true}"),
            &slice("other", "nobody", "10.0.0.9", "{}"),
        ]);
        let mesh = assembly.mesh();
        let all: Vec<_> = mesh
            .endpoints(&key("cart"), 80)
            .iter()
            .map(|endpoint| format!("{} {:?}", endpoint.address, endpoint.health))
            .collect();
        assert_eq!(all, ["10.0.0.1:8080 NotReady", "10.0.0.2:8080 Ready", "10.0.0.3:8080 Ready"]);
        let address = "10.0.0.3:8080".parse().unwrap();
        assert_eq!(mesh.services_by_endpoint(&address), [(key("cart"), 80)]);
        assembly.without(&slice("cart-2", "cart", "10.0.0.3", "{}"));
        assert_eq!(assembly.mesh().services_by_endpoint(&address), []);
        assert_eq!(assembly.mesh().endpoints(&key("cart"), 80).len(), 2);
    }

    #[test]
    fn a_change_touches_its_service_and_no_other() {
        let mut assembly = Assembly::default();
        let rule = "{backendRefs: [{name: catalog-v1, port: 80}]}";
        assembly.with(&[
            &service("cart", 80, "http"),
            &service("catalog", 80, "http"),
            &service("catalog-v1", 80, "http"),
            &slice("cart-1", "cart", "10.0.0.1", "{}"),
            &route("HTTPRoute", "catalog", "name: catalog", rule),
        ]);
        let changes = |assembly: &mut Assembly, yaml: &str| {
            let old = assembly.mesh();
            assembly.with(&[yaml]);
            let changed = assembly.mesh().changes(&old);
            [changed.services, changed.endpoints, changed.routes]
        };
        let none = Vec::<ServiceKey>::new;
        let moved = slice("cart-1", "cart", "10.0.0.2", "{}");
        assert_eq!(changes(&mut assembly, &moved), [none(), vec![key("cart")], none()]);
        assert_eq!(changes(&mut assembly, &moved), [none(), none(), none()]);
        let split =
            route("HTTPRoute", "catalog", "name: catalog", &rule.replace("port: 80", "port: 80, weight: 2"));
        assert_eq!(changes(&mut assembly, &split), [none(), none(), vec![key("catalog")]]);
        let other_port = service("catalog-v1", 81, "http");
        let changed = changes(&mut assembly, &other_port);
        assert_eq!(changed, [vec![key("catalog-v1")], none(), vec![key("catalog")]]);
        assert_eq!(assembly.table("catalog", "shop"), ["httproute/shop/catalog/0/0 2*BackendNotFound"]);
    }

    #[test]
    fn a_cluster_ip_leads_to_the_first_by_name_of_those_who_claim_it() {
        let with_ip =
            |name: &str| service(name, 80, "http").replace("spec: {", "spec: {clusterIP: 10.1.0.1, ");
        let mut assembly = Assembly::default();
        let ip = "10.1.0.1".parse().unwrap();
        assembly.with(&[&with_ip("b"), &with_ip("a")]);
        assert_eq!(assembly.mesh().service_by_ip(&ip), Some(&key("a")));
        assembly.without(&with_ip("a"));
        assert_eq!(assembly.mesh().service_by_ip(&ip), Some(&key("b")));
        assembly.with(&[&service("b", 80, "http")]);
        assert_eq!(assembly.mesh().service_by_ip(&ip), None);
    }

    #[test]
    fn an_update_of_one_of_many_services_shares_everything_that_it_does_not_change() {
        let mut assembly = Assembly::default();
        let services: Vec<_> = (0..1_000).map(|n| resource(&service(&format!("s{n}"), 80, "http"))).collect();
        assembly.apply(services.into_iter().map(|service| (service.metadata.id.clone(), Some(service))));
        let updates: Vec<_> = (0..10)
            .map(|n| resource(&slice(&format!("s{n}-1"), &format!("s{n}"), "10.0.0.1", "{}")))
            .collect();
        for update in updates {
            let old = assembly.mesh();
            assembly.apply([(update.metadata.id.clone(), Some(update))]);
            let new = assembly.mesh();
            assert_eq!(new.changes(&old).endpoints.len(), 1);
            let copied = new.services().filter(|(key, entry)| {
                let was = old.service(key).unwrap();
                !Arc::ptr_eq(&entry.endpoints, &was.endpoints)
                    || !Arc::ptr_eq(&entry.service, &was.service)
                    || !Arc::ptr_eq(&entry.routes, &was.routes)
            });
            assert_eq!(copied.count(), 1, "what did not change is shared");
        }
    }

    #[test]
    fn an_update_among_ten_thousand_services_copies_what_it_changes() {
        let mut assembly = Assembly::default();
        let services = (0..10_000).map(|n| resource(&service(&format!("s{n}"), 80, "http")));
        assembly.apply(services.map(|service| (service.metadata.id.clone(), Some(service))));
        for n in 0..100 {
            let old = assembly.mesh();
            assembly.with(&[&slice(&format!("s{n}-1"), &format!("s{n}"), "10.0.0.1", "{}")]);
            let new = assembly.mesh();
            assert_eq!(new.changes(&old).endpoints, [key(&format!("s{n}"))]);
            // One shard of the services, one of the endpoints' addresses.
            assert!(new.copied_since(&old) <= 2, "{} shards", new.copied_since(&old));
        }
    }

    #[test]
    fn what_is_in_force_on_a_service_is_found_once_for_all_its_routes() {
        let mut assembly = Assembly::default();
        assembly.with(&[&service("catalog", 80, "http"), &service("cart", 80, "http")]);
        let rule = "{backendRefs: [{name: cart, namespace: shop, port: 80}]}";
        let names =
            (0..200).map(|n| format!("r{n}.{}", if n % 2 == 0 { "shop".into() } else { format!("n{n}") }));
        let routes: Vec<_> = names.map(|name| route("HTTPRoute", &name, "name: catalog", rule)).collect();
        let before = attachment::looks();
        assembly.with(&routes.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(attachment::looks() - before, 1);
        assert_eq!(assembly.table("catalog", "n1"), ["httproute/n1/r1/0/0 1*cart.shop:80"]);
        assert_eq!(assembly.table("catalog", "elsewhere").len(), 100);
    }

    /// Resources that depend on each other in every way: backends, parents, conflicts, grants, slices.
    fn entangled() -> Vec<String> {
        let backend = |name: &str| {
            format!(
                "{{backendRefs: [{{name: {name}, port: 80}}, {{name: far, namespace: archive, port: 80}}]}}"
            )
        };
        vec![
            service("cart", 80, "http"),
            service("catalog", 80, "http"),
            service("far.archive", 80, "http"),
            service("stock", 80, "tcp"),
            slice("cart-1", "cart", "10.0.0.1 10.0.0.2", "{}"),
            slice("cart-2", "cart", "10.0.0.2", "{ready: false}"),
            route("HTTPRoute", "a", "name: catalog", &backend("cart")),
            route("HTTPRoute", "b", "name: catalog", &backend("nowhere")),
            route("HTTPRoute", "c.elsewhere", "name: catalog", &backend("cart")),
            route("TCPRoute", "d", "name: catalog", &backend("stock")),
            route("GRPCRoute", "e", "name: cart", &backend("stock")),
            route("HTTPRoute", "f", "name: stock", &backend("cart")),
            "{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {name: g, namespace: archive},
              spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}],
              to: [{group: '', kind: Service}]}}".into(),
        ]
    }

    fn picture(assembly: &Assembly) -> (Vec<String>, Statuses) {
        let mesh = assembly.mesh();
        let mut entries: Vec<_> = mesh.services().map(|(_, entry)| format!("{entry:?}")).collect();
        entries.sort_unstable();
        (entries, assembly.statuses())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_order_of_resources_means_nothing(
            order in Just((0..13usize).collect::<Vec<_>>()).prop_shuffle(),
            again in proptest::collection::vec(0..13usize, 0..6),
        ) {
            let all = entangled();
            let mut expected = Assembly::default();
            expected.with(&all.iter().map(String::as_str).collect::<Vec<_>>());
            let mut one_by_one = Assembly::default();
            for at in &order {
                one_by_one.with(&[&all[*at]]);
            }
            // What goes and comes back leaves no trace either.
            for at in &again {
                one_by_one.without(&all[*at]);
            }
            for at in &again {
                one_by_one.with(&[&all[*at]]);
            }
            prop_assert_eq!(picture(&one_by_one), picture(&expected));
        }
    }
}
