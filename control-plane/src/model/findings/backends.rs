//! Backends of routes that cannot be used, and rules that forward nothing.

use super::{ports_of, where_is};
use crate::model::attachment::resolve;
use crate::model::diagnostic::{Code, Problem};
use crate::model::inventory::{Inventory, Route, backend_key};
use crate::model::resource::reference::BackendRef;
use crate::model::resource::rule::RuleSpec;
use crate::model::route::InvalidBackend;

/// Returns the problems of a route's rules. A route without a Service as parent has none: its backends are not the mesh's.
pub(super) fn of(inventory: &Inventory, route: Route<'_>) -> Vec<Problem> {
    // With the wrong group too: once that is corrected, the same backends are resolved.
    let parents: Vec<_> = route.spec.parents.0.iter().filter(|parent| &*parent.kind.0 == "Service").collect();
    if parents.is_empty() {
        return Vec::new();
    }
    let invalid = |backend: &BackendRef, field: String| {
        let fails = |parent| resolve(inventory, route, &route.parent(parent), backend).err();
        let why = parents.iter().copied().find_map(fails)?;
        Some(problem(inventory, route, backend, field, why))
    };
    let mut problems = Vec::new();
    if route.spec.rules.is_empty() {
        problems.push(Problem::of(Code::NoBackends, "spec", "has no rules: it routes nothing"));
    }
    for (at, rule) in route.spec.rules.iter().enumerate() {
        let field = format!("spec.rules[{at}]");
        let backends = rule.backends.iter().enumerate();
        problems.extend(
            backends.filter_map(|(at, backend)| {
                invalid(&backend.reference, format!("{field}.backendRefs[{at}]"))
            }),
        );
        let mirrors = rule.filters.mirrors.iter();
        problems.extend(mirrors.filter_map(|mirror| invalid(&mirror.backend, format!("{field}.filters"))));
        problems.extend(of_rule(rule, &field));
    }
    problems
}

fn of_rule(rule: &RuleSpec, field: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    if rule.backends.is_empty() && rule.filters.redirect.is_none() {
        let message = "has no backends: every request that it matches is answered with 500";
        problems.push(Problem::of(Code::NoBackends, field, message).help("add backendRefs"));
    }
    if !rule.backends.is_empty() && rule.backends.iter().all(|backend| backend.weight == 0) {
        let message = "every weight is 0: every request that it matches is answered with 500";
        problems.push(Problem::of(Code::ZeroWeights, format!("{field}.backendRefs"), message));
    }
    let limit = rule.timeouts.request.filter(|limit| !limit.is_zero());
    if let (Some(limit), Some(backoff)) = (limit, rule.retry.as_ref().and_then(|retry| retry.backoff))
        && backoff >= limit
    {
        let message = "no retry can happen: backoff is not shorter than timeouts.request";
        problems.push(Problem::of(Code::RetryBeyondTimeout, format!("{field}.retry.backoff"), message));
    }
    problems
}

fn problem(
    inventory: &Inventory,
    route: Route<'_>,
    backend: &BackendRef,
    field: String,
    why: InvalidBackend,
) -> Problem {
    let key = backend_key(route.metadata, backend);
    let name = format!("{} {}/{}", backend.kind, key.namespace, key.name);
    let with_help = |problem: Problem, help: Option<String>| match help {
        Some(help) => problem.help(help),
        None => problem,
    };
    match (why, inventory.service(&key)) {
        (InvalidBackend::RefNotPermitted, _) => {
            let (kind, own) = (route.metadata.id.kind, &route.metadata.id.namespace);
            let message = format!(
                "no ReferenceGrant in {} permits a {kind} of {own} to refer to {name}",
                key.namespace
            );
            Problem::of(Code::BackendNotPermitted, field, message).help(format!(
                "add a ReferenceGrant to namespace {}: from {kind} of {own}, to Service {}",
                key.namespace, key.name
            ))
        }
        (InvalidBackend::BackendNotFound, None) => {
            let problem = Problem::of(Code::UnknownBackend, field + ".name", format!("there is no {name}"));
            with_help(problem, where_is(inventory, &key))
        }
        (InvalidBackend::BackendNotFound, Some(service)) => {
            let port = backend.port.unwrap_or_default();
            let problem =
                Problem::of(Code::UnknownBackendPort, field + ".port", format!("{name} has no port {port}"));
            problem.help(ports_of(service))
        }
        (InvalidBackend::InvalidKind, Some(_)) => {
            let message = format!("{name} is of type ExternalName, which cannot be a backend (GEP-1294)");
            Problem::of(Code::UnsupportedBackend, field + ".name", message)
        }
        (InvalidBackend::InvalidKind, None) => {
            let message = format!("{name} cannot be a backend: only Services can");
            Problem::of(Code::UnsupportedBackend, field + ".kind", message)
        }
        (InvalidBackend::UnsupportedProtocol, service) => {
            let declared = service.and_then(|service| service.port(backend.port.unwrap_or_default()));
            let declared = declared.map_or("", |port| port.protocol.name());
            let kind = route.metadata.id.kind;
            let message = format!("the appProtocol of {name} is {declared}, which does not fit a {kind}");
            Problem::of(Code::BackendProtocol, field + ".port", message)
        }
    }
}
