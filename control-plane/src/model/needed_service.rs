//! The Services that a policy needs to judge requests, such as that of global limits or of the keys of tokens: whether they can be used.
//!
//! [`super::policies`] leaves out what needs a Service that cannot be used, and `findings` reports it.

use std::sync::Arc;

use super::authentication::Authentication;
use super::backend_message::not_permitted;
use super::diagnostic::Code;
use super::inventory::Inventory;
use super::needed_secret;
use super::resource::Metadata;
use super::resource::needed::Needed;
use super::resource::policy::PolicySpec;
use super::route::InvalidBackend;
use super::service::{AppProtocol, ServiceKey, ServiceType};
use super::status::{Condition, ConditionKind};

/// Why a Service cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unresolved {
    /// The Service.
    pub(super) service: ServiceKey,
    /// Its port.
    pub(super) port: u16,
    /// Why, as in the condition `ResolvedRefs`.
    pub(super) why: InvalidBackend,
    /// What `outrigger check` calls it.
    pub(super) code: Code,
    /// The field in error.
    pub(super) field: String,
    /// For users.
    pub(super) message: String,
}

/// Returns the condition `ResolvedRefs` of a policy. Returns None if it needs neither a Service nor a Secret.
pub(super) fn condition(inventory: &Inventory, metadata: &Metadata, spec: &PolicySpec) -> Option<Condition> {
    let namespace = &metadata.id.namespace;
    if spec.needs(namespace).is_empty() && spec.secrets(namespace).is_empty() {
        return None;
    }
    let services = unresolved(inventory, metadata, spec).into_iter();
    let secrets = needed_secret::unusable(inventory, metadata, spec).into_iter();
    let failures = services.map(|failure| (failure.why.reason(), failure.message));
    let failures: Vec<_> = failures.chain(secrets.map(|failure| (failure.reason, failure.message))).collect();
    let mut messages: Vec<_> = failures.iter().map(|(_, message)| message.as_str()).collect();
    messages.dedup();
    let reason = failures.first().map(|(reason, _)| *reason);
    Some(Condition {
        kind: ConditionKind::ResolvedRefs,
        status: reason.is_none(),
        reason: reason.unwrap_or("ResolvedRefs"),
        message: messages.join("; "),
        observed_generation: metadata.generation,
    })
}

/// Returns why Services that a policy needs cannot be used. Empty if all can.
pub(super) fn unresolved(inventory: &Inventory, metadata: &Metadata, spec: &PolicySpec) -> Vec<Unresolved> {
    let needed = spec.needs(&metadata.id.namespace).into_iter();
    needed.filter_map(|needed| reason(inventory, metadata, needed)).collect()
}

/// Returns the meaning `of` a policy, in which the Services that do not exist are marked. A listener would wait for their clusters.
pub(super) fn mark_missing(
    inventory: &Inventory,
    metadata: &Metadata,
    spec: &PolicySpec,
    of: &Arc<Authentication>,
) -> Arc<Authentication> {
    let mut missing = unresolved(inventory, metadata, spec);
    missing.retain(|why| why.why != InvalidBackend::UnsupportedProtocol);
    if missing.is_empty() {
        return Arc::clone(of);
    }
    let is_missing =
        |key: &ServiceKey, port| missing.iter().any(|why| why.service == *key && why.port == port);
    Arc::new(of.without(&metadata.id.namespace, is_missing))
}

fn reason(inventory: &Inventory, metadata: &Metadata, needed: Needed) -> Option<Unresolved> {
    let (kind, namespace) = (metadata.id.kind, &metadata.id.namespace);
    let Needed { service, port, field, gets_grpc, needs_grant } = needed;
    let name = format!("Service {}/{}", service.namespace, service.name);
    let found = inventory.service(&service);
    let (why, code, inner, message) = match (found, found.and_then(|found| found.port(port))) {
        // Checked first, so that a policy learns nothing about a Service that it may not refer to.
        _ if needs_grant && !inventory.permits(kind, namespace, &service) => (
            InvalidBackend::RefNotPermitted,
            Code::BackendNotPermitted,
            "",
            not_permitted(kind, namespace, &name, &service.namespace),
        ),
        (None, _) => {
            (InvalidBackend::BackendNotFound, Code::UnknownBackend, ".name", format!("there is no {name}"))
        }
        (Some(found), _) if matches!(found.service_type, ServiceType::ExternalName(_)) => {
            let message = format!("{name} is of type ExternalName");
            (InvalidBackend::InvalidKind, Code::UnsupportedBackend, ".name", message)
        }
        (Some(_), None) => {
            let message = format!("{name} has no port {port}");
            (InvalidBackend::BackendNotFound, Code::UnknownBackendPort, ".port", message)
        }
        (Some(_), Some(port)) => {
            let (declared, form) = (&port.protocol, if gets_grpc { "gRPC" } else { "HTTP" });
            if *declared != AppProtocol::Tcp && !(gets_grpc && *declared == AppProtocol::Http) {
                return None;
            }
            let message =
                format!("the protocol of {name}:{} is {}, not {form}", port.number, declared.name());
            (InvalidBackend::UnsupportedProtocol, Code::BackendProtocol, ".port", message)
        }
    };
    Some(Unresolved { service, port, why, code, field: format!("{field}{inner}"), message })
}
