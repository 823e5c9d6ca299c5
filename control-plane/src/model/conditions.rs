//! The status of routes: Gateway API's conditions for each of their parents.

use super::attachment::{Attachments, resolve, selects, supports};
use super::backend_message::backend_message;
use super::inventory::{Inventory, Route as Attached};
use super::resource::ResourceId;
use super::resource::reference::ParentRef;
use super::service::{ServiceKey, ServiceType};
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
        ParentStatus { parent: parent.clone(), conditions }
    };
    RouteStatus { parents: route.spec.parents.0.iter().map(&mut one).collect() }
}

/// Why a route is not attached to a parent Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotAttached {
    NoService,
    ExternalName,
    NoPort,
    /// Opaque bytes have no requests.
    NotHttp,
    /// This route is active on every port that the reference selects.
    Conflicted(ResourceId),
}

impl NotAttached {
    fn reason(&self) -> &'static str {
        if let Self::Conflicted(_) = self { "Conflicted" } else { "NoMatchingParent" }
    }

    /// Returns a message for users. `parent` is the Service.
    pub(super) fn message(&self, parent: &ServiceKey) -> String {
        match self {
            Self::NoService => format!("there is no Service {}/{}", parent.namespace, parent.name),
            Self::ExternalName => "a Service of type ExternalName cannot be a parent (GEP-1294)".into(),
            Self::NoPort => "the Service has no such TCP port".into(),
            Self::NotHttp => "the protocol of the port is not HTTP, by its appProtocol or its name".into(),
            Self::Conflicted(winner) => {
                format!("{winner} is active on every port that this route selects")
            }
        }
    }
}

fn accepted<'a>(
    inventory: &'a Inventory,
    route: Attached<'a>,
    parent: &ParentRef,
    attachments: &mut Attachments<'a>,
) -> Condition {
    let (status, reason, message) = match attach(inventory, route, parent, attachments) {
        Ok(()) => (true, "Accepted", String::new()),
        Err(why) => (false, why.reason(), why.message(&route.parent(parent))),
    };
    Condition {
        kind: ConditionKind::Accepted,
        status,
        reason,
        message,
        observed_generation: route.metadata.generation,
    }
}

/// Returns an error if a route is active on no port of a parent Service.
pub(super) fn attach<'a>(
    inventory: &'a Inventory,
    route: Attached<'a>,
    parent: &ParentRef,
    attachments: &mut Attachments<'a>,
) -> Result<(), NotAttached> {
    let service = inventory.service(&route.parent(parent)).ok_or(NotAttached::NoService)?;
    if let ServiceType::ExternalName(_) = service.service_type {
        return Err(NotAttached::ExternalName);
    }
    let id = &route.metadata.id;
    let ports = service.ports.iter().enumerate();
    let selected: Vec<_> = ports.filter(|(_, port)| selects(parent, port)).collect();
    if selected.is_empty() {
        return Err(NotAttached::NoPort);
    }
    let supporting = selected.into_iter().filter(|(_, port)| supports(id.kind, port));
    let (mut winner, active) = (None, attachments.of(service));
    for (port, _) in supporting {
        let routes = active.of(port, &id.namespace);
        if routes.binary_search_by(|other| other.seniority().cmp(&route.seniority())).is_ok() {
            return Ok(());
        }
        winner = winner.or(routes.first().map(|other| other.metadata.id.clone()));
    }
    Err(winner.map_or(NotAttached::NotHttp, NotAttached::Conflicted))
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
    let backends = route.spec.backends();
    let mut failures = backends
        .filter_map(|backend| {
            let why = resolve(inventory, route, &parent, backend).err()?;
            Some((backend.reference, why))
        })
        .peekable();
    let Some((_, first)) = failures.peek().copied() else {
        return condition(true, "ResolvedRefs", String::new());
    };
    let text = |(backend, why)| backend_message(inventory, route, backend, why);
    let message = failures.map(text).collect::<Vec<_>>().join(", ");
    condition(false, first.reason(), message)
}
