//! The Service that a policy needs to judge requests, such as that of global limits: whether it can be used.
//!
//! [`super::policies`] leaves out what needs a Service that does not exist, and `findings` reports it.

use outrigger_core::Name;

use super::diagnostic::Code;
use super::inventory::Inventory;
use super::resource::Metadata;
use super::resource::policy::PolicySpec;
use super::service::ServiceType;
use super::status::{Condition, ConditionKind};

/// Why the Service cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unresolved {
    /// What `outrigger check` calls it.
    pub(super) code: Code,
    /// The field in error.
    pub(super) field: String,
    /// For users.
    pub(super) message: String,
}

/// Returns the condition `ResolvedRefs` of a policy. Returns None if it needs no Service.
pub(super) fn condition(inventory: &Inventory, metadata: &Metadata, spec: &PolicySpec) -> Option<Condition> {
    let namespace = &metadata.id.namespace;
    spec.needs(namespace)?;
    let (status, reason, message) = match unresolved(inventory, namespace, spec) {
        None => (true, "ResolvedRefs", String::new()),
        Some(why) => (false, "BackendNotFound", why.message),
    };
    let (kind, observed_generation) = (ConditionKind::ResolvedRefs, metadata.generation);
    Some(Condition { kind, status, reason, message, observed_generation })
}

/// Returns why the Service that a policy of this namespace needs cannot be used. Returns None if it can, or if the policy needs none.
pub(super) fn unresolved(inventory: &Inventory, namespace: &Name, spec: &PolicySpec) -> Option<Unresolved> {
    let needed = spec.needs(namespace)?;
    let name = format!("Service {}/{}", needed.service.namespace, needed.service.name);
    let (code, field, message) = match inventory.service(&needed.service) {
        None => (Code::UnknownBackend, ".name", format!("there is no {name}")),
        Some(found) if matches!(found.service_type, ServiceType::ExternalName(_)) => {
            (Code::UnsupportedBackend, ".name", format!("{name} is of type ExternalName"))
        }
        Some(found) if found.port(needed.port).is_none() => {
            (Code::UnknownBackendPort, ".port", format!("{name} has no port {}", needed.port))
        }
        Some(_) => return None,
    };
    Some(Unresolved { code, field: format!("{}{field}", needed.field), message })
}
