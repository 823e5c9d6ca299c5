//! What the targets of a policy mean (GEP-713): the places that have their requests, or why there are none.

use outrigger_core::Name;

use super::attachment::{id_prefix, selects};
use super::inventory::Inventory;
use super::policy::Place;
use super::resource::policy::TargetRef;
use super::resource::reference::ParentRef;
use super::resource::{Kind, Metadata, ResourceId};
use super::service::{Service, ServiceKey, ServicePort, ServiceType};

/// Why a policy does not apply to a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NotAttached {
    /// A reason of GEP-713: `TargetNotFound`, `Conflicted` or `Invalid`.
    pub(super) reason: &'static str,
    /// For users.
    pub(super) message: String,
}

/// Returns the places that a target means.
pub(super) fn places(
    inventory: &Inventory,
    metadata: &Metadata,
    target: &TargetRef,
) -> Result<Vec<Place>, NotAttached> {
    let namespace = &metadata.id.namespace;
    match target {
        TargetRef::Pods(labels) => Ok(vec![Place::Pods(labels.clone())]),
        TargetRef::Route { kind: Kind::TcpRoute, name, .. } if !metadata.id.kind.judges_connections() => {
            let message = format!("TCPRoute {name} has no requests, to which {} applies", metadata.id.kind);
            Err(NotAttached { reason: "Invalid", message })
        }
        TargetRef::Gateway { name, .. } => Err(NotAttached {
            reason: "Invalid",
            message: format!("Gateway {name}: policies of Gateways are not supported yet"),
        }),
        TargetRef::Service { name, section } => {
            let service = ServiceKey { namespace: namespace.clone(), name: name.clone() };
            let found = inventory.service(&service).ok_or_else(|| not_found("Service", namespace, name))?;
            let external = matches!(found.service_type, ServiceType::ExternalName(_));
            if external && metadata.id.kind.concerns_callers() {
                return Err(NotAttached {
                    reason: "Invalid",
                    message: format!("Service {name} is outside of the mesh (ExternalName)"),
                });
            }
            let port = match section {
                None => None,
                Some(section) => {
                    let named = found.ports.iter().find(|port| port.name == *section);
                    Some(named.ok_or_else(|| no_section("Service", name, "port", section))?.number)
                }
            };
            Ok(vec![Place::Service { service, port }])
        }
        TargetRef::Route { kind, name, section } => {
            route(inventory, namespace, *kind, name, section.as_ref())
        }
    }
}

/// Returns the places of a route: of requests that match it, or of the whole ports that a TCPRoute is attached to. Only Services of the
/// policy's namespace have them: a policy must not decide about those of others.
fn route(
    inventory: &Inventory,
    namespace: &Name,
    kind: Kind,
    name: &Name,
    section: Option<&Name>,
) -> Result<Vec<Place>, NotAttached> {
    let id = ResourceId { kind, namespace: namespace.clone(), name: name.clone() };
    let route = inventory.route(&id).ok_or_else(|| not_found(kind.name(), namespace, name))?;
    let rules = match section {
        None => None,
        Some(section) => {
            let rules = route.spec.rules.iter().enumerate();
            let named: Vec<_> = rules.filter(|(_, rule)| rule.name.as_ref() == Some(section)).collect();
            if named.is_empty() {
                return Err(no_section(kind.name(), name, "rule", section));
            }
            Some(named.into_iter().map(|(at, _)| at).collect())
        }
    };
    let parents = route.spec.parents.0.iter().filter(|parent| parent.is_service());
    let own = parents.filter(|parent| route.parent(parent).namespace == *namespace);
    let services: Vec<_> =
        own.filter_map(|parent| Some((parent, inventory.service(&route.parent(parent))?))).collect();
    if services.is_empty() {
        return Err(NotAttached {
            reason: "Invalid",
            message: format!("{kind} {name} is attached to no Service of namespace {namespace}"),
        });
    }
    if kind != Kind::TcpRoute {
        return Ok(vec![Place::Route { prefix: id_prefix(&id).into(), rules }]);
    }
    let of_service = |(parent, service): &(&ParentRef, &Service)| {
        let ports: Vec<_> = service.ports.iter().filter(|port| selects(parent, port)).collect();
        let place =
            |port: &&ServicePort| Place::Service { service: service.key.clone(), port: Some(port.number) };
        ports.iter().map(place).collect::<Vec<_>>()
    };
    Ok(services.iter().flat_map(of_service).collect())
}

fn not_found(kind: &str, namespace: &Name, name: &Name) -> NotAttached {
    NotAttached { reason: "TargetNotFound", message: format!("there is no {kind} {namespace}/{name}") }
}

fn no_section(kind: &str, name: &Name, what: &str, section: &Name) -> NotAttached {
    NotAttached { reason: "TargetNotFound", message: format!("{kind} {name} has no {what} named {section}") }
}
