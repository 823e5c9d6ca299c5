//! What routes are told: the conditions of Gateway API for each of their parents.

use super::attachment::{carries, in_force, resolve, selects};
use super::inventory::{Inventory, Route as Attached, backend_key};
use super::resource::reference::{BackendRef, ParentRef};
use super::route::InvalidBackend;
use super::service::Reach;
use super::status::{Condition, ConditionKind, ParentStatus, RouteStatus};

/// What a route is told about each of its parents.
pub(super) fn status_of(inventory: &Inventory, route: Attached<'_>) -> RouteStatus {
    let one = |parent: &ParentRef| {
        let conditions = match parent.is_service() {
            true => vec![accepted(inventory, route, parent), resolved_refs(inventory, route, parent)],
            false => Vec::new(),
        };
        ParentStatus { parent: display(route, parent).into(), conditions }
    };
    RouteStatus { parents: route.spec.parents.0.iter().map(one).collect() }
}

fn accepted(inventory: &Inventory, route: Attached<'_>, parent: &ParentRef) -> Condition {
    let verdict = |status, reason, message| Condition {
        kind: ConditionKind::Accepted,
        status,
        reason,
        message,
        observed_generation: route.metadata.generation,
    };
    let no_parent = |message| verdict(false, "NoMatchingParent", message);
    let key = route.parent(parent);
    let Some(service) = inventory.service(&key) else {
        return no_parent(format!("there is no Service {}/{}", key.namespace, key.name));
    };
    if let Reach::ExternalName(_) = service.reach {
        return no_parent("a Service of type ExternalName takes no routes (GEP-1294)".into());
    }
    let id = &route.metadata.id;
    let selected: Vec<_> = service.ports.iter().filter(|port| selects(parent, port)).collect();
    if selected.is_empty() {
        return no_parent("the Service has no such port".into());
    }
    let carrying: Vec<_> = selected.into_iter().filter(|port| carries(id.kind, port)).collect();
    if carrying.is_empty() {
        return no_parent("the port's appProtocol is no HTTP".into());
    }
    let mut winner = None;
    for port in carrying {
        let routes = in_force(inventory, service, port, &id.namespace);
        if routes.iter().any(|other| other.metadata.id == *id) {
            return verdict(true, "Accepted", String::new());
        }
        winner = winner.or(routes.first().map(|other| other.metadata.id.to_string()));
    }
    let winner = winner.unwrap_or_default();
    verdict(false, "Conflicted", format!("{winner} is in force on every port that this route names"))
}

fn resolved_refs(inventory: &Inventory, route: Attached<'_>, parent: &ParentRef) -> Condition {
    let parent = route.parent(parent);
    let condition = |status, reason, message| Condition {
        kind: ConditionKind::ResolvedRefs,
        status,
        reason,
        message,
        observed_generation: route.metadata.generation,
    };
    let fails = |backend| resolve(inventory, route, &parent, backend).err().map(|why| (backend, why));
    let mut failures = route.spec.backends().filter_map(fails).peekable();
    let Some((_, first)) = failures.peek().copied() else {
        return condition(true, "ResolvedRefs", String::new());
    };
    let text = |(backend, why): (&BackendRef, InvalidBackend)| {
        let key = backend_key(route.metadata, backend);
        let port = backend.port.map_or_else(String::new, |port| format!(":{port}"));
        format!("{} {}/{}{port}: {}", backend.kind, key.namespace, key.name, why.reason())
    };
    let message = failures.map(text).collect::<Vec<_>>().join(", ");
    condition(false, first.reason(), message)
}

fn display(route: Attached<'_>, parent: &ParentRef) -> String {
    let key = route.parent(parent);
    let port = parent.port.map_or_else(String::new, |port| format!(":{}", port.0));
    let section = parent.section_name.as_ref().map_or_else(String::new, |name| format!("#{}", name.0));
    format!("{} {}/{}{port}{section}", parent.kind.0, key.namespace, key.name)
}
