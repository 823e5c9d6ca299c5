//! Why a backend of a route cannot be used, in words: for `outrigger check` and for the condition `ResolvedRefs`.

use outrigger_core::Name;

use super::inventory::{Inventory, Route, backend_key};
use super::resource::Kind;
use super::resource::reference::BackendRef;
use super::route::InvalidBackend;

/// Returns the message for a backend that is unusable because of `why`.
pub(super) fn backend_message(
    inventory: &Inventory,
    route: Route<'_>,
    backend: &BackendRef,
    why: InvalidBackend,
) -> String {
    let key = backend_key(route.metadata, backend);
    let name = format!("{} {}/{}", backend.kind, key.namespace, key.name);
    let (kind, own) = (route.metadata.id.kind, &route.metadata.id.namespace);
    let port = backend.port.unwrap_or_default();
    match (why, inventory.service(&key)) {
        (InvalidBackend::RefNotPermitted, _) => not_permitted(kind, own, &name, &key.namespace),
        (InvalidBackend::BackendNotFound, None) => format!("there is no {name}"),
        (InvalidBackend::BackendNotFound, Some(_)) => format!("{name} has no port {port}"),
        (InvalidBackend::InvalidKind, Some(_)) => {
            format!("{name} is of type ExternalName, which cannot be a backend (GEP-1294)")
        }
        (InvalidBackend::InvalidKind, None) => format!("{name} cannot be a backend: only Services can"),
        (InvalidBackend::UnsupportedProtocol, service) => {
            let declared = service.and_then(|service| service.port(port));
            let declared = declared.map_or("", |port| port.protocol.name());
            format!("the protocol of {name}:{port} is {declared}, which does not fit a {kind}")
        }
    }
}

/// Returns the message for a reference of a resource to a Service of another namespace that no ReferenceGrant permits.
pub(super) fn not_permitted(kind: Kind, of: &Name, service: &str, namespace: &Name) -> String {
    format!("no ReferenceGrant in {namespace} permits {} {kind} of {of} to refer to {service}", article(kind))
}

fn article(kind: Kind) -> &'static str {
    if kind.name().starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" }
}
