//! The problems of accepted resources: what `outrigger check` reports beside refusals.
//!
//! They follow from the same functions as the conditions and the routes of the mesh. A similar name or an existing port is the
//! next step that a problem names.

mod backends;
mod matches;
mod parents;
mod policies;
mod services;

use outrigger_core::Name;

use super::attachment::Attachments;
use super::diagnostic::Problem;
use super::inventory::{Inventory, Route};
use super::mesh::Mesh;
use super::resource::{Body, Kind, ResourceId};
use super::service::{Service, ServiceKey};
use super::similar::similar;
use super::status::Statuses;

/// A problem of an accepted resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    pub(crate) resource: ResourceId,
    pub(crate) problem: Problem,
}

/// Returns all problems of the accepted resources. `mesh` is built from them, and they have these `statuses`.
pub(super) fn all(inventory: &Inventory, mesh: &Mesh, statuses: &Statuses) -> Vec<Finding> {
    let mut all = matches::shadowed(mesh);
    let mut attachments = Attachments::new(inventory);
    for resource in inventory.resources() {
        let mut problems = resource.remarks.clone();
        match &resource.body {
            Body::Namespace(_) | Body::ReferenceGrant(_) | Body::Secret(_) | Body::Service(_) => {}
            Body::Policy(spec) if !spec.stands_in() => {
                problems.extend(policies::of(inventory, mesh, &resource.metadata, spec));
                let status = statuses.get(&resource.metadata.id);
                problems.extend(status.into_iter().flat_map(|status| policies::conflicts(status)));
                problems.extend(policies::unasked(mesh, &resource.metadata.id));
            }
            Body::Policy(_) => {}
            Body::EndpointSlice(slice) => problems.extend(services::of_slice(inventory, slice)),
            Body::Route(spec) => {
                let route = Route { metadata: &resource.metadata, spec };
                problems.extend(parents::of(inventory, route, &mut attachments));
                problems.extend(backends::of(inventory, route));
            }
        }
        let id = &resource.metadata.id;
        all.extend(problems.into_iter().map(|problem| Finding { resource: id.clone(), problem }));
    }
    all.extend(services::duplicate_ips(inventory));
    all
}

/// Returns the next step where a Service does not exist: a similar name, or its real namespace.
fn where_is(inventory: &Inventory, missing: &ServiceKey) -> Option<String> {
    let elsewhere: Vec<_> = inventory
        .services()
        .filter(|service| service.key.name == missing.name)
        .map(|service| format!("{}/{}", service.key.namespace, service.key.name))
        .collect();
    if let [first, ..] = &*elsewhere {
        return Some(format!("there is a Service {first}: write its namespace in the reference"));
    }
    let in_namespace = inventory.services().filter(|service| service.key.namespace == missing.namespace);
    let names: Vec<&str> = in_namespace.map(|service| &*service.key.name).collect();
    match similar(&missing.name, names.iter().copied()) {
        near if !near.is_empty() => Some(format!("did you mean {}?", near.join(" or "))),
        _ if names.is_empty() => {
            Some(format!("no Service of namespace {} is among the files", missing.namespace))
        }
        _ if names.len() <= 8 => Some(format!("Services in {}: {}", missing.namespace, names.join(", "))),
        _ => None,
    }
}

/// Returns the next step where no ReferenceGrant permits a reference to a Service or a Secret.
fn add_grant(kind: Kind, of: &Name, to: (Kind, &Name, &Name)) -> String {
    let (to, namespace, name) = to;
    format!("add a ReferenceGrant to namespace {namespace}: from {kind} of {of}, to {to} {name}")
}

/// Returns the ports of a Service: `cart has the ports 80 (http), 9090 (metrics)`.
fn ports_of(service: &Service) -> String {
    let port = |port: &super::service::ServicePort| match &*port.name {
        "" => port.number.to_string(),
        name => format!("{} ({name})", port.number),
    };
    let ports: Vec<_> = service.ports.iter().map(port).collect();
    match &*ports {
        [] => format!("{} has no TCP port", service.key.name),
        [one] => format!("{} has the port {one}", service.key.name),
        several => format!("{} has the ports {}", service.key.name, several.join(", ")),
    }
}
