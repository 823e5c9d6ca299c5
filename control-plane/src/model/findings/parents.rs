//! Parents of routes that do not exist, or are not those that were meant.

use super::{ports_of, where_is};
use crate::model::attachment::Attachments;
use crate::model::conditions::{NotAttached, attach};
use crate::model::diagnostic::{Code, Problem};
use crate::model::inventory::{Inventory, Route};
use crate::model::resource::reference::ParentRef;

/// Returns the problems of a route's parents.
pub(super) fn of<'a>(
    inventory: &'a Inventory,
    route: Route<'a>,
    attachments: &mut Attachments<'a>,
) -> Vec<Problem> {
    let parents = &route.spec.parents.0;
    if parents.is_empty() {
        let problem = Problem::of(Code::NoParent, "spec", "is attached to nothing: it has no parentRefs");
        return vec![problem.help(TO_A_SERVICE)];
    }
    let one = |(at, parent): (usize, &'a ParentRef)| {
        let field = format!("spec.parentRefs[{at}]");
        match parent.is_service() {
            true => {
                let why = attach(inventory, route, parent, attachments).err()?;
                Some(not_attached(inventory, route, parent, &field, &why))
            }
            false => Some(no_service(inventory, route, parent, field)),
        }
    };
    parents.iter().enumerate().filter_map(one).collect()
}

const TO_A_SERVICE: &str = "a parent in the mesh is a Service: group: \"\", kind: Service";

fn not_attached(
    inventory: &Inventory,
    route: Route<'_>,
    parent: &ParentRef,
    field: &str,
    why: &NotAttached,
) -> Problem {
    let key = route.parent(parent);
    let service = inventory.service(&key);
    let (code, inner) = match why {
        NotAttached::NoService => (Code::UnknownParent, ".name"),
        NotAttached::ExternalName => (Code::UnsupportedParent, ".name"),
        NotAttached::NoPort if parent.port.is_some() => (Code::UnknownParentPort, ".port"),
        NotAttached::NoPort => (Code::UnknownParentPort, ".sectionName"),
        NotAttached::NotHttp => (Code::ParentProtocol, ""),
        NotAttached::Conflicted(_) => (Code::ConflictingRoute, ""),
    };
    let problem = Problem::of(code, format!("{field}{inner}"), why.message(&key));
    match (why, service) {
        (NotAttached::NoService, _) => match where_is(inventory, &key) {
            Some(help) => problem.help(help),
            None => problem,
        },
        (NotAttached::NoPort, Some(service)) => problem.help(ports_of(service)),
        (NotAttached::NotHttp, _) => {
            problem.help("route connections with a TCPRoute, or declare appProtocol: http on the port")
        }
        (NotAttached::Conflicted(_), _) => problem
            .help("of a port's routes one kind is active: GRPCRoute before HTTPRoute before one TCPRoute"),
        _ => problem,
    }
}

fn no_service(inventory: &Inventory, route: Route<'_>, parent: &ParentRef, field: String) -> Problem {
    let (kind, group, key) = (&parent.kind.0, &parent.group.0, route.parent(parent));
    if &**kind == "Service" {
        let message = format!("there is no kind Service in group {group}, the default for parents");
        return Problem::of(Code::ParentGroup, field, message).help("write group: \"\"");
    }
    let name = format!("{kind} {}/{}", key.namespace, key.name);
    if &**kind == "Gateway" && inventory.service(&key).is_some() {
        let message =
            format!("is attached to {name}, which the mesh does not read; there is a Service of this name");
        return Problem::of(Code::ParentKind, field, message)
            .help("to attach to the Service, write group: \"\" and kind: Service");
    }
    let message =
        format!("is attached to {name}: the mesh attaches routes to Services, so it has no effect there");
    Problem::of(Code::ParentNotHandled, field, message)
}
