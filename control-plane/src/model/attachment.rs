//! Attaches routes to services: which routes are active on a port, and in which order.
//!
//! GEP-1294 for services as parents, `HTTPRouteRule` and `GRPCRouteRule` for precedence, ReferenceGrant for the backends
//! of producer routes.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_core::Name;

use super::inventory::{Inventory, Route as Attached, backend_key};
use super::resource::reference::ParentRef;
use super::resource::rule::{BackendSpec, NamedBackend, RuleSpec};
use super::resource::{Kind, Metadata, MirrorSpec, ResourceId};
use super::route::{
    BackendTarget, ExternalAuth, InvalidBackend, Mirror, PortRoutes, Route, RouteAction, RouteTable,
    RouteTarget, ServiceRoutes, TcpRoute, WeightedBackend,
};
use super::service::{AppProtocol, Service, ServiceKey, ServicePort, ServiceType};

/// Returns the active routes of every port of a service.
pub(super) fn routes_of(
    inventory: &Inventory,
    service: &Service,
    active: &ActiveRoutes<'_>,
) -> ServiceRoutes {
    let mut ports = Vec::new();
    for (port, by_namespace) in service.ports.iter().zip(&active.ports) {
        let mut routes = PortRoutes::default();
        for (namespace, attached) in by_namespace {
            let Some(table) = table(inventory, &service.key, attached) else { continue };
            if **namespace == service.key.namespace {
                routes.producer = Some(Arc::new(table));
            } else {
                routes.consumers.insert((*namespace).clone(), Arc::new(table));
            }
        }
        if routes != PortRoutes::default() {
            ports.push((port.number, routes));
        }
    }
    ServiceRoutes { ports }
}

/// The routes that are active on each port of a service, by the namespace of the clients.
#[derive(Debug)]
pub(super) struct ActiveRoutes<'a> {
    /// In the order of the service's ports.
    ports: Vec<BTreeMap<&'a Name, Vec<Attached<'a>>>>,
}

impl<'a> ActiveRoutes<'a> {
    /// Finds the active routes of a service.
    ///
    /// "If multiple routes with different types both bind to the same Service and Port pair, only a single route type
    /// should be applied": GRPCRoute before HTTPRoute before TCPRoute (GEP-1294). TCPRoutes have no matches that could be
    /// merged, so only the one of the highest precedence is active.
    fn on(inventory: &'a Inventory, service: &Service) -> Self {
        #[cfg(test)]
        LOOKS.with(|looks| looks.set(looks.get() + 1));
        let mut ports: Vec<BTreeMap<&Name, Vec<Attached<'a>>>> = vec![BTreeMap::new(); service.ports.len()];
        for route in inventory.attached(&service.key) {
            let parents = || route.spec.parents.0.iter().filter(|parent| parent.is_service());
            for (port, by_namespace) in service.ports.iter().zip(&mut ports) {
                let named =
                    parents().any(|parent| route.parent(parent) == service.key && selects(parent, port));
                if named && supports(route.metadata.id.kind, port) {
                    by_namespace.entry(&route.metadata.id.namespace).or_default().push(route);
                }
            }
        }
        for routes in ports.iter_mut().flat_map(BTreeMap::values_mut) {
            let kind =
                routes.iter().map(|route| route.metadata.id.kind).min_by_key(|kind| specificity(*kind));
            routes.retain(|route| Some(route.metadata.id.kind) == kind);
            routes.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
            if kind == Some(Kind::TcpRoute) {
                routes.truncate(1);
            }
        }
        Self { ports }
    }

    /// Returns the routes of one namespace on the port of this index, in order of precedence.
    pub(super) fn of(&self, port: usize, namespace: &Name) -> &[Attached<'a>] {
        self.ports.get(port).and_then(|by_namespace| by_namespace.get(namespace)).map_or(&[], Vec::as_slice)
    }
}

/// The active routes of the services of one inventory, found on demand and kept.
#[derive(Debug)]
pub(super) struct Attachments<'a> {
    inventory: &'a Inventory,
    made: BTreeMap<&'a ServiceKey, Rc<ActiveRoutes<'a>>>,
}

impl<'a> Attachments<'a> {
    pub(super) fn new(inventory: &'a Inventory) -> Self {
        Self { inventory, made: BTreeMap::new() }
    }

