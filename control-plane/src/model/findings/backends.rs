//! Backends of routes that cannot be used, and rules that forward nothing.

use super::{add_grant, ports_of, where_is};
use crate::model::attachment::resolve;
use crate::model::backend_message::backend_message;
use crate::model::diagnostic::{Code, Problem};
use crate::model::inventory::{Inventory, Route, backend_key};
use crate::model::resource::Kind;
use crate::model::resource::reference::BackendRef;
use crate::model::resource::rule::{NamedBackend, RuleSpec};
use crate::model::route::InvalidBackend;

/// Returns the problems of a route's rules. A route without a Service as parent has none: its backends are not the mesh's.
pub(super) fn of(inventory: &Inventory, route: Route<'_>) -> Vec<Problem> {
    // With the wrong group too: once that is corrected, the same backends are resolved.
    let parents: Vec<_> = route.spec.parents.0.iter().filter(|parent| &*parent.kind.0 == "Service").collect();
    if parents.is_empty() {
        return Vec::new();
    }
    let invalid = |backend: NamedBackend<'_>, field: String| {
        let fails = |parent| resolve(inventory, route, &route.parent(parent), backend).err();
        let why = parents.iter().copied().find_map(fails)?;
        Some(problem(inventory, route, backend.reference, field, why))
    };
    let mut problems = Vec::new();
    if route.spec.rules.is_empty() {
        problems.push(Problem::of(Code::NoBackends, "spec", "has no rules: it routes nothing"));
    }
    for (at, rule) in route.spec.rules.iter().enumerate() {
        let field = format!("spec.rules[{at}]");
        let backends = rule.backends.iter().enumerate();
        problems.extend(backends.filter_map(|(at, backend)| {
            invalid((&backend.reference).into(), format!("{field}.backendRefs[{at}]"))
        }));
        let mirrors = rule.filters.mirrors.iter();
        problems.extend(
            mirrors.filter_map(|mirror| invalid((&mirror.backend).into(), format!("{field}.filters"))),
        );
        let auth = rule.filters.external_auth.iter();
        problems.extend(auth.filter_map(|auth| invalid(auth.named(), format!("{field}.filters"))));
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
    let message = backend_message(inventory, route, backend, why);
    let (code, of, help) = match (why, inventory.service(&key)) {
        (InvalidBackend::RefNotPermitted, _) => {
            let (kind, own) = (route.metadata.id.kind, &route.metadata.id.namespace);
            (
                Code::BackendNotPermitted,
                "",
                Some(add_grant(kind, own, (Kind::Service, &key.namespace, &key.name))),
            )
        }
        (InvalidBackend::BackendNotFound, None) => (Code::UnknownBackend, ".name", where_is(inventory, &key)),
        (InvalidBackend::BackendNotFound, Some(service)) => {
            (Code::UnknownBackendPort, ".port", Some(ports_of(service)))
        }
        (InvalidBackend::InvalidKind, Some(_)) => (Code::UnsupportedBackend, ".name", None),
        (InvalidBackend::InvalidKind, None) => (Code::UnsupportedBackend, ".kind", None),
        (InvalidBackend::UnsupportedProtocol, _) => (Code::BackendProtocol, ".port", None),
    };
    let problem = Problem::of(code, field + of, message);
    match help {
        Some(help) => problem.help(help),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use crate::model::mesh_builder::MeshBuilder;
    use crate::model::mesh_builder::testing::{route, service};

    #[test]
    fn the_service_of_external_authorization_is_checked() {
        let auth = "protocol: GRPC, grpc: {}, backendRef: {name: auht, port: 9000}";
        let rule = format!(
            "{{filters: [{{type: ExternalAuth, externalAuth: {{{auth}}}}}], backendRefs: [{{name: cart, port: 80}}]}}"
        );
        let mut builder = MeshBuilder::default();
        builder.with(&[
            &service("cart", 80, "http"),
            &service("auth", 9000, "grpc"),
            &route("HTTPRoute", "r", "name: cart", &rule),
        ]);
        let findings = builder.findings();
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!(finding.problem.field, "spec.rules[0].filters.name");
        assert_eq!(finding.problem.help.as_deref(), Some("did you mean auth?"));
    }
}
