//! The status of routes: Gateway API's conditions for each of their parents.

use super::attachment::{Attachments, resolve, selects, supports};
use super::inventory::{Inventory, Route as Attached, backend_key};
use super::resource::reference::{BackendRef, ParentRef};
use super::route::InvalidBackend;
use super::service::ServiceType;
use super::status::{Condition, ConditionKind, ParentStatus, RouteStatus};

/// Returns the conditions of a route for each of its parents.
pub(super) fn status_of<'a>(
    inventory: &'a Inventory,
    route: Attached<'a>,
    attachments: &mut Attachments<'a>,
) -> RouteStatus {
    let mut one = |parent: &ParentRef| {
        let conditions = match parent.is_service() {
            true => {
                let accepted = accepted(inventory, route, parent, attachments);
                vec![accepted, resolved_refs(inventory, route, parent)]
            }
            false => Vec::new(),
        };
        ParentStatus { parent: display(route, parent).into(), conditions }
    };
    RouteStatus { parents: route.spec.parents.0.iter().map(&mut one).collect() }
}

fn accepted<'a>(
    inventory: &'a Inventory,
    route: Attached<'a>,
    parent: &ParentRef,
    attachments: &mut Attachments<'a>,
) -> Condition {
    let condition = |status, reason, message| Condition {
        kind: ConditionKind::Accepted,
        status,
        reason,
        message,
        observed_generation: route.metadata.generation,
    };
    let no_parent = |message| condition(false, "NoMatchingParent", message);
    let key = route.parent(parent);
    let Some(service) = inventory.service(&key) else {
        return no_parent(format!("there is no Service {}/{}", key.namespace, key.name));
    };
    if let ServiceType::ExternalName(_) = service.service_type {
        return no_parent("a Service of type ExternalName cannot be a parent (GEP-1294)".into());
    }
    let id = &route.metadata.id;
    let ports = service.ports.iter().enumerate();
    let selected: Vec<_> = ports.filter(|(_, port)| selects(parent, port)).collect();
    if selected.is_empty() {
        return no_parent("the Service has no such port".into());
    }
    let supporting: Vec<_> = selected.into_iter().filter(|(_, port)| supports(id.kind, port)).collect();
    if supporting.is_empty() {
        return no_parent("the port's appProtocol is not HTTP".into());
    }
    let (mut winner, active) = (None, attachments.of(service));
    for (port, _) in supporting {
        let routes = active.of(port, &id.namespace);
        if routes.binary_search_by(|other| other.seniority().cmp(&route.seniority())).is_ok() {
            return condition(true, "Accepted", String::new());
        }
        winner = winner.or(routes.first().map(|other| other.metadata.id.to_string()));
    }
    let winner = winner.unwrap_or_default();
    condition(false, "Conflicted", format!("{winner} is active on every port that this route selects"))
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