    /// Returns the active routes of one service.
    pub(super) fn of(&mut self, service: &'a Service) -> Rc<ActiveRoutes<'a>> {
        let make = || ActiveRoutes::on(self.inventory, service).into();
        Rc::clone(self.made.entry(&service.key).or_insert_with(make))
    }
}

fn specificity(kind: Kind) -> u8 {
    match kind {
        Kind::GrpcRoute => 0,
        Kind::HttpRoute => 1,
        _ => 2,
    }
}

/// Returns true if a parent reference selects this port: by number, by name, by both, or as one of all.
pub(super) fn selects(parent: &ParentRef, port: &ServicePort) -> bool {
    parent.port.is_none_or(|number| number.0 == port.number)
        && parent.section_name.as_ref().is_none_or(|name| name.0 == port.name)
}

/// Returns true if a port supports routes of this kind. Opaque bytes have no requests to route. A TCPRoute is supported by
/// every port, since requests are bytes too.
pub(super) fn supports(kind: Kind, port: &ServicePort) -> bool {
    kind == Kind::TcpRoute || port.protocol != AppProtocol::Tcp
}

fn table(inventory: &Inventory, parent: &ServiceKey, routes: &[Attached<'_>]) -> Option<RouteTable> {
    let first = routes.first()?;
    if first.metadata.id.kind == Kind::TcpRoute {
        let rule = first.spec.rules.first()?;
        let backends = backends(inventory, *first, parent, &rule.backends);
        return Some(RouteTable::Tcp(TcpRoute { id: id(first.metadata, 0, 0).into(), backends }));
    }
    let mut all = Vec::new();
    for (seniority, route) in routes.iter().enumerate() {
        for (number, rule) in route.spec.rules.iter().enumerate() {
            let action = Arc::new(action(inventory, *route, parent, rule));
            for (at, (precedence, matches)) in rule.matches.iter().enumerate() {
                let id = id(route.metadata, number, at).into();
                let route = Route { id, matches: matches.clone(), action: Arc::clone(&action) };
                all.push(((*precedence, seniority, number, at), route));
            }
        }
    }
    all.sort_by_key(|(order, _)| *order);
    Some(RouteTable::Http(all.into_iter().map(|(_, route)| route).collect()))
}

fn id(route: &Metadata, rule: usize, at: usize) -> String {
    format!("{}{rule}/{at}", id_prefix(&route.id))
}

/// Returns how the IDs of a route's matches in the mesh begin: `httproute/<namespace>/<name>/`.
pub(super) fn id_prefix(ResourceId { kind, namespace, name }: &ResourceId) -> String {
    format!("{}/{namespace}/{name}/", kind.name().to_ascii_lowercase())
}

fn action(inventory: &Inventory, route: Attached<'_>, parent: &ServiceKey, rule: &RuleSpec) -> RouteAction {
    let RuleSpec {
        name: _,
        matches: _,
        filters,
        backends: backend_specs,
        timeouts,
        retry,
        session_persistence,
    } = rule;
    let mut plain = filters.plain.clone();
    let mirror = |mirror: &MirrorSpec| Mirror {
        target: resolve(inventory, route, parent, (&mirror.backend).into()),
        share: mirror.share,
    };
    plain.mirrors = filters.mirrors.iter().map(mirror).collect();
    plain.external_auth = filters.external_auth.as_ref().map(|auth| ExternalAuth {
        target: resolve(inventory, route, parent, auth.named()),
        check: auth.check.clone(),
    });
    let target = match &filters.redirect {
        Some(redirect) => RouteTarget::Redirect(redirect.clone()),
        None => RouteTarget::Forward(backends(inventory, route, parent, backend_specs)),
    };
    RouteAction {
        target,
        filters: plain,
        timeouts: *timeouts,
        retry: retry.clone(),
        session_persistence: session_persistence.clone(),
    }
}

fn backends(
    inventory: &Inventory,
    route: Attached<'_>,
    parent: &ServiceKey,
    specs: &[BackendSpec],
) -> Vec<WeightedBackend> {
    let one = |BackendSpec { reference, weight, filters }: &BackendSpec| WeightedBackend {
        weight: *weight,
        target: resolve(inventory, route, parent, reference.into()),
        filters: filters.clone(),
    };
    specs.iter().map(one).collect()
}

/// Resolves a backend reference to a service port, for the route as it is attached to `parent`.
pub(super) fn resolve(
    inventory: &Inventory,
    route: Attached<'_>,
    parent: &ServiceKey,
    NamedBackend { reference: backend, gets_grpc }: NamedBackend<'_>,
) -> Result<BackendTarget, InvalidBackend> {
    let (true, Some(port)) = (backend.is_service(), backend.port) else {
        return Err(InvalidBackend::InvalidKind);
    };
    let key = backend_key(route.metadata, backend);
    let (kind, namespace) = (route.metadata.id.kind, &route.metadata.id.namespace);
    // Checked first, so that a route learns nothing about a service that it may not refer to.
    if needs_grant(namespace, parent, &key) && !inventory.permits(kind, namespace, &key) {
        return Err(InvalidBackend::RefNotPermitted);
    }
    let service = inventory.service(&key).ok_or(InvalidBackend::BackendNotFound)?;
    if let ServiceType::ExternalName(_) = service.service_type {
        return Err(InvalidBackend::InvalidKind);
    }
    let port_of_backend = service.port(port).ok_or(InvalidBackend::BackendNotFound)?;
    let supported = match (kind, port_of_backend.protocol) {
        (Kind::HttpRoute | Kind::GrpcRoute, AppProtocol::Tcp) => false,
        (_, AppProtocol::Http) if gets_grpc || kind == Kind::GrpcRoute => false,
        // A port that serves requests accepts no opaque bytes, except if this very route makes it opaque.
        (Kind::TcpRoute, AppProtocol::Http | AppProtocol::H2c | AppProtocol::Grpc) => {
            let mut parents = route.spec.parents.0.iter().filter(|parent| parent.is_service());
            parents.any(|parent| route.parent(parent) == key && selects(parent, port_of_backend))
        }
        _ => true,
    };
    match supported {
        true => Ok(BackendTarget { service: key, port }),
        false => Err(InvalidBackend::UnsupportedProtocol),
    }
}

/// Returns true if a backend needs a ReferenceGrant.
///
/// A consumer route affects only clients of its own namespace, which may call the backend anyway: GEP-1294, "Namespace
/// boundaries", lets it refer to any namespace without a grant. A producer route affects the clients of every namespace,
/// which call the backend with their own identities. For this broader scope the GEP requires a grant from the backend's
/// namespace.
fn needs_grant(route: &str, parent: &ServiceKey, backend: &ServiceKey) -> bool {
    *parent.namespace == *route && *backend.namespace != *route
}

#[cfg(test)]
thread_local! {
    static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Returns how often this thread has found the active routes of a service.
#[cfg(test)]
pub(super) fn looks() -> usize {
    LOOKS.with(std::cell::Cell::get)
}
